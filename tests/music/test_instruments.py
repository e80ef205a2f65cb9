import subprocess
import sys

import pytest
from miditok.constants import MIDI_INSTRUMENTS
from symusic import Note, Score, Track

from amt_jax.errors import UserError
from amt_jax.music import instruments


def test_every_program_has_one_label():
    programs = [program for label in instruments.LABELS for program in instruments.programs(label)]
    assert sorted(programs) == list(range(129))
    for label in instruments.LABELS:
        assert all(instruments.label(program) == label for program in instruments.programs(label))


def test_names_are_those_of_general_midi():
    """Against another table of the standard, by the first letters: the two abbreviate differently."""
    assert len(instruments.NAMES) == 128
    for ours, theirs in zip(instruments.NAMES[:120], MIDI_INSTRUMENTS, strict=False):
        assert ours[:3] == theirs["name"][:3].lower()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("piano", "piano"), ("Pianos", "piano"), ("sax", "saxophone"), ("Saxes", "saxophone"),
        ("electric guitar", "guitar"), ("Electric-Guitars", "guitar"), ("double bass", "bass"), ("basses", "bass"),
        ("percussion", "drums"), ("Drum kit", "drums"), ("drums", "drums"), ("strings", "strings"), ("harps", "harp"),
        ("synth_pad", "synth pad"), ("  french   horns ", "horn"), ("Acoustic Guitar (nylon)", "guitar"),
        ("brass", "brass"), ("voices", "choir"), ("FX 8 (sci-fi)", "synth pad"), ("fiddle", "violin"),
    ],
)  # fmt: skip
def test_finds_what_people_say(name, label):
    assert instruments.find(name) == label


def test_every_name_finds_its_own_program():
    for program, name in enumerate(instruments.NAMES):
        assert program in instruments.programs(name)


@pytest.mark.parametrize(("name", "nearest"), [("guittar", "guitar"), ("saxofone", "saxophone"), ("", "accordion")])
def test_an_unknown_instrument_is_told_the_nearest(name, nearest):
    with pytest.raises(UserError, match=nearest):
        instruments.find(name)


def test_labels_that_sound_the_longest_first():
    score = Score(480)
    for program, drum, lengths in [
        (0, False, [100]),
        (40, False, [500]),
        (33, True, [50]),
        (24, False, []),
        (1, False, [450]),
    ]:
        track = Track(program=program, is_drum=drum)
        track.notes.extend([Note(0, length, 60, 80) for length in lengths])
        score.tracks.append(track)
    assert instruments.labels(score) == ["piano", "violin", "drums"]
    assert instruments.labels(Score(480)) == []


def test_words_need_no_music_library():
    code = "import sys; import amt_jax.music.instruments; assert not {'symusic', 'numpy', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
