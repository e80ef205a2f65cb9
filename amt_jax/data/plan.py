"""Plans: which tokens of which pieces stand in row r. Pure functions of lengths, seed and row.

Rows are numbered across epochs and are the same whoever reads them, so a training run's whole data
state is one number: the rows consumed. A piece of L tokens is the sequence BOS, its tokens, EOS and
has L + 1 targets: target i is predicted from the token before it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple, Protocol

import numpy as np

SHUFFLE = 0  # the purpose of a random stream, so that no two share one; pipeline.py has the others


class Span(NamedTuple):
    """A stretch of one piece: predicts targets [start, stop), of which those from `scored` on count."""

    record: int
    start: int
    stop: int
    scored: int


class Plan(Protocol):
    """What Rows needs of a plan."""

    context: int
    max_segments: int

    def row(self, index: int) -> tuple[int, list[Span]]:
        """The epoch of row `index` and its spans, in the order of their segments."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainPlan:
    """An endless stream of full rows in which every target of every piece stands once an epoch.

    The pieces of an epoch are shuffled, laid end to end, and cut every `context` targets from a random
    place of the ring they form, so that cuts fall elsewhere in each epoch; then the rows are shuffled.
    Only an epoch's last cut can be shorter than `context`.

    Attributes:
      lengths: tokens of each piece, BOS and EOS not counted. [N]
      context: targets a row.
      seed: of the shuffles.
    """

    lengths: np.ndarray
    context: int
    seed: int

    def __post_init__(self):
        if self.context < 1 or not len(self.lengths):
            raise ValueError(f"a plan needs pieces and a context, not {len(self.lengths)} and {self.context}")
        # Neighbouring rows, and the threads that read them, are of one epoch or two.
        object.__setattr__(self, "_epoch", functools.lru_cache(maxsize=2)(self._draw_epoch))

    @functools.cached_property
    def targets(self) -> int:
        """Targets an epoch."""
        return int(np.sum(self.lengths)) + len(self.lengths)

    @functools.cached_property
    def rows_per_epoch(self) -> int:
        return -(-self.targets // self.context)

    @functools.cached_property
    def max_segments(self) -> int:
        """The most segments that any row of any epoch can hold: the shortest pieces between two cut ones."""
        inner = np.cumsum(np.sort(self.lengths) + 1)
        return min(2 + int(np.searchsorted(inner, self.context - 2, side="right")), len(self.lengths) + 1)

    def row(self, index: int) -> tuple[int, list[Span]]:
        epoch, place = divmod(index, self.rows_per_epoch)
        pieces, ends, offset, rows = self._epoch(epoch)
        first = int(rows[place]) * self.context
        left = min(self.context, self.targets - first)
        position = (first + offset) % self.targets
        at = int(np.searchsorted(ends, position, side="right"))
        spans = []
        while left:
            record, end = int(pieces[at]), int(ends[at])
            begin = end - int(self.lengths[record]) - 1
            count = min(left, end - position)
            spans.append(Span(record, position - begin, position - begin + count, position - begin))
            left -= count
            at = (at + 1) % len(pieces)
            position = end % self.targets
        return epoch, spans

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
        """The order of pieces, where each ends in it, where the ring is cut first, the order of rows."""
        random = np.random.default_rng([self.seed, epoch, SHUFFLE])
        pieces = random.permutation(len(self.lengths))
        ends = np.cumsum(self.lengths[pieces] + 1)
        return pieces, ends, int(random.integers(self.targets)), random.permutation(self.rows_per_epoch)


@dataclasses.dataclass(frozen=True, eq=False)
class EvalPlan:
    """One fixed pass in which every target of every piece counts once.

    A piece longer than `context` is read in windows that begin every `stride` targets; where windows
    overlap, the later one does not count. Windows shorter than `context` share rows, in order.

    Attributes:
      lengths: tokens of each piece, BOS and EOS not counted. [N]
      context: targets a row.
      stride: `context` for no overlap, `context // 2` so that half a window always precedes what counts.
      skipped: targets at the beginning of each piece that do not count; none if not given. [N]
      ends: whether the EOS of a piece is a target.
    """

    lengths: np.ndarray
    context: int
    stride: int
    skipped: np.ndarray | None = None
    ends: bool = True

    def __post_init__(self):
        if not 1 <= self.stride <= self.context:
            raise ValueError(f"stride {self.stride} is not between 1 and the context {self.context}")

    @functools.cached_property
    def rows(self) -> list[list[Span]]:
        rows, free = [], 0
        skipped = np.zeros(len(self.lengths), int) if self.skipped is None else self.skipped
        for record, (scored, targets) in enumerate(
            zip(skipped.tolist(), (self.lengths + self.ends).tolist(), strict=True)
        ):
            start = 0
            while scored < targets:
                stop = min(start + self.context, targets)
                if stop - start > free:
                    rows.append([])
                    free = self.context
                rows[-1].append(Span(record, start, stop, min(scored, stop)))
                free -= stop - start
                scored, start = max(scored, stop), start + self.stride
        return rows

    @functools.cached_property
    def max_segments(self) -> int:
        return max(map(len, self.rows))

    def row(self, index: int) -> tuple[int, list[Span]]:
        """Row `index`; one past the end is empty, to fill the last batch."""
        return 0, self.rows[index] if index < len(self.rows) else []
