"""Piece: what one MIDI file's bytes become. A pure function, the same for a process pool and for a cluster."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np
from symusic import Score

from amt_jax.music import midi
from amt_jax.tokens.symbolic import SymbolicTokenizer
from data_prep import files
from data_prep.dataset import similarity

# Raise it when the same bytes become another piece: work and datasets of another version are not continued.
VERSION = 1
# Onsets and lengths are compared on a grid of this many steps a quarter note, whatever the files' resolutions.
GRID = 48


@dataclasses.dataclass(frozen=True)
class Finding:
    """A Piece without its music: all that decisions need. `tokens` counts ids before BPE."""

    piece: str = ""
    tokens: int = 0
    seconds: float = 0.0
    reason: str = ""
    details: str = ""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A usable piece, or the reason why it is none.

    Attributes:
      piece: hash of its notes, equal for equal music in different files.
      ids: token ids without BOS and EOS, before BPE. [T] uint16.
      signature: see similarity.signature.
      seconds: how long it lasts.
      reason: one of a fixed set of short phrases if it was refused, else empty; everything else is empty then.
      details: what exactly was wrong.
    """

    piece: str = ""
    ids: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint16))
    signature: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint32))
    seconds: float = 0.0
    reason: str = ""
    details: str = ""

    @property
    def finding(self) -> Finding:
        return Finding(self.piece, len(self.ids), self.seconds, self.reason, self.details)


def from_bytes(data: bytes, preset: str) -> Piece:
    """Turns a MIDI file's content into a piece, tokenized by `preset`; never raises for bad content."""
    try:
        score = midi.load_bytes(data)
    except midi.MidiError as error:
        return Piece(reason=error.reason, details=error.details)
    try:
        ids = _tokenizer(preset).encode(score)
    except midi.MidiError as error:
        return Piece(reason=error.reason, details=error.details)
    except Exception as error:  # MidiTok raises KeyError, ZeroDivisionError, OverflowError and others on odd files.
        return Piece(reason="cannot be tokenized", details=f"{type(error).__name__}: {error}"[:120])
    if not len(ids):
        return Piece(reason="no tokens", details="no note in the tokenizer's range")
    return Piece(content_hash(score), ids, similarity.signature(score), round(_seconds(score), 2))


def from_file(path: str, preset: str) -> Piece:
    """Reads a file and turns it into a piece; see `from_bytes`."""
    try:
        return from_bytes(files.read(path), preset)
    except midi.MidiError as error:
        return Piece(reason=error.reason, details=error.details)


def content_hash(score: Score) -> str:
    """A hash of the notes: pitch, onset, length, program, drum.

    Resolution, silence at the start, order and number of tracks, velocities, tempo and text do not matter.
    """
    parts = []
    for track in score.tracks:
        if len(track.notes):
            notes = track.notes.numpy()
            program = 128 if track.is_drum else track.program
            parts.append([notes["time"], notes["duration"], notes["pitch"], np.full(len(notes["pitch"]), program)])
    times, lengths, pitches, programs = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    quarter = score.ticks_per_quarter
    times, lengths = ((ticks * (2 * GRID) + quarter) // (2 * quarter) for ticks in (times - times.min(), lengths))
    # midi.load bounds all four: 15 bits of quarter notes times GRID, 7 bits of pitch, 129 programs.
    notes = np.unique(((times << 22 | lengths) << 7 | pitches) << 8 | programs)
    return hashlib.sha256(notes.astype("<i8").tobytes()).hexdigest()[:32]


def _seconds(score: Score) -> float:
    """Length by the tempo map. Tempos hold from their tick on, 120 before the first (the format's default)."""
    end = score.end()
    tempos = score.tempos.numpy() if len(score.tempos) else {"time": [], "mspq": []}
    times = np.clip(np.concatenate([[0], tempos["time"], [end]]), 0, end).astype(np.float64)
    lengths = np.concatenate([[500_000], tempos["mspq"]]).astype(np.float64)
    return float((np.diff(times) * lengths).sum() / score.ticks_per_quarter / 1e6)


@functools.lru_cache(maxsize=4)
def _tokenizer(preset: str) -> SymbolicTokenizer:
    return SymbolicTokenizer.create(preset)
