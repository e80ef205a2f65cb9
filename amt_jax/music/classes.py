"""Classes: what a person calls a tempo or a density. Captions, wishes and evaluation all mean these."""

from __future__ import annotations

import math

# Quarter notes a minute. Adagio and slower lie below the first, Allegro and faster above the second; 120, which MIDI
# means where a file says nothing, is moderate.
SLOW_BELOW, FAST_ABOVE = 80.0, 120.0
# Notes a second, all instruments together. Of 3,245 folk tunes with chords, pop songs and classical piano pieces a
# sixth is sparse and three in ten are dense.
SPARSE_BELOW, DENSE_ABOVE = 5.0, 9.0


def tempo_class(bpm: float) -> str:
    """slow, moderate or fast: the class of a tempo in quarter notes a minute, rounded: MIDI writes 80 as 79.9998."""
    bpm = round(bpm)
    return "slow" if bpm < SLOW_BELOW else "fast" if bpm > FAST_ABOVE else "moderate"


def density_class(notes_per_second: float) -> str:
    """sparse, moderate or dense: the class of a density."""
    return "sparse" if notes_per_second < SPARSE_BELOW else "dense" if notes_per_second > DENSE_ABOVE else "moderate"


def emotion(mode: str, bpm: float | None, notes_per_second: float) -> tuple[float, float]:
    """Valence and arousal, -1 to 1, that a mode, a tempo and a density suggest.

    A heuristic: major and fast are heard as positive, fast and dense as aroused (Gabrielsson & Lindström 2010, "The
    role of structure in the musical expression of emotions"); the weights are our own judgement.

    Args:
      mode: "major", "minor" or "" for neither.
      bpm: None if unknown.
    """
    pace = _unit(math.log2(bpm / 100)) if bpm else 0.0
    density = _unit(math.log2(notes_per_second / 6.5)) if notes_per_second else -1.0
    valence = 0.5 * {"major": 1, "minor": -1}.get(mode, 0) + 0.2 * pace
    return valence, 0.6 * pace + 0.4 * density


def _unit(value: float) -> float:
    return min(max(value, -1.0), 1.0)
