"""From dataset folder to batches of numpy arrays.

Glossary: B rows, T targets a row (the context), K streams, S the most segments a row, L vectors of width W a condition.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from amt_jax.data.card import Card
from amt_jax.data.conditions import SEMANTIC, TEXT, Conditions
from amt_jax.data.plan import Plan, TrainPlan
from amt_jax.data.record import ConditionValue, Record
from amt_jax.errors import UserError
from amt_jax.tokens.spec import TokenSpec

AUGMENT, CAPTION = 1, 2  # the purposes of random streams, see plan.SHUFFLE
OF_TEMPO = ("tempo", "density", "mood", TEXT, SEMANTIC)  # conditions that would be others at another tempo

Batch = dict[str, Any]


class Records:
    """The records of one split, by index, in the order of its shards."""

    def __init__(self, folder: str | os.PathLike, card: Card, split: str):
        self.folder, self.card = Path(folder), card
        self.lengths = card.lengths(folder, split)
        paths = [str(Path(folder) / shard.file) for shard in card.split(split).shards]
        missing = [path for path in paths if not os.path.exists(path)]
        if missing:
            raise UserError(f"shard {missing[0]} is missing; copy it again, or prepare the dataset in a new folder")
        try:
            self._source = ArrayRecordDataSource(paths)
        except Exception as error:  # array_record raises whatever its C++ side had to say
            raise UserError(f"cannot read the shards of split {split!r} in {folder} ({error})") from error
        if len(self._source) != len(self.lengths):
            raise UserError(f"the shards of split {split!r} in {folder} do not fit dataset.json; copy them again")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Record:
        record = Record.from_bytes(self._source[index])
        if len(record.ids) != self.lengths[index]:
            raise UserError(
                f"record {index} ({record.source}) does not fit its lengths file; prepare it in a new folder"
            )
        return record


class Retold:
    """Records of which other things are told than what they are.

    Args:
      records: whose music it is.
      conditions: the number of a record -> its conditions, as in Record.
    """

    def __init__(self, records: Records, conditions: Callable[[int], Mapping[str, ConditionValue]]):
        self.card, self.lengths, self._records, self._conditions = records.card, records.lengths, records, conditions

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(self._records[index], conditions=self._conditions(index))


class Held:
    """Records in memory, those of `kept`, under a card that tells their vocabulary."""

    def __init__(self, card: Card, kept: Sequence[Record]):
        self.card, self.lengths, self._kept = card, np.array([len(each.ids) for each in kept], np.int64), kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Record:
        return self._kept[index]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a piece may be varied, drawn once an epoch for a whole piece.

    Attributes:
      transpose: semitones up or down, as far as the whole piece stays in range; drums stay.
      tempo: steps of the tempo vocabulary, clipped to it.
      velocity: steps of the velocity vocabulary, clipped to it.
      transposed: share of the pieces that are transposed; the others keep their keys.
    """

    transpose: int = 0
    tempo: int = 0
    velocity: int = 0
    transposed: float = 1.0

    def check(self, spec: TokenSpec) -> None:
        """Raises UserError if the vocabulary cannot be varied by id arithmetic."""
        if not 0 <= self.transposed <= 1:
            raise UserError(f"augmentation.transposed is {self.transposed:g}; it must be between 0 and 1")
        for field, kind in (("transpose", "Pitch"), ("tempo", "Tempo"), ("velocity", "Velocity")):
            amount = getattr(self, field)
            if amount < 0:
                raise UserError(f"augmentation.{field} is {amount}; it must be 0 (off) or more")
            if amount and spec.merges:
                # A shifted piece merges into another number of tokens, but the plan was made from lengths.
                raise UserError(
                    f"augmentation.{field} needs base tokens, this dataset has BPE; "
                    f"add --config.augmentation.{field}=0, or prepare the dataset without --bpe"
                )
            if amount and kind not in spec.ranges:
                raise UserError(f"augmentation.{field}: the {spec.name} vocabulary has no {kind} tokens; set it to 0")

    def apply(self, ids: np.ndarray, spec: TokenSpec, random: np.random.Generator) -> tuple[np.ndarray, int]:
        """Varies a piece. [T] -> [T], same dtype, and by how many semitones it was transposed."""
        ids, transposed = ids.copy(), 0
        original = ids.copy()
        if self.transpose:
            first, stop = spec.ranges["Pitch"]
            pitches = (original >= first) & (original < stop)
            if pitches.any() and (self.transposed == 1 or random.random() < self.transposed):
                low, high = int(original[pitches].min()), int(original[pitches].max())
                shift = random.integers(max(-self.transpose, first - low), min(self.transpose, stop - 1 - high) + 1)
                ids[pitches] = original[pitches] + shift
                transposed = int(shift)
        for amount, kind in ((self.tempo, "Tempo"), (self.velocity, "Velocity")):
            if amount:
                first, stop = spec.ranges[kind]
                chosen = (original >= first) & (original < stop)
                shift = random.integers(-amount, amount + 1)
                ids[chosen] = np.clip(original[chosen].astype(np.int64) + shift, first, stop - 1)
        return ids, transposed


class Rows:
    """The rows of a plan as arrays, by row number: the same whoever asks."""

    def __init__(
        self,
        records: Records | Retold | Held,
        plan: Plan,
        conditions: Conditions,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        augmentation = augmentation or Augmentation()
        augmentation.check(records.card.spec)
        told = [name for name in conditions.lengths if name in OF_TEMPO]
        if augmentation.tempo and told:
            raise UserError(
                f"augmentation.tempo would make untrue what the model is told as {' and '.join(told)}; set it to 0, or "
                "leave the condition out"
            )
        if conditions.captions:
            conditions.captions.require(records.card)
        self.records, self.plan, self.conditions = records, plan, conditions
        self.augmentation, self.seed = augmentation, seed
        self._nothing = {name: np.stack([value] * plan.max_segments) for name, value in conditions.of_piece({}).items()}

    def __getitem__(self, index: int) -> Batch:
        """Row `index`: the arrays of the contract in `batches`, without B."""
        spec, plan = self.records.card.spec, self.plan
        epoch, spans = plan.row(index)
        shape = (plan.context, spec.num_streams)
        inputs, targets = np.full(shape, spec.pad, np.int32), np.full(shape, spec.pad, np.int32)
        segments, positions = np.zeros(plan.context, np.int32), np.zeros(plan.context, np.int32)
        weights, lengths = np.zeros(plan.context, np.float32), np.zeros(plan.max_segments, np.int32)
        conditions = {name: value.copy() for name, value in self._nothing.items()}
        at = 0
        for segment, span in enumerate(spans):
            record = self.records[span.record]
            sequence, values = self._piece(record, epoch, span.record)
            count = span.stop - span.start
            here = slice(at, at + count)
            inputs[here] = sequence[span.start : span.stop]
            targets[here] = sequence[span.start + 1 : span.stop + 1]
            segments[here] = segment + 1
            positions[here], lengths[segment] = np.arange(count), count
            weights[at + span.scored - span.start : at + count] = 1
            for name, value in values.items():
                conditions[name][segment] = value
            at += count
        return {
            "inputs": inputs,
            "targets": targets,
            "segments": segments,
            "lengths": lengths,
            "positions": positions,
            "weights": weights,
            "conditions": conditions,
        }

    def _piece(self, record: Record, epoch: int, number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """BOS, the piece as this epoch varies it, EOS, [L + 2, K], and what is told of it this time."""
        spec, ids, transposed, random = self.records.card.spec, record.ids, 0, None
        if isinstance(self.plan, TrainPlan) and self.conditions.captions:
            random = np.random.default_rng([self.seed, epoch, CAPTION, number])
        if self.augmentation != Augmentation():
            drawn = np.random.default_rng([self.seed, epoch, AUGMENT, number])
            ids, transposed = self.augmentation.apply(ids, spec, drawn)
        sequence = np.empty((len(ids) + 2, spec.num_streams), np.int32)
        sequence[0], sequence[1:-1], sequence[-1] = spec.bos, ids.reshape(len(ids), spec.num_streams), spec.eos
        return sequence, self.conditions.of_piece(record.conditions, random, transposed=transposed)


@dataclasses.dataclass(frozen=True)
class _Share:
    """One process's rows of every global batch, as the random-access source that Grain reads."""

    rows: Rows
    start: int
    length: int
    batch_size: int
    slots: Sequence[int]

    def __len__(self) -> int:
        return self.length * len(self.slots)

    def __getitem__(self, index: int) -> Batch:
        batch, slot = divmod(index, len(self.slots))
        return self.rows[self.start + batch * self.batch_size + int(self.slots[slot])]


def batches(
    rows: Rows, batch_size: int, *, start: int = 0, slots: Sequence[int] | None = None, threads: int = 4
) -> grain.IterDataset[Batch]:
    """Batches of one process: its rows of each global batch of `batch_size` rows.

    Endless for a training plan; one pass for an evaluation plan, whose last batch is filled with empty rows.

    Args:
      rows: the rows to read.
      batch_size: rows of a global batch, over all processes.
      start: global row to begin at; costs nothing.
      slots: which of its rows this process reads, in order; all of them if not given. [B]
      threads: that read and build batches ahead.

    Returns:
      An iterable of {"inputs" [B, T, K], "targets" [B, T, K], "segments" [B, T] (0 padding, 1.. the piece in the
      row), "positions" [B, T] (from 0 in each segment), "lengths" [B, S] (tokens of segment s at s - 1), all int32,
      "weights" [B, T] float32 (1 where the target counts), "conditions": {name: [B, S, L, W] float16, the value of
      segment s at s - 1}}.
    """
    if isinstance(rows.plan, TrainPlan):
        length = (2**62 - start) // batch_size
    else:
        length = -(-(len(rows.plan.rows) - start) // batch_size)
    share = _Share(rows, start, length, batch_size, range(batch_size) if slots is None else slots)
    dataset = grain.MapDataset.source(share).batch(len(share.slots))
    return dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
