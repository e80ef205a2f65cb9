import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import KeySignature, Note, Score, Tempo, Track

from amt_jax.errors import MidiError
from amt_jax.music import features, standard
from tests.music_files import tune

# One octave, the tonic and the fifth held longest.
SCALES = {"major": [0, 2, 4, 5, 7, 9, 11], "minor": [0, 2, 3, 5, 7, 8, 10]}


def scale(tonic: int, mode: str, base: int = 60) -> Score:
    score = Score(480)
    melody, drums = Track(), Track(is_drum=True)
    for index, step in enumerate(SCALES[mode]):
        melody.notes.append(Note(index * 960, {0: 900, 7: 600}.get(step, 200), base + tonic + step, 80))
        drums.notes.append(Note(index * 960, 100, 36, 80))
    score.tracks.extend([melody, drums])
    score.key_signatures.append(KeySignature(0, (7 * (tonic + (3 if mode == "minor" else 0)) + 5) % 12 - 5, 0))
    return score


def key_of(score: Score) -> str:
    return features.features(score).key


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", range(12))
def test_every_key_comes_to_c_major_or_a_minor(tonic, mode):
    score = scale(tonic, mode)
    assert key_of(score) == f"{features.PITCH_CLASSES[tonic]} {mode}"
    moved, shift = standard.in_standard_key(score)
    assert key_of(moved) == {"major": "C major", "minor": "A minor"}[mode]
    assert -6 <= shift <= 5
    assert [note.pitch for note in moved.tracks[0].notes] == [note.pitch + shift for note in score.tracks[0].notes]
    assert {note.pitch for note in moved.tracks[1].notes} == {36}  # drums stay
    assert [each.key for each in moved.key_signatures] == [0]  # neither key has an accidental


def test_pitches_stay_within_what_midi_has():
    moved, shift = standard.in_standard_key(scale(3, "major", base=0))
    assert shift == -3
    moved, shift = standard.in_standard_key(scale(1, "major", base=-1))  # B... of octave -1: 1 down would be -1
    assert min(note.pitch for note in moved.tracks[0].notes) >= 0
    assert key_of(moved) == "C major"
    wide = scale(1, "major")
    wide.tracks[0].notes.extend([Note(0, 1, 0, 80), Note(0, 1, 127, 80)])
    with pytest.raises(MidiError, match="cannot be transposed"):
        standard.in_standard_key(wide)


def test_drums_have_no_key():
    score = Score(480)
    score.tracks.append(Track(is_drum=True))
    score.tracks[0].notes.append(Note(0, 100, 36, 80))
    assert standard.in_standard_key(score) == (score, 0)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(20, 300), st.lists(st.tuples(st.integers(0, 20_000), st.integers(30, 300))))
def test_one_tempo_leaves_every_note_on_its_beat(seed, tempo, changes):
    score = tune(seed, 30)
    score.tempos.extend([Tempo(time, bpm) for time, bpm in changes])
    made = standard.at_tempo(score, tempo)
    before, after = features.Notes.of(score), features.Notes.of(made)
    np.testing.assert_array_equal(before.start, after.start)
    np.testing.assert_array_equal(before.end, after.end)
    np.testing.assert_allclose(after.onset, after.start / 480 * 60 / tempo, rtol=1e-4)
    assert features.tempo(made, made.end()) == pytest.approx(tempo, rel=1e-4)
