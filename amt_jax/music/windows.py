"""Windows: a long score as short ones that do not overlap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from symusic import ControlChange, Note, PitchBend, Score, Track

from amt_jax.music.features import Notes, seconds_at, ticks_at


def cuts(score: Score, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Where to cut a score every `seconds`, and how many notes begin between two cuts.

    Returns:
      [W + 1] int64 ticks, the first 0, the last behind the last note's start, and [W] int64; [1] and [0] without notes.
    """
    notes = Notes.of(score)
    if not len(notes):
        return np.zeros(1, np.int64), np.zeros(0, np.int64)
    behind = seconds_at(score, notes.start[-1:] + 1)[0]
    ticks = ticks_at(score, np.arange(int(behind // seconds) + 2) * seconds)
    ticks = ticks[: np.searchsorted(ticks, notes.start[-1], side="right") + 1]
    return ticks, np.histogram(notes.start, ticks)[0]


def windows(score: Score, seconds: float, min_notes: int = 1) -> Iterator[tuple[int, Score]]:
    """Cuts a score every `seconds`, from tick 0; yields (number, window) for those in which `min_notes` or more begin.

    A note that crosses a cut ends there, and what is left of it is not struck again. Tempo, time signature, key,
    controllers and pitch bends that hold at the cut hold in the window from its start. Cuts do not wait for bar lines:
    the bars of a window count from its own start. Tracks that are silent in a window are left out of it.
    """
    ticks, counts = cuts(score, seconds)
    score = _settled(score)
    for number in np.flatnonzero(counts >= min_notes).tolist():
        yield number, _window(score, int(ticks[number]), int(ticks[number + 1]))


def _settled(score: Score) -> Score:
    """The score with the last of several changes at one tick, which is the one that holds; `clip` takes the first."""
    score = score.copy()
    for name in ("tempos", "time_signatures", "key_signatures"):
        setattr(score, name, list({change.time: change for change in getattr(score, name)}.values()))
    return score


def _window(score: Score, start: int, end: int) -> Score:
    """What begins in a score from tick `start` until before `end`, as a score of its own."""
    part = score.clip(start, end)
    tracks = []
    for track, whole in zip(part.tracks, score.tracks, strict=True):
        if not len(track.notes):
            continue
        notes = track.notes.numpy()
        notes["duration"] = np.minimum(notes["duration"], end - notes["time"])
        track.notes = Note.from_numpy(**notes, ttype="Tick")
        _carry(whole, track, start)
        tracks.append(track)
    part.tracks = tracks
    return part.shift_time(-start)


def _carry(whole: Track, part: Track, start: int) -> None:
    """Sets, at the start of a part, the controllers and the pitch bend as they were in the whole track."""
    controls = whole.controls.numpy()
    before = controls["time"] < start
    numbers, values = (controls[name][before][::-1] for name in ("number", "value"))
    numbers, last = np.unique(numbers, return_index=True)
    held = zip(numbers.tolist(), values[last].tolist(), strict=True)
    part.controls = [*(ControlChange(start, *each) for each in held), *part.controls]
    bends = whole.pitch_bends.numpy()
    if (before := bends["time"] < start).any():
        part.pitch_bends = [PitchBend(start, int(bends["value"][before][-1])), *part.pitch_bends]
