"""MIDI files: guarded loading, atomic saving, and a text that travels inside the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from symusic import Note, Score, TextMeta

from amt_jax.errors import MidiError

MAX_BYTES = 32 << 20
MAX_TICKS_PER_QUARTER = 32_767
MAX_BEATS = 20_000
MAX_NOTES = 200_000
MAX_TRACKS = 128
TEMPO_RANGE = (4.0, 1000.0)
NOT_MIDI = "not a MIDI file"


def load(path: str | os.PathLike) -> Score:
    """Loads a MIDI file, whatever its suffix; raises MidiError if it is broken, empty or absurd.

    What passes can be tokenized in bounded time and memory. Notes without length are dropped.
    """
    return load_bytes(_read(path))


def load_bytes(data: bytes) -> Score:
    """Loads a MIDI file's content; see `load`."""
    score = _parse(data)
    _check_frame(score)
    _check_notes(score)
    return score


def _read(path: str | os.PathLike) -> bytes:
    try:
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise MidiError("file too large", f"{size >> 20} MiB, at most {MAX_BYTES >> 20}")
        return Path(path).read_bytes()
    except OSError as error:
        raise MidiError("unreadable", f"{error.strerror or error}") from None


def _parse(data: bytes) -> Score:
    try:
        return Score.from_midi(data)
    except Exception as error:  # The parser raises many types, none of them documented.
        raise MidiError(NOT_MIDI, " ".join(str(error).split())[:120]) from None


def _check_frame(score: Score) -> None:
    if not 1 <= score.ticks_per_quarter <= MAX_TICKS_PER_QUARTER:
        raise MidiError("bad resolution", f"{score.ticks_per_quarter} ticks a quarter note")
    if len(score.tracks) > MAX_TRACKS:
        raise MidiError("too many tracks", f"{len(score.tracks)}, at most {MAX_TRACKS}")
    if (notes := score.note_num()) > MAX_NOTES:
        raise MidiError("too many notes", f"{notes}, at most {MAX_NOTES}")
    if (beats := score.end() / score.ticks_per_quarter) > MAX_BEATS:
        raise MidiError("too long", f"{beats:.0f} beats, at most {MAX_BEATS}")
    if len(score.tempos):
        tempos = score.tempos.numpy()
        with np.errstate(divide="ignore"):
            bpm = 6e7 / tempos["mspq"]
        if tempos["time"].min() < 0 or not (bpm.min() >= TEMPO_RANGE[0] and bpm.max() <= TEMPO_RANGE[1]):
            raise MidiError("bad tempo", f"{bpm.min():g} to {bpm.max():g} beats a minute")
    for signature in score.time_signatures:
        top, bottom = signature.numerator, signature.denominator
        # The file holds one byte for the numerator and one for the power of two of the denominator.
        if signature.time < 0 or not 1 <= top <= 255 or bottom not in (1, 2, 4, 8, 16, 32, 64):
            raise MidiError("bad time signature", f"{top}/{bottom}")


def _check_notes(score: Score) -> None:
    total = 0
    for track in score.tracks:
        if not len(track.notes):
            continue
        notes = track.notes.numpy()
        if (
            notes["time"].min() < 0
            or notes["duration"].min() < 0
            or min(notes["pitch"].min(), notes["velocity"].min()) < 0
            or max(notes["pitch"].max(), notes["velocity"].max()) > 127
        ):
            raise MidiError("bad note", "time, length, pitch or velocity out of range")
        sounding = notes["duration"] > 0
        if not sounding.all():
            track.notes = Note.from_numpy(**{name: values[sounding] for name, values in notes.items()}, ttype="Tick")
        total += int(sounding.sum())
    if not total:
        raise MidiError("no notes")


def save(score: Score, path: str | os.PathLike, text: str | None = None) -> None:
    """Writes `score` to `path`, whole or not at all, with `text` as a marker at its start."""
    if text is not None:
        score = score.copy()
        score.markers.insert(0, TextMeta(0, text))
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_bytes(score.dumps_midi())
    os.replace(part, path)


def read_text(path: str | os.PathLike) -> str | None:
    """The text that `save` put into a file, also one without notes; a foreign file's marker at its start, or None."""
    markers = _parse(_read(path)).markers
    return markers[0].text if markers and markers[0].time == 0 else None
