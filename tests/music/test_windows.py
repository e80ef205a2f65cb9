import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import ControlChange, KeySignature, Note, PitchBend, Score, Tempo, TimeSignature, Track

from amt_jax.music import features, windows


@st.composite
def scores(draw) -> Score:
    """Scores of two tracks with changes of tempo, as a MIDI file gives them."""
    score = Score(draw(st.sampled_from([1, 24, 480])))
    ticks = st.integers(0, 40 * score.ticks_per_quarter)
    for time in draw(st.lists(ticks, max_size=4)):
        score.tempos.append(Tempo(time, draw(st.integers(30, 300))))
    for drum in (False, True):
        track = Track(program=9, is_drum=drum)
        for _ in range(draw(st.integers(0, 30))):
            track.notes.append(Note(draw(ticks), draw(st.integers(1, 1000)), draw(st.integers(0, 127)), 64))
        if len(track.notes):
            score.tracks.append(track)
    return Score.from_midi(score.dumps_midi())


def rows(score: Score, ticks: int = 0) -> list[tuple]:
    """Every note as (start, pitch, velocity, drum, end), `ticks` later."""
    return sorted(
        (note.start + ticks, note.pitch, note.velocity, track.is_drum, note.end + ticks)
        for track in score.tracks
        for note in track.notes
    )


@settings(deadline=None, max_examples=100)
@given(scores(), st.sampled_from([0.5, 3.0, 30.0]))
def test_windows_end_to_end_are_the_score(score, seconds):
    ticks, counts = windows.cuts(score, seconds)
    again = []
    for number, window in windows.windows(score, seconds):
        assert window.note_num() == counts[number]
        assert window.end() <= ticks[number + 1] - ticks[number]
        again += rows(window, int(ticks[number]))
        # Times of a window are those of the score, but for the cut, which is on a tick.
        whole, part = features.Notes.of(score), features.Notes.of(window)
        inside = (whole.start >= ticks[number]) & (whole.start < ticks[number + 1])
        begin = features.seconds_at(score, ticks[number : number + 1])
        np.testing.assert_allclose(part.onset + begin, whole.onset[inside], atol=1e-6)
    ends = np.append(ticks[1:], 0)
    expected = [
        (start, *rest, min(end, int(ends[np.searchsorted(ticks, start, side="right") - 1])))
        for start, *rest, end in rows(score)
    ]
    assert sorted(again) == sorted(expected)


def test_what_holds_at_a_cut_holds_in_the_window():
    score, track = Score(480), Track(program=40)
    score.tempos.extend([Tempo(0, 60), Tempo(1440, 120)])  # 120 from second 3 on
    score.time_signatures.append(TimeSignature(0, 3, 4))
    score.key_signatures.append(KeySignature(0, 2, 0))
    track.notes.extend([Note(0, 480, 60, 80), Note(1000, 3000, 62, 80), Note(2000, 100, 64, 80)])
    track.controls.extend([ControlChange(0, 7, 90), ControlChange(10, 7, 100), ControlChange(20, 64, 127)])
    track.controls.append(ControlChange(2100, 7, 50))
    track.pitch_bends.extend([PitchBend(5, 100), PitchBend(30, -200)])
    score.tracks.append(track)
    (_, first), (number, second) = windows.windows(score, 3.5)
    assert number == 1
    assert rows(first) == [(0, 60, 80, False, 480), (1000, 62, 80, False, 1920)]
    assert rows(second) == [(80, 64, 80, False, 180)]
    assert [(each.time, round(each.qpm)) for each in second.tempos] == [(0, 120)]
    assert [(each.time, each.numerator, each.denominator) for each in second.time_signatures] == [(0, 3, 4)]
    assert [(each.time, each.key) for each in second.key_signatures] == [(0, 2)]
    controls = [(each.time, each.number, each.value) for each in second.tracks[0].controls]
    assert controls == [(0, 7, 100), (0, 64, 127), (180, 7, 50)]
    assert [(each.time, each.value) for each in second.tracks[0].pitch_bends] == [(0, -200)]
    assert second.tracks[0].program == 40


@pytest.mark.parametrize(("least", "numbers"), [(1, [0, 2]), (2, [2]), (4, [])])
def test_windows_with_too_few_notes_are_left_out(least, numbers):
    score = Score(480)
    score.tracks.append(Track(notes=None))
    score.tracks[0].notes.extend([Note(480 * beat, 100, 60, 80) for beat in (0, 4, 5, 5)])  # seconds 0, 2, 2.5, 2.5
    assert windows.cuts(score, 1.0)[1].tolist() == [1, 0, 3]
    assert [number for number, _ in windows.windows(score, 1.0, least)] == numbers


def test_no_notes_no_windows():
    assert list(windows.windows(Score(480), 30.0)) == []
