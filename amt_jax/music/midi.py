"""Guarded loading and saving of MIDI files."""

from __future__ import annotations

import os

from symusic import Score


class MidiError(ValueError):
    """The file is not usable music; the message says why."""


def load(path: str | os.PathLike) -> Score:
    """Loads a MIDI file; raises MidiError with a short reason if it is broken, empty or absurd."""
    try:
        score = Score(str(path))
    except Exception as error:
        raise MidiError(f"not a readable MIDI file: {error}") from None
    if not any(len(track.notes) for track in score.tracks):
        raise MidiError("no notes")
    return score


def save(score: Score, path: str | os.PathLike) -> None:
    """Writes `score` to `path`."""
    score.dump_midi(str(path))
