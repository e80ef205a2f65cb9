"""Portrait: what one MIDI file's bytes say about its music. A pure function for a process pool."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
from symusic import Score

from amt_jax.music import features, instruments, midi, standard, windows
from amt_jax.music.features import Notes
from data_prep import files

# Raise it when the same bytes give another portrait: work of another version is not continued.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Making:
    """What becomes of the music before it is looked at; with none of these it stays as it is.

    Attributes:
      standardise_key: transpose to C major or A minor.
      standardise_tempo: the one tempo of all music, in quarter notes a minute; 0 keeps the tempos.
      window_seconds: length of windows, measured after the two above; 0 does not cut.
      min_notes: windows with fewer are dropped.
    """

    standardise_key: bool = False
    standardise_tempo: float = 0.0
    window_seconds: float = 0.0
    min_notes: int = 1

    @property
    def changes(self) -> bool:
        """Whether music is made that has to be written."""
        return bool(self.standardise_key or self.standardise_tempo or self.window_seconds)


@dataclasses.dataclass(frozen=True)
class Part:
    """One line of the metadata: its facts and, where music was made, that as a MIDI file; a window has a number."""

    facts: dict[str, Any]
    midi: bytes = b""
    number: int | None = None


@dataclasses.dataclass(frozen=True)
class Portrait:
    """What was found, or the reason why a file is no music.

    Attributes:
      sha256: of the file's bytes; empty if it could not be read.
      parts: one, or as many as there are windows.
      dropped: windows with too few notes.
      reason: one of a fixed set of short phrases if it was refused, else empty.
      details: what exactly was wrong.
    """

    sha256: str = ""
    parts: tuple[Part, ...] = ()
    dropped: int = 0
    reason: str = ""
    details: str = ""


def from_file(path: str, making: Making) -> Portrait:
    """Reads a file and looks at its music; never raises for a bad file."""
    try:
        data = files.read(path)
    except midi.MidiError as error:
        return Portrait(reason=error.reason, details=error.details)
    return from_bytes(data, making)


def from_bytes(data: bytes, making: Making) -> Portrait:
    """Looks at a MIDI file's content; never raises for bad content."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        score = midi.load_bytes(data)
        if not making.changes:
            return Portrait(sha256, (Part(facts(score)),))
        shift, tempo = 0, {}
        if making.standardise_key:
            score, shift = standard.in_standard_key(score)
        if making.standardise_tempo:
            tempo = {"original_tempo": round(features.tempo(score, score.end()), 2)}
            score = standard.at_tempo(score, making.standardise_tempo)
    except midi.MidiError as error:
        return Portrait(sha256, reason=error.reason, details=error.details)
    pieces, dropped = [(None, score)], 0
    if making.window_seconds:
        pieces = list(windows.windows(score, making.window_seconds, making.min_notes))
        dropped = len(windows.cuts(score, making.window_seconds)[1]) - len(pieces)
    moved = {"transposed": shift} if making.standardise_key else {}
    parts = []
    for number, piece in pieces:
        data = piece.dumps_midi()
        made = {"sha256": hashlib.sha256(data).hexdigest(), "start": round((number or 0) * making.window_seconds, 3)}
        parts.append(Part(facts(piece) | made | moved | tempo, data, number))
    return Portrait(sha256, tuple(parts), dropped)


def facts(score: Score) -> dict[str, Any]:
    """What a person would want to know of a score that has notes.

    Returns:
      duration (seconds from the first note's start to the last one's end), tempo (quarter notes a minute, mean), key
      ("A minor"; "" if only drums sound), time_signature ("4/4", the one that holds longest), instruments (labels, the
      one that sounds longest first), notes, density (notes a second), polyphony (see features.texture).
    """
    notes = Notes.of(score)
    pitched = ~notes.drum
    end, seconds = int(notes.end.max()), float(notes.offset.max() - notes.onset[0])
    weights = np.bincount(notes.pitch[pitched] % 12, (notes.end - notes.start)[pitched], minlength=12)
    return {
        "duration": round(seconds, 3),
        "tempo": round(features.tempo(score, end), 2),
        "key": features.key(weights)[0],
        "time_signature": features.time_signature(score, end),
        "instruments": instruments.labels(score),
        "notes": len(notes),
        "density": round(len(notes) / seconds, 3),
        "polyphony": features.texture(notes.onset[pitched], notes.offset[pitched], notes.pitch[pitched]),
    }
