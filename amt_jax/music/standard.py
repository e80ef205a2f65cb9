"""Scores brought to one key and one tempo, so that a model has less to learn."""

from __future__ import annotations

import numpy as np
from symusic import KeySignature, Score, Tempo

from amt_jax.errors import MidiError
from amt_jax.music.features import PITCH_CLASSES, Notes, key

_TONICS = {"major": 0, "minor": 9}


def in_standard_key(score: Score) -> tuple[Score, int]:
    """Transposes a score from its most likely key (see `features.key`) to C major or A minor, the shorter way.

    Drums stay. Key signatures move along. A score without a key stays as it is.

    Returns:
      The score and the semitones it was moved up, -6 to 5, an octave off where pitches would leave 0 to 127.
    Raises MidiError if they leave it either way.
    """
    notes = Notes.of(score)
    pitch = notes.pitch[~notes.drum]
    name, _ = key(np.bincount(pitch % 12, (notes.end - notes.start)[~notes.drum], minlength=12))
    if not name:
        return score, 0
    tonic, mode = name.split()
    near = (_TONICS[mode] - PITCH_CLASSES.index(tonic) + 6) % 12 - 6
    low, high = int(pitch.min()), int(pitch.max())
    fitting = [shift for shift in (near, near + 12, near - 12) if low + shift >= 0 and high + shift <= 127]
    if not fitting:
        raise MidiError("cannot be transposed", f"it has pitches {low} to {high}")
    shift = fitting[0]
    score = score.copy()
    for track in score.tracks:
        if not track.is_drum:
            track.shift_pitch(shift, inplace=True)
    # A signature counts sharps, flats below 0; a semitone up is seven fifths. Neither major nor minor: damage.
    score.key_signatures = [
        KeySignature(each.time, (each.key + 7 * shift + 5) % 12 - 5, each.tonality)
        for each in score.key_signatures
        if each.tonality in (0, 1)
    ]
    return score, shift


def at_tempo(score: Score, tempo: float) -> Score:
    """The score with every beat where it was and one tempo for all of it, `tempo` quarter notes a minute."""
    score = score.copy()
    score.tempos = [Tempo(0, tempo)]
    return score
