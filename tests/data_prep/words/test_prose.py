# ruff: noqa: RUF001  (letters of other languages that look like ours)
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.words.prose import english

ENGLISH = """
"Dancing Queen" is a Europop song by the Swedish group ABBA, the lead single from their fourth studio album, Arrival.
A melancholic jazz ballad with piano and saxophone.
calm piano
Sad song
upbeat pop song
Fast techno
A gentle waltz
Slow guitar solo
Für Elise is a composition by Ludwig van Beethoven.
La Bamba is a Mexican folk song.
La Mer is a song by Charles Trenet.
Clair de lune is the third movement of the Suite bergamasque by Debussy.
"Non, je ne regrette rien" is a French song composed by Charles Dumont.
Recorded live in Tokyo, 2009.
Lyrics by John Smith.
Dark ambient drone
Lo-fi hip hop beat, 80 BPM
Prelude in C major
An allegro in D minor for strings and harpsichord
De Camptown Races is a minstrel song.
Eine kleine Nachtmusik is a 1787 composition.
jazz
Energetic drums and bass
Track 3 from the EP.
'99 Luftballons' is a song by the German band Nena.
Despacito is a song by Luis Fonsi
Piano Sonata No. 14 in C-sharp minor, Op. 27, No. 2
Written in 1978 by two brothers.
""".strip().splitlines()
OTHER = """
Das Lied wurde im Sommer geschrieben und erzählt von der Liebe.
Ein ruhiges Klavierstück.
Diese Aufnahme entstand in Berlin.
La chanson parle de la mer et du vent.
Une ballade mélancolique au piano.
Enregistré en direct à Paris.
Esta canción fue escrita en Madrid por un amigo.
Una balada triste con piano
Questa canzone parla di un amore perduto.
Un brano lento per pianoforte.
Uma canção triste sobre o mar.
Een rustig pianostuk uit Amsterdam.
Den här låten skrevs i Stockholm.
Ta piosenka jest o miłości.
Эта песня о любви.
これは夏の歌です。
这首歌是关于爱情的。
이 노래는 사랑에 관한 것이다
Αυτό το τραγούδι είναι για την αγάπη
هذه الأغنية عن الحب
Tämä laulu kertoo rakkaudesta.
Bu şarkı aşk hakkında.
Musik: Johann Schmidt, Text: Anna Meier
Schnell und fröhlich
Musique lente
Guitarra y voz
歌
ᎠᏂᎩᏚᏩᎩ ᎤᏃᏴᎩ ᎧᏃᎩᏛ
""".strip().splitlines()


@pytest.mark.parametrize("line", ENGLISH)
def test_english_lines_stay(line):
    assert english(line, 100) == (line, "")


@pytest.mark.parametrize("line", OTHER)
def test_lines_of_other_languages_go(line):
    assert english(line, 100) == ("", "not English")


def test_only_english_lines_are_kept_and_joined():
    text = f"{ENGLISH[0]}\n{OTHER[0]}\r\n\n{ENGLISH[1]}\n{OTHER[15]}"
    assert english(text, 100) == (f"{ENGLISH[0]} {ENGLISH[1]}", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no text"),
        (" \n\t\u200b", "no text"),
        ("😀🎹 12:34\n***", "no letters"),
        ("Die Musik ist laut und schön.\nElle est très belle.", "not English"),
    ],
)
def test_what_cannot_be_used_has_a_reason(text, reason):
    assert english(text, 10) == ("", reason)


def test_unicode_is_normalised():
    assert english("A ﬁne\u00a0waltz\tin Ｃ\u202e major\x07.", 10) == ("A fine waltz in C major.", "")


def test_a_text_ends_with_a_sentence():
    text = "The Piano Sonata No. 14 by J. S. Bach (not him!) is slow. It is sad. Dr. Who liked it, they say."
    assert english(text, 14)[0] == "The Piano Sonata No. 14 by J. S. Bach (not him!) is slow."
    assert english(text, 15)[0] == "The Piano Sonata No. 14 by J. S. Bach (not him!) is slow."
    assert english(text, 17)[0].endswith("It is sad.")
    assert english(text, 100)[0] == text
    assert english(text, 9)[0] == "The Piano Sonata No. 14 by J. S. Bach"
    assert english(text, 5)[0] == "The Piano Sonata No. 14"


def test_ten_thousand_words_are_cut():
    assert len(english("This is a slow song about the sea. " * 1250, 150)[0].split()) == 144


@given(st.text(), st.integers(1, 50))
def test_any_text_becomes_one_clean_line_or_none(text, max_words):
    cleaned, reason = english(text, max_words)
    assert bool(cleaned) != bool(reason)
    assert len(cleaned.split()) <= max_words
    assert not [each for each in cleaned if unicodedata.category(each)[0] == "C"]
    assert " ".join(cleaned.split()) == cleaned
