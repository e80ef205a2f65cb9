import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.text import understanding, vocabulary
from amt_jax.text.understanding import understand, understand_all
from amt_jax.text.vocabulary import GENRE, INSTRUMENT, LABELS, MOOD

ROOT = Path(__file__).parents[2]
LABELLED = Path(__file__).parent / "labelled.tsv"
WORDS = [
    "no",
    "not",
    "sad",
    "piano",
    ",",
    "and",
    "or",
    ".",
    "A",
    "minor",
    "120",
    "bpm",
    "-",
    "🎷",
    "in",
    "key of",
    "C #",
]
COLUMNS = {"genres": GENRE, "moods": MOOD, "instruments": INSTRUMENT}


def labelled(split: str) -> list[dict[str, str]]:
    with LABELLED.open(encoding="utf-8", newline="") as lines:
        return [row for row in csv.DictReader(lines, delimiter="\t") if row["split"] == split]


def found(text: str) -> dict[str, set[str]]:
    """What is understood, as the labelled set's columns have it."""
    understood = understand(text)
    values = {column: set(understood.values(label)) for column, label in COLUMNS.items()}
    negated = set().union(*(understood.values(label, negated=True) for label in LABELS))
    return values | {"negated": negated}


# The rules and words were made with the sentences called dev in sight. Of those called held the first 32 were written
# before anything was run, and scored 1.00 / 0.96 (precision / recall) for genres, 0.97 / 0.94 for moods, 0.98 / 1.00
# for instruments and 1.00 / 0.90 for negations before two things that they showed were put right.
@pytest.mark.parametrize("split", ["dev", "held"])
def test_entities_of_labelled_sentences(split, record_property):
    hits, extra, missing = dict.fromkeys([*COLUMNS, "negated"], 0), {}, {}
    for row in labelled(split):
        for column, values in found(row["text"]).items():
            wanted = set(filter(None, (row[column] or "").split(",")))
            hits[column] += len(values & wanted)
            extra.setdefault(column, []).extend((row["text"], value) for value in values - wanted)
            missing.setdefault(column, []).extend((row["text"], value) for value in wanted - values)
    for column, count in hits.items():
        precision, recall = count / (count + len(extra[column])), count / (count + len(missing[column]))
        record_property(f"{split} {column}", f"precision {precision:.2f} recall {recall:.2f}")
        assert precision >= 0.95, extra[column]
        assert recall >= 0.92, missing[column]


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("no drums", [], ["drums"]),
        ("piano, no drums, guitar", ["piano", "guitar"], ["drums"]),
        ("without drums, bass or guitar", [], ["drums", "bass", "guitar"]),
        ("no drums and a piano", ["piano"], ["drums"]),
        ("without a guitar and a piano", [], ["guitar", "piano"]),
        ("no drums but piano", ["piano"], ["drums"]),
        ("don't use a flute. Use strings.", ["strings"], ["flute"]),
        ("violin instead of cello", ["violin"], ["cello"]),
        ("drum-free, pianoless, with organ", ["organ"], ["drums", "piano"]),
        ("not only harp but also flute", ["harp", "flute"], []),
        ("neither trumpet nor trombone", [], ["trumpet", "trombone"]),
        ("neither trumpet, tuba nor trombone", [], ["trumpet", "tuba", "trombone"]),
        ("no guitar? yes, guitar", ["guitar"], ["guitar"]),
        ("the drums should be absent", [], ["drums"]),
        ("a calm waltz for piano, drums and the bass absent", ["piano"], ["drums", "bass"]),
        ("strings with piano; the guitar must be left out", ["strings", "piano"], ["guitar"]),
        ("Drums shouldn't be heard. A flute should", ["flute"], ["drums"]),
        ("drums should not be absent", ["drums"], []),
        ("flute, absent of drums", ["flute"], ["drums"]),
        ("absent", [], []),
    ],
)
def test_negation(text, wanted, unwanted):
    understood = understand(text)
    assert sorted(understood.values(INSTRUMENT)) == sorted(wanted)
    assert sorted(understood.values(INSTRUMENT, negated=True)) == sorted(unwanted)


def test_confidence_is_of_the_name_its_other_forms_and_slips():
    exact, form, slip = understand("sad, melancholy, agressive").entities
    assert (exact.value, exact.confidence) == ("sad", 1.0)
    assert (form.value, form.words, form.confidence) == ("melancholic", "melancholy", 0.9)
    assert slip.value == "aggressive"
    assert 0.9 * vocabulary.LIKENESS <= slip.confidence < 0.9


def test_words_that_only_look_like_words_of_music_are_none():
    text = "recorded american harmonic concert, matching electron related minutes; summer holidays likely placed"
    assert understand(text).entities == ()


def test_the_longest_phrase_wins_and_hyphens_and_case_do_not_matter():
    assert understand("Drum and Bass").values(GENRE) == ("drum and bass",)
    assert understand("drums and bass").values(INSTRUMENT) == ("drums", "bass")
    assert understand("bass clarinet and bass drum").values(INSTRUMENT) == ("clarinet", "drums")
    assert understand("bass and clarinet").values(INSTRUMENT) == ("bass", "clarinet")
    assert understand("HIP-HOP").values(GENRE) == understand("hiphop").values(GENRE) == ("hip hop",)
    assert [each.words for each in understand("an electric-guitar").entities] == ["electric guitar"]


@pytest.mark.parametrize(
    ("text", "tempo", "bpm", "density"),
    [
        ("60 bpm", "slow", 60.0, ""),
        ("a tempo of about 132", "fast", 132.0, ""),
        ("100 beats per minute, busy", "moderate", 100.0, "dense"),
        ("a slow piece, sparse", "slow", None, "sparse"),
        ("at a moderate tempo, moderately dense", "moderate", None, "moderate"),
        ("Allegro vivace", "fast", None, ""),
        ("not too fast, not dense", "", None, ""),
        ("Opus 120", "", None, ""),
        ("000 bpm, I <3 60 bpm > 70", "slow", 60.0, ""),
        ("slow tempo, 12 bar blues", "slow", None, ""),
        ("a fast tempo 12-bar blues, 29 bpm", "fast", None, ""),
        ("tempo: 32 bars of jazz at 30 bpm", "slow", 30.0, ""),
        ("not at 120 bpm but at 90 bpm", "moderate", 90.0, ""),
        ("no drums at 90 bpm", "moderate", 90.0, ""),
    ],
)
def test_tempo_and_density(text, tempo, bpm, density):
    understood = understand(text)
    assert (understood.tempo, understood.bpm, understood.density) == (tempo, bpm, density)


@pytest.mark.parametrize(
    ("text", "key", "mode"),
    [
        ("not in a minor key", "", ""),
        ("a sad waltz, not in A minor", "", ""),
        ("not in A minor but in C♯ major", "C# major", "major"),
        ("avoid minor chords; in B♭", "Bb", ""),
        ("no drums in A-minor", "A minor", "minor"),
        ("major, not minor", "", "major"),
    ],
)
def test_keys_that_are_wanted(text, key, mode):
    understood = understand(text)
    assert (understood.key, understood.mode) == (key, mode)


def test_emotion_is_that_of_the_moods_that_are_wanted():
    sad, happy, neither = understand("sad"), understand("happy, not sad"), understand("piano, not sad")
    assert (sad.valence, sad.arousal) == (-0.8, -0.4)
    assert (happy.valence, happy.arousal) == (0.9, 0.4)
    assert (neither.valence, neither.arousal) == (0.0, 0.0)


@pytest.mark.parametrize("text", ["", "   \n", "12345", "!?", "\x00\u200b"])
def test_a_text_without_words_says_nothing(text):
    understood = understand(text)
    assert not understood.says_something
    assert understood.language == ""
    assert understood.keywords == ()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("ein trauriges Klavierstück mit Geige und langsamem Tempo", "de"),
        ("une chanson triste au piano", "fr"),
        ("Música alegre con guitarra y piano", "es"),
        ("грустная музыка для фортепиано", "ru"),
        ("悲しいピアノの曲", "ja"),
        ("sad piano", "en"),
        ("Gymnopédie No. 1", "en"),
    ],
)
def test_another_language_is_named_and_not_understood(text, language):
    understood = understand(text)
    assert understood.language == language
    assert understood.says_something == (text == "sad piano")


def test_emoji():
    understood = understand("👍🎷😢❤️👩‍🎤")
    assert understood.values(INSTRUMENT) == ("saxophone",)
    assert understood.values(MOOD) == ("sad", "romantic")


def test_a_whole_name_can_be_a_genre():
    assert understanding.genre("Bossa_Nova") == "bossa nova"
    assert understanding.genre("House of the Rising Sun") == ""


def test_cleaning_and_sentences():
    assert understand("<b>\uff2aazz</b>\u00a0 see https://a.b/rock [12]\u200b\n now").text == "Jazz see now"
    assert understanding.sentences("A waltz. It is slow!  Yes") == ["A waltz.", "It is slow!", "Yes"]


def test_long_texts_are_quick():
    start = time.perf_counter()
    assert "drums" in understand("no drums, guitar or sad piano and the violin " * 1250).values(
        INSTRUMENT, negated=True
    )
    understand("no " * 10_000)
    for text in ("blorp ", "🎷", "\ufdfa"):  # the last is eighteen characters in NFKC
        understand(text * 300_000)
    assert time.perf_counter() - start < 20  # a fraction of a second here; without bounds, minutes


def test_thousands_of_captions_are_understood_in_seconds():
    captions = [f"A melancholic jazz ballad number {i} with piano and saxophone, no drums" for i in range(2000)]
    understand("warm up")
    start = time.perf_counter()
    understood = list(understand_all(captions))
    assert len(understood) / (time.perf_counter() - start) > 250  # about 10,000 here
    assert understood[7] == understand(captions[7])


@settings(max_examples=150, deadline=None)
@given(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_is_survived(text):
    understood = understand(text)
    assert -1 <= understood.valence <= 1
    assert all(0 < each.confidence <= 1 for each in understood.entities)
    assert understand(text) == understood


def test_a_trained_pipeline_gives_the_keywords_where_it_is_installed(tmp_path):
    # A package as spaCy's are installed, that knows two words.
    package = tmp_path / understanding.TRAINED
    package.mkdir()
    (package / "__init__.py").write_text(
        "import spacy\n"
        "def load(**wanted):\n"
        "    language = spacy.blank('en')\n"
        "    rules = language.add_pipe('attribute_ruler')\n"
        "    rules.add([[{'LOWER': 'rivers'}]], {'LEMMA': 'river', 'POS': 'NOUN'})\n"
        "    rules.add([[{'LOWER': 'wandering'}]], {'LEMMA': 'wander', 'POS': 'VERB'})\n"
        "    return language\n"
    )
    information = tmp_path / f"{understanding.TRAINED}-3.8.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {understanding.TRAINED}\nVersion: 3.8.0\n")
    code = (
        "from amt_jax.text.understanding import understand; print(understand('wandering rivers, sad piano').keywords)"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "('river', 'sad', 'piano')"


def test_says_how_to_install_spacy():
    code = (
        "import sys; sys.modules['spacy'] = None\nfrom amt_jax.text.understanding import understand; understand('jazz')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "UserError" in result.stderr
    assert "amt_jax[words]" in result.stderr
