"""What a person hears in a score, as numbers: density, pitch, velocity, key, scale, groove, polyphony, tempo.

Dims: N notes, Q positions a bar.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
from symusic import Score

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
VELOCITY_BINS = 32  # bins of 4, one for each velocity token of the presets
BAR_POSITIONS = 64  # Q of Wu & Yang 2020
# Of `texture`: legato and rolled chords stay within SLACK seconds; notes looked at for one that still sounds.
SLACK, LONE, LOOK_BACK = 0.05, 0.15, 24
DEFAULT_TEMPO = 120.0  # quarter notes a minute, by the MIDI standard

# Probe-tone ratings of Krumhansl & Kessler 1982, as in Krumhansl 1990, "Cognitive Foundations of Musical Pitch", p. 30.
_MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
_MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])
_PROFILES = np.array([np.roll(profile, tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)])  # [24, 12]
_MAJOR_SCALE = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1], bool)


@dataclasses.dataclass(frozen=True)
class Notes:
    """Every note of a score, sorted by start and pitch; all arrays are [N].

    Attributes:
      start, end: ticks.
      onset, offset: seconds.
      pitch, velocity: MIDI numbers; the pitch of a drum names an instrument.
      drum: whether the note's track is percussion.
      track: index of the track.
    """

    start: np.ndarray
    end: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    drum: np.ndarray
    track: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of(cls, score: Score) -> Notes:
        tracks = [track.notes.numpy() for track in score.tracks]
        sizes = [len(notes["time"]) for notes in tracks]
        columns = {
            name: np.concatenate([np.zeros(0, np.int64)] + [notes[name].astype(np.int64) for notes in tracks])
            for name in ("time", "duration", "pitch", "velocity")
        }
        track = np.repeat(np.arange(len(tracks)), sizes)
        drum = np.repeat(np.array([track.is_drum for track in score.tracks], bool), sizes)
        order = np.lexsort((track, columns["pitch"], columns["time"]))
        start, duration, pitch, velocity = (column[order] for column in columns.values())
        end = start + duration
        onset, offset = seconds_at(score, start), seconds_at(score, end)
        return cls(start, end, onset, offset, pitch, velocity, drum[order], track[order])


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of one score. Those that need notes or pitches the score lacks are NaN (key: "").

    Attributes:
      seconds: from the first note's start to the last note's end.
      notes: number of notes, drums included.
      note_density: notes a second.
      pitch_classes: share of the notes a pitch class (C = 0), drums left out. [12], sums to 1, or to 0 without notes.
      velocities: share of the notes a velocity bin of 4. [VELOCITY_BINS], sums to 1, or to 0 without notes.
      velocity: mean velocity.
      pitch_low, pitch_high, pitch_range: lowest and highest pitch and their distance in semitones, drums left out.
      polyphony: mean number of notes that sound together while any sounds (MusPy, Dong et al. 2020), drums left out.
      tempo: quarter notes a minute, mean over the ticks up to the last note's end.
      key, key_strength: by `key`.
      scale_consistency: by `scale_consistency`.
      groove_consistency: by `groove_consistency`.
      empty_beats: share of the quarter-note beats in which nothing sounds (MusPy's empty beat rate).
    """

    seconds: float
    notes: int
    note_density: float
    pitch_classes: np.ndarray
    velocities: np.ndarray
    velocity: float
    pitch_low: float
    pitch_high: float
    pitch_range: float
    polyphony: float
    tempo: float
    key: str
    key_strength: float
    scale_consistency: float
    groove_consistency: float
    empty_beats: float


def features(score: Score) -> Features:
    """Computes every feature of a score in ticks; an empty score is fine."""
    notes = Notes.of(score)
    pitch = notes.pitch[~notes.drum]
    low, high = (float(pitch.min()), float(pitch.max())) if len(pitch) else (math.nan, math.nan)
    seconds = float(notes.offset.max() - notes.onset[0]) if len(notes) else 0.0
    # The key is heard by how long a pitch class sounds, as in Krumhansl 1990; the other histograms count notes.
    weights = np.bincount(pitch % 12, (notes.end - notes.start)[~notes.drum], minlength=12)
    name, strength = key(weights)
    return Features(
        seconds=seconds,
        notes=len(notes),
        note_density=len(notes) / seconds if seconds else 0.0,
        pitch_classes=_shares(pitch % 12, 12),
        velocities=_shares(notes.velocity * VELOCITY_BINS // 128, VELOCITY_BINS),
        velocity=float(notes.velocity.mean()) if len(notes) else math.nan,
        pitch_low=low,
        pitch_high=high,
        pitch_range=high - low,
        polyphony=polyphony(notes.start[~notes.drum], notes.end[~notes.drum]),
        tempo=tempo(score, int(notes.end.max()) if len(notes) else 0),
        key=name,
        key_strength=strength,
        scale_consistency=scale_consistency(np.bincount(pitch % 12, minlength=12)),
        groove_consistency=groove_consistency(notes.start, bars(score)),
        empty_beats=empty_beats(notes.start, notes.end, score.ticks_per_quarter),
    )


def seconds_at(score: Score, ticks: np.ndarray) -> np.ndarray:
    """Times of ticks by the score's tempos. [N] int64 -> [N] float64 seconds."""
    time, mspq = _tempos(score)
    elapsed = np.concatenate([[0.0], np.cumsum(np.diff(time) * mspq[:-1])])
    index = np.searchsorted(time, ticks, side="right") - 1
    return (elapsed[index] + (ticks - time[index]) * mspq[index]) / (score.ticks_per_quarter * 1e6)


def ticks_at(score: Score, seconds: np.ndarray) -> np.ndarray:
    """Ticks nearest to times by the score's tempos. [N] float64 seconds -> [N] int64"""
    time, mspq = _tempos(score)
    elapsed = np.concatenate([[0.0], np.cumsum(np.diff(time) * mspq[:-1])])
    passed = np.asarray(seconds) * (score.ticks_per_quarter * 1e6)
    index = np.searchsorted(elapsed, passed, side="right") - 1
    return np.rint(time[index] + (passed - elapsed[index]) / mspq[index]).astype(np.int64)


def bars(score: Score) -> np.ndarray:
    """Bar lines by the time signatures (4/4 until the first), the last bar's end included. [bars + 1] int64 ticks."""
    starts = np.asarray(score.get_downbeats(), np.int64)
    if not len(starts):
        return starts
    signature = [4, 4]
    for change in sorted(score.time_signatures, key=lambda change: change.time):
        if change.time <= starts[-1]:
            signature = [change.numerator, change.denominator]
    length = max(1, score.ticks_per_quarter * 4 * signature[0] // signature[1])
    return np.append(starts, starts[-1] + length)


def tempo(score: Score, end: int) -> float:
    """Mean tempo up to tick `end`, weighted by ticks, in quarter notes a minute; the first tempo if `end` is 0."""
    time, mspq = _tempos(score)
    spans = np.diff(np.append(np.minimum(time, end), end))
    return float(np.average(60e6 / mspq, weights=spans)) if end > 0 else float(60e6 / mspq[0])


def time_signature(score: Score, end: int) -> str:
    """The time signature that holds longest up to tick `end`, "4/4" where the score has none (the MIDI standard)."""
    changes = {0: (4, 4)} | {each.time: (each.numerator, each.denominator) for each in score.time_signatures}
    starts = sorted(changes)
    ticks = Counter()
    for start, stop in itertools.pairwise([*starts, max(end, starts[-1])]):
        ticks[changes[start]] += max(0, min(stop, end) - start)
    top, bottom = max(ticks, key=ticks.get)
    return f"{top}/{bottom}"


def key(weights: np.ndarray) -> tuple[str, float]:
    """The key whose profile correlates best with a pitch-class histogram, and the correlation.

    Krumhansl-Schmuckler algorithm with the Krumhansl-Kessler profiles (Krumhansl 1990, chapter 4).

    Args:
      weights: sounding time a pitch class, C first. [12]
    Returns:
      ("Eb minor", Pearson's r); ("", NaN) for a histogram without any shape.
    """
    if np.ptp(weights) == 0:
        return "", math.nan
    correlations = np.corrcoef(weights, _PROFILES)[0, 1:]
    best = int(correlations.argmax())
    return f"{PITCH_CLASSES[best % 12]} {('major', 'minor')[best // 12]}", float(correlations[best])


def scale_consistency(counts: np.ndarray) -> float:
    """Share of the notes in the scale that holds most of them (Mogren 2016, C-RNN-GAN; MusPy).

    The best of the 12 major scales; each natural minor scale has the notes of one of them.

    Args:
      counts: notes a pitch class. [12]
    """
    if not counts.sum():
        return math.nan
    return max(float(counts[np.roll(_MAJOR_SCALE, root)].sum()) for root in range(12)) / float(counts.sum())


def groove_consistency(starts: np.ndarray, bars: np.ndarray) -> float:
    """1 - mean Hamming distance of neighbouring bars' onset vectors (Wu & Yang 2020, The Jazz Transformer; MusPy).

    Args:
      starts: onsets of notes. [N] ticks
      bars: bar lines. [bars + 1] ticks
    Returns:
      0..1, a bar being BAR_POSITIONS bits; NaN with fewer than two bars from the first note's to the last's.
    """
    if not len(starts) or not len(bars):
        return math.nan
    bar = np.clip(np.searchsorted(bars, starts, side="right") - 1, 0, len(bars) - 2)
    position = (starts - bars[bar]) * BAR_POSITIONS // (bars[bar + 1] - bars[bar])
    grid = np.zeros((bar.max() - bar.min() + 1, BAR_POSITIONS), bool)
    grid[bar - bar.min(), np.minimum(position, BAR_POSITIONS - 1)] = True
    return 1.0 - float((grid[1:] != grid[:-1]).mean()) if len(grid) > 1 else math.nan


def polyphony(starts: np.ndarray, ends: np.ndarray) -> float:
    """Mean number of notes that sound together while any sounds. [N] sorted starts, [N] ends -> float."""
    covered = _union(starts, ends)
    sounding = float((covered[:, 1] - covered[:, 0]).sum())
    return float((ends - starts).sum()) / sounding if sounding else math.nan


def texture(onsets: np.ndarray, offsets: np.ndarray, pitch: np.ndarray) -> str:
    """How the voices move: "monophonic", "homophonic" or "polyphonic", "" without notes.

    Notes that begin within SLACK seconds of the note before begin together. Monophonic: at nine in ten beginnings one
    note begins and the one before has ended. Homophonic: more sounds at once, but what sounds below the highest note
    moves with it or in chords, as a hymn or a tune over chords does. Polyphonic: at more than LONE of the beginnings
    one note begins by itself below a note that goes on sounding: a lower voice with a rhythm of its own. This is a
    measure of rhythm alone: a broken chord under a long note counts as a voice. By it most fugues of Bach are
    polyphonic, most sonatas of Mozart homophonic.

    Args:
      onsets, offsets: of the pitched notes, sorted by onset. [N] seconds
      pitch: [N]
    """
    if not len(onsets):
        return ""
    first = np.flatnonzero(np.concatenate([[True], np.diff(onsets) > SLACK]))  # of those that begin together
    sizes = np.diff(np.append(first, len(onsets)))
    reach = np.maximum.accumulate(offsets)[first[1:] - 1]
    together = (sizes > 1) | np.concatenate([[False], reach > onsets[first[1:]] + SLACK])
    if together.mean() <= 0.1:
        return "monophonic"
    alone = first[sizes == 1]
    before = [np.concatenate([np.full(LOOK_BACK, -1.0), values])[:-1] for values in (offsets, pitch)]
    ends, above = (np.lib.stride_tricks.sliding_window_view(values, LOOK_BACK)[alone] for values in before)
    lower = ((ends > onsets[alone, None] + SLACK) & (above > pitch[alone, None])).any(axis=1)
    return "polyphonic" if lower.sum() > LONE * len(first) else "homophonic"


def empty_beats(starts: np.ndarray, ends: np.ndarray, ticks_per_quarter: int) -> float:
    """Share of quarter-note beats without sound, first note to last. [N] sorted starts, [N] ends -> float."""
    if not len(starts):
        return math.nan
    first = starts[0] // ticks_per_quarter
    stop = -(-np.maximum(ends, starts + 1) // ticks_per_quarter)  # one past the last beat of each note
    change = np.zeros(stop.max() - first + 1, np.int64)
    np.add.at(change, starts // ticks_per_quarter - first, 1)
    np.add.at(change, stop - first, -1)
    return float((np.cumsum(change)[:-1] == 0).mean())


def excerpt(score: Score, seconds: float) -> Score:
    """The notes that start within `seconds` of the first, at full length; the score itself if those are all."""
    notes = Notes.of(score)
    late = np.flatnonzero(notes.onset >= notes.onset[:1] + seconds)
    return score.clip(0, int(notes.start[late[0]])) if len(late) else score


def _tempos(score: Score) -> tuple[np.ndarray, np.ndarray]:
    """Ticks of the tempo changes, the first at 0, and microseconds a quarter note from there on."""
    changes = {0: 60e6 / DEFAULT_TEMPO} | {change.time: float(change.mspq) for change in score.tempos}
    time = np.array(sorted(changes), np.int64)
    return time, np.array([changes[tick] for tick in time.tolist()])


def _union(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The time covered by intervals sorted by start, as disjoint intervals. [N], [N] -> [M, 2]"""
    if not len(starts):
        return np.zeros((0, 2), np.int64)
    reach = np.maximum.accumulate(ends)
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    return np.stack([starts[first], reach[np.append(np.flatnonzero(first)[1:] - 1, len(starts) - 1)]], axis=1)


def _shares(values: np.ndarray, size: int) -> np.ndarray:
    """Share of the values each integer has. [N] -> [size]"""
    return np.bincount(values, minlength=size) / max(1, len(values))
