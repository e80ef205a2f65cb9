"""PianoRoll: the pitches that sound, frame after frame, to ids and back; and MIDI by way of frames."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from symusic import Note, Score, Tempo, Track

from amt_jax import storage
from amt_jax.errors import MidiError, UserError
from amt_jax.tokens import tokenizer
from amt_jax.tokens.spec import TokenSpec

SECONDS = (0.03, 7.5)  # of a frame, an eighth note in MIDI: tempos from 4 to 1000
VELOCITY = 80


@dataclasses.dataclass(frozen=True)
class PianoRoll:
    """Each frame is its pitches in ascending order and then Frame, so that frames and their ids are one to one.

    Attributes:
      frame_seconds: how long a frame lasts.
      pitches: the lowest and the highest.
      spec: the vocabulary, PAD BOS EOS Frame and the pitches.
      names: the ids' names; that of Frame says how long one lasts.
    """

    frame_seconds: float = 0.25
    pitches: tuple[int, int] = (21, 108)
    name: ClassVar[str] = "pianoroll"

    def __post_init__(self):
        if not SECONDS[0] <= self.frame_seconds <= SECONDS[1]:
            raise UserError(f"a frame lasts {SECONDS[0]:g} to {SECONDS[1]:g} seconds, not {self.frame_seconds:g}")

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        low, high = self.pitches
        pitches = (f"Pitch_{pitch}" for pitch in range(low, high + 1))
        return ("PAD_None", "BOS_None", "EOS_None", f"Frame_{self.frame_seconds}", *pitches)

    @functools.cached_property
    def spec(self) -> TokenSpec:
        kinds = ("PAD", "BOS", "EOS", "Frame")
        ranges = {kind: (index, index + 1) for index, kind in enumerate(kinds)}
        return TokenSpec(self.name, 1, len(self.names), 0, 1, 2, ranges | {"Pitch": (len(kinds), len(self.names))})

    @classmethod
    def load(cls, folder: str | os.PathLike) -> PianoRoll:
        """Reads `folder`/tokenizer.json; raises UserError if it is missing or damaged."""
        data = tokenizer.read(folder)
        try:
            low, high = data["pitches"]
            return cls(float(data["frame_seconds"]), (int(low), int(high)))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{Path(folder) / tokenizer.FILE} is damaged ({type(error).__name__}: {error})") from None

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `folder`/tokenizer.json, whole or not at all."""
        data = {"preset": self.name, **dataclasses.asdict(self)}
        storage.write_text(Path(folder) / tokenizer.FILE, json.dumps(data) + "\n")

    def encode_frames(self, frames: Iterable[Sequence[int]]) -> np.ndarray:
        """The ids of frames, each of ascending pitches in range. [T] uint16"""
        frame, first = self.spec.ranges["Frame"][0], self.spec.ranges["Pitch"][0] - self.pitches[0]
        return np.array([id for pitches in frames for id in (*(first + x for x in pitches), frame)], np.uint16)

    def decode_frames(self, ids: np.ndarray) -> list[list[int]]:
        """The inverse of `encode_frames`; pitches after the last Frame are a frame too, other ids are dropped."""
        frame, (first, stop) = self.spec.ranges["Frame"][0], self.spec.ranges["Pitch"]
        frames, pitches = [], []
        for id in np.asarray(ids).reshape(-1).tolist():
            if id == frame:
                frames.append(pitches)
                pitches = []
            elif first <= id < stop:
                pitches.append(id - first + self.pitches[0])
        return frames + [pitches] * bool(pitches)

    def encode(self, score: Score) -> np.ndarray:
        """Token ids of a score, without BOS and EOS. [T] uint16

        Notes begin and end with the nearest frame and fill one at least; drums and pitches out of range are left out.
        Ends with the last note. Raises MidiError if no note is left.
        """
        notes = [track.notes.numpy() for track in score.to("second").tracks if len(track.notes) and not track.is_drum]
        columns = [np.concatenate([part[name] for part in notes] or [[]]) for name in ("time", "duration", "pitch")]
        time, duration, pitch = (column.astype(np.float64) for column in columns)
        inside = (pitch >= self.pitches[0]) & (pitch <= self.pitches[1])
        if not inside.any():
            raise MidiError("no pitched notes", "none in the tokenizer's range")
        starts = np.rint(time / self.frame_seconds).astype(int)
        stops = np.maximum(np.rint((time + duration) / self.frame_seconds).astype(int), starts + 1)
        frames = [set() for _ in range(stops[inside].max())]
        for start, stop, one in zip(starts[inside], stops[inside], pitch[inside].astype(int).tolist(), strict=True):
            for frame in frames[start:stop]:
                frame.add(one)
        return self.encode_frames(map(sorted, frames))

    def decode(self, ids: np.ndarray) -> Score:
        """The score of token ids, however they came about; a pitch in one frame after another is one note."""
        frames = self.decode_frames(ids)
        sounds = np.zeros((128, len(frames) + 2), np.int8)  # with silence before and after
        for time, pitches in enumerate(frames, start=1):
            sounds[pitches, time] = 1
        changes = np.diff(sounds)
        pitch, start = np.nonzero(changes == 1)
        stop = np.nonzero(changes == -1)[1]
        score = Score(2)  # a frame is an eighth note, one tick
        score.tempos.append(Tempo(0, mspq=round(2e6 * self.frame_seconds)))
        track = Track()
        columns = {"time": start, "duration": stop - start, "pitch": pitch, "velocity": np.full(len(pitch), VELOCITY)}
        kinds = {"time": np.int32, "duration": np.int32, "pitch": np.int8, "velocity": np.int8}
        track.notes = Note.from_numpy(**{name: column.astype(kinds[name]) for name, column in columns.items()})
        score.tracks.append(track)
        return score.sort()
