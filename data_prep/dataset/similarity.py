"""Similarity: which pieces are performances, arrangements or copies of one another.

A piece is reduced to its upper line: notes that start together (within `TOGETHER` of a quarter note) count as one, and
their highest pitch stands for them. Runs of `RUN` intervals of that line are the piece's shingles, which neither
transposition nor tempo change. MinHash (Broder 1997) estimates the Jaccard index of two sets of shingles from `HASHES`
numbers each, and banding finds the pairs worth comparing. `SAME` was set by looking: in ASAP all 14 pairs of folders
that it joins are one work with and without repeats, in Nottingham and POP909 every pair looked at is one tune, and
99.9 % of unrelated pairs in ASAP stay below 0.06.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from symusic import Score

from amt_jax.errors import UserError

FILE = "signatures.npy"
HASHES = 128
RUN = 5
TOGETHER = 0.12
SAME = 0.2
# Fewer distinct shingles say nothing: two exercises or drum grooves would look alike.
MIN_SHINGLES = 16
ROWS_PER_BAND = 2
# A band that more pieces than this share is a commonplace: members are compared with this many before them only.
NEIGHBOURS = 64

_random = np.random.Generator(np.random.PCG64(909))
_FACTORS = _random.integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, HASHES, dtype=np.uint64)


def signature(score: Score) -> np.ndarray:
    """The MinHash signature of a score's upper line, drums left out. [HASHES] uint32, [0] if it has too few notes."""
    notes = [track.notes.numpy() for track in score.tracks if len(track.notes) and not track.is_drum]
    if not notes:
        return np.zeros(0, np.uint32)
    times = np.concatenate([part["time"] for part in notes]).astype(np.int64)
    pitches = np.concatenate([part["pitch"] for part in notes]).astype(np.int64)
    order = np.lexsort((pitches, times))
    times, pitches = times[order], pitches[order]
    starts = np.flatnonzero(np.diff(times, prepend=-(1 << 40)) > TOGETHER * score.ticks_per_quarter)
    intervals = np.diff(np.maximum.reduceat(pitches, starts))
    if len(intervals) < RUN:
        return np.zeros(0, np.uint32)
    runs = np.lib.stride_tricks.sliding_window_view(intervals + 128, RUN).astype(np.uint64)
    shingles = np.unique(_mix(runs @ (np.uint64(257) ** np.arange(RUN, dtype=np.uint64))))
    if len(shingles) < MIN_SHINGLES:
        return np.zeros(0, np.uint32)
    hashes = (shingles[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
    return hashes.min(axis=0).astype(np.uint32)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: spreads 64-bit numbers evenly."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def pairs(table: np.ndarray) -> Iterator[tuple[int, int]]:
    """The similar pairs of rows among pieces that share a key, in their order. [pieces, HASHES]"""
    for distance in range(1, min(NEIGHBOURS + 1, len(table))):
        same = np.count_nonzero(table[distance:] == table[:-distance], axis=1) >= SAME * HASHES
        yield from ((index, index + distance) for index in np.flatnonzero(same).tolist())


def similar(signatures: Sequence[np.ndarray]) -> set[tuple[int, int]]:
    """The pairs of pieces with an estimated Jaccard index of at least `SAME`: indices, the smaller one first."""
    known = [index for index, each in enumerate(signatures) if has_signature(each)]
    if not known:
        return set()
    table, links = np.stack([signatures[index] for index in known]), set()
    for band in range(0, HASHES, ROWS_PER_BAND):
        buckets = defaultdict(list)
        for row, key in enumerate(table[:, band : band + ROWS_PER_BAND].tolist()):
            buckets[tuple(key)].append(row)
        for rows in buckets.values():
            if len(rows) > 1:
                links.update((known[rows[first]], known[rows[second]]) for first, second in pairs(table[rows]))
    return links


def has_signature(signature: np.ndarray) -> bool:
    """False for pieces with too few notes; in `FILE` their rows are zeros."""
    return bool(signature.any())


def load(folder: Path, count: int) -> np.ndarray:
    """The signatures of a dataset's `count` kept files in their order, read as they are used. [count, HASHES]"""
    try:
        table = np.load(folder / FILE, mmap_mode="r")
        if table.shape != (count, HASHES):
            raise ValueError(f"{len(table)} rows for {count} pieces")
        return table
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(folder / FILE)!r} ({error}); prepare into a new folder") from None


def create(folder: Path, count: int) -> np.ndarray:
    """Makes `folder`/signatures.npy, to be filled in place. [count, HASHES] uint32 zeros."""
    return np.lib.format.open_memmap(folder / FILE, "w+", np.uint32, (count, HASHES))
