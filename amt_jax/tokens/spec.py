"""TokenSpec: the vocabulary of a dataset. Ids exist only through it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

MOMENTS = ("Frame", "Bar", "Position", "Rest", "TimeShift")  # the token types that move time on


@dataclasses.dataclass(frozen=True)
class TokenSpec:
    """What the ids of a dataset mean.

    Attributes:
      name: the tokenizer preset, for people.
      num_streams: K, ids a time step: 1 for symbolic music, the number of codebooks for audio.
      vocab_size: V, ids a stream, BPE merges included.
      pad: id of padding and of dropped-out tokens.
      bos: id that starts a piece.
      eos: id that ends a piece.
      ranges: token type -> (first id, one past the last id), over base ids only.
      merges: for each id past the base vocabulary (BPE), the base ids it stands for.
    """

    name: str
    num_streams: int
    vocab_size: int
    pad: int
    bos: int
    eos: int
    ranges: Mapping[str, tuple[int, int]]
    merges: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        ranges = {kind: (int(first), int(stop)) for kind, (first, stop) in self.ranges.items()}
        object.__setattr__(self, "ranges", ranges)
        object.__setattr__(self, "merges", tuple(tuple(map(int, ids)) for ids in self.merges))
        base = self.vocab_size - len(self.merges)
        covered = sorted(ranges.values())
        if covered and (covered[0][0] != 0 or covered[-1][1] != base):
            raise ValueError(f"ranges cover {covered[0][0]}..{covered[-1][1]}, the base vocabulary is 0..{base}")
        for (_, stop), (first, _) in itertools.pairwise(covered):
            if stop != first:
                raise ValueError(f"ranges overlap or leave a gap at id {stop}")

    @property
    def base_size(self) -> int:
        """The number of ids before BPE merges."""
        return self.vocab_size - len(self.merges)

    def type_ids(self) -> np.ndarray:
        """Index into `list(ranges)` of every id; a BPE id counts as its first base id's. [V] int32."""
        types = np.zeros(self.vocab_size, np.int32)
        for index, (first, stop) in enumerate(self.ranges.values()):
            types[first:stop] = index
        for index, ids in enumerate(self.merges):
            types[self.base_size + index] = types[ids[0]]
        return types

    def pitches(self) -> np.ndarray:
        """The pitch of every id, from 0 for the lowest; -1 where it has none. [V] int32"""
        first, stop = self.ranges.get("Pitch", (0, 0))
        pitches = np.full(self.vocab_size, -1, np.int32)
        pitches[first:stop] = np.arange(stop - first)
        return pitches

    def moments(self) -> np.ndarray:
        """Whether a moment begins with an id: what comes after it sounds together, until the next one. [V] bool"""
        begins = np.zeros(self.vocab_size, bool)
        for kind in MOMENTS:
            first, stop = self.ranges.get(kind, (0, 0))
            begins[first:stop] = True
        return begins

    def expand(self, ids: np.ndarray) -> np.ndarray:
        """Replaces BPE ids by the base ids they stand for. [T] -> [T'], same dtype."""
        if not self.merges:
            return ids
        pieces = [self.merges[i - self.base_size] if i >= self.base_size else (i,) for i in ids.tolist()]
        return np.array([i for piece in pieces for i in piece], ids.dtype)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenSpec:
        return cls(**data)
