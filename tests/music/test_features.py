"""Features on scores small enough to work out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Score, Tempo, TimeSignature, Track

from amt_jax.music.features import (
    Notes,
    bars,
    excerpt,
    features,
    groove_consistency,
    key,
    scale_consistency,
    seconds_at,
    texture,
    ticks_at,
    time_signature,
)

TPQ = 480


def make(notes, *, drums=(), tempos=(), signatures=()):
    """A score of (start beat, length in beats, pitch, velocity) notes."""
    score = Score(TPQ)
    for is_drum, part in ((False, notes), (True, drums)):
        track = Track("", 0, is_drum)
        for start, length, pitch, velocity in part:
            track.notes.append(Note(int(start * TPQ), int(length * TPQ), pitch, velocity))
        score.tracks.append(track)
    score.tempos.extend([Tempo(int(beat * TPQ), qpm) for beat, qpm in tempos])
    score.time_signatures.extend([TimeSignature(int(beat * TPQ), n, d) for beat, n, d in signatures])
    return score


C_MAJOR_SCALE = [(i, 1, pitch, 64) for i, pitch in enumerate([60, 62, 64, 65, 67, 69, 71, 72])]


def test_c_major_scale():
    found = features(make(C_MAJOR_SCALE))
    assert found.notes == 8
    assert found.seconds == pytest.approx(4.0)  # 8 beats at the default 120
    assert found.note_density == pytest.approx(2.0)
    assert found.scale_consistency == 1.0
    assert found.key == "C major"
    assert found.key_strength > 0.8
    assert found.polyphony == 1.0
    assert (found.pitch_low, found.pitch_high, found.pitch_range) == (60, 72, 12)
    assert found.tempo == pytest.approx(120)
    assert found.empty_beats == 0.0
    np.testing.assert_allclose(found.pitch_classes, np.array([2, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]) / 8)
    assert found.velocities[16] == 1.0
    assert found.velocity == 64


def test_chromatic_scale_is_in_no_scale():
    found = features(make([(i, 1, 60 + i, 64) for i in range(12)]))
    assert found.scale_consistency == pytest.approx(7 / 12)
    assert found.key == ""
    assert math.isnan(found.key_strength)


def test_minor_key_by_duration():
    found = features(make([(0, 4, 57, 80), (4, 2, 60, 80), (6, 3, 64, 80), (9, 1, 62, 80), (10, 1, 59, 80)]))
    assert found.key == "A minor"


@pytest.mark.parametrize("shift", range(-6, 7))
def test_key_and_scale_follow_transposition(shift):
    counts = np.array([5, 0, 2, 0, 3, 2, 0, 4, 0, 2, 0, 1.0])
    moved = np.roll(counts, shift)
    assert key(moved)[0] == ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"][shift % 12] + " major"
    assert key(moved)[1] == pytest.approx(key(counts)[1])
    assert scale_consistency(moved) == 1.0


def test_metronome_has_groove_one():
    clicks = [(beat, 0.25, 76, 100) for beat in range(16)]
    assert features(make([], drums=clicks)).groove_consistency == 1.0
    assert features(make(clicks)).groove_consistency == 1.0


def test_groove_counts_positions_that_differ():
    # Onsets in bar 1 on beats 0 1 2 3, in bar 2 on 0 and 2, in bar 3 none, bar 4 as bar 1: 2, 2 and 4 of 64 differ.
    notes = [(b, 1, 60, 64) for b in (0, 1, 2, 3, 4, 6, 12, 13, 14, 15)]
    assert features(make(notes)).groove_consistency == pytest.approx(1 - (2 + 2 + 4) / 3 / 64)


def test_one_bar_has_no_groove():
    assert math.isnan(features(make(C_MAJOR_SCALE[:4])).groove_consistency)
    assert math.isnan(groove_consistency(np.zeros(0, int), np.zeros(0, int)))


def test_polyphony_counts_only_sounding_time():
    chord = [(0, 2, 60, 64), (0, 2, 64, 64), (0, 1, 67, 64)]  # 5 note beats over 2 beats, then a rest, then 1 over 1
    assert features(make([*chord, (6, 1, 72, 64)])).polyphony == pytest.approx(6 / 3)


def test_empty_beats():
    # Sounding: beats 1, 2 (a long note), 5; empty: 3, 4. What comes before the first note does not count.
    assert features(make([(1, 2, 60, 64), (5.5, 0.5, 60, 64)])).empty_beats == pytest.approx(2 / 5)


def test_drums_have_no_pitch():
    found = features(make([], drums=C_MAJOR_SCALE))
    assert found.notes == 8
    assert found.pitch_classes.sum() == 0
    assert math.isnan(found.pitch_range)
    assert math.isnan(found.scale_consistency)
    assert math.isnan(found.polyphony)
    assert found.velocities.sum() == 1


@pytest.mark.parametrize("score", [Score(TPQ), make([])], ids=["no tracks", "empty tracks"])
def test_empty_score(score):
    found = features(score)
    assert found.notes == 0
    assert found.note_density == 0
    assert found.seconds == 0
    assert math.isnan(found.groove_consistency)
    assert math.isnan(found.empty_beats)
    assert excerpt(score, 10).note_num() == 0


def test_tempo_changes():
    score = make([(0, 8, 60, 64)], tempos=[(0, 60), (4, 240)])
    np.testing.assert_allclose(seconds_at(score, np.array([0, 2, 4, 8]) * TPQ), [0, 2, 4, 5])
    assert features(score).tempo == pytest.approx((60 + 240) / 2)
    # A tempo that starts late: 120 holds until then.
    np.testing.assert_allclose(seconds_at(make([], tempos=[(2, 60)]), np.array([2, 3]) * TPQ), [1, 2])


def test_seconds_agree_with_symusic():
    score = make(C_MAJOR_SCALE, tempos=[(0, 93.7), (1.5, 41), (3, 333)])
    np.testing.assert_allclose(Notes.of(score).onset, score.to("second").tracks[0].notes.numpy()["time"], atol=1e-5)


def test_bars_follow_time_signatures():
    score = make([(0, 13, 60, 64)], signatures=[(0, 4, 4), (4, 3, 4), (10, 6, 8)])
    np.testing.assert_array_equal(bars(score) / TPQ, [0, 4, 7, 10, 13])


def test_excerpt_keeps_the_notes_that_start_in_it():
    # 0, 1, 2 and 3 seconds after the first note.
    score = make([(2, 1, 60, 64), (4, 8, 62, 64), (6, 1, 64, 64), (8, 1, 65, 64)])
    assert [note.pitch for note in excerpt(score, 2.0).tracks[0].notes] == [60, 62]
    assert excerpt(score, 2.0).tracks[0].notes[1].duration == 8 * TPQ
    assert excerpt(score, 100.0) is score


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 64), st.integers(0, 8), st.integers(0, 127), st.integers(1, 127)),
        min_size=1,
        max_size=40,
    ),
    st.randoms(),
)
def test_features_are_in_bounds_and_ignore_note_order(notes, random):
    found = features(make(notes))
    shuffled = list(notes)
    random.shuffle(shuffled)
    again = features(make(shuffled))
    for name in ("note_density", "scale_consistency", "groove_consistency", "empty_beats", "polyphony", "key_strength"):
        np.testing.assert_equal(getattr(found, name), getattr(again, name))
    assert found.pitch_classes.sum() == pytest.approx(1)
    assert found.velocities.sum() == pytest.approx(1)
    assert 7 / 12 <= found.scale_consistency <= 1
    assert math.isnan(found.groove_consistency) or 0 <= found.groove_consistency <= 1
    assert 0 <= found.empty_beats <= 1
    assert math.isnan(found.polyphony) or found.polyphony >= 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(10, 400)), max_size=5), st.lists(st.integers(0, 10_000)))
def test_ticks_are_found_again_by_their_seconds(tempos, ticks):
    score = Score(480)
    score.tempos.extend([Tempo(time, tempo) for time, tempo in tempos])
    assert ticks_at(score, seconds_at(score, np.array(ticks, np.int64))).tolist() == ticks


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], "4/4"),
        ([(0, 3, 4)], "3/4"),
        ([(0, 1, 4), (480, 6, 8)], "6/8"),
        ([(960, 3, 4)], "4/4"),  # it holds for the first half by the standard, and ties go to the first
        ([(5000, 3, 4)], "4/4"),  # after the end
        ([(0, 3, 4), (700, 2, 4), (1000, 3, 4)], "3/4"),
    ],
)
def test_the_time_signature_that_holds_longest(changes, expected):
    score = Score(480)
    score.time_signatures.extend([TimeSignature(*change) for change in changes])
    assert time_signature(score, 1920) == expected


def _texture(*notes: tuple[float, float, int]) -> str:
    onsets, offsets, pitch = (np.array(column) for column in zip(*sorted(notes), strict=True))
    return texture(onsets, offsets, pitch)


def test_textures():
    melody = [(beat, beat + 1.03, 72 + beat % 3) for beat in range(40)]  # legato
    hymn = [(beat + 0.01 * voice, beat + 1.0, 70 - 5 * voice) for beat in range(40) for voice in range(4)]
    chords = [(beat, beat + 4.0, pitch) for beat in range(0, 40, 4) for pitch in (48, 52, 55)]
    second_voice = [(beat + 0.5, beat + 1.5, 60 + beat % 2) for beat in range(40)]
    assert _texture(*melody) == "monophonic"
    assert _texture(*hymn) == "homophonic"
    assert _texture(*melody, *chords) == "homophonic"
    assert _texture(*melody, *second_voice) == "polyphonic"
    assert _texture(*melody, *hymn[:8]) == "monophonic"  # two chords in forty
    assert _texture((0.0, 1.0, 60)) == "monophonic"
    assert texture(np.zeros(0), np.zeros(0), np.zeros(0)) == ""
