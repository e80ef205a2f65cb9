"""Shards: which pieces go into which ArrayRecord file, and the files, with their lengths, written and read."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from amt_jax import storage
from amt_jax.data.card import Shard, file_sha256
from amt_jax.data.record import Record
from amt_jax.tokens.symbolic import SymbolicTokenizer
from data_prep.dataset import similarity
from data_prep.dataset.outcome import Outcome
from data_prep.dataset.piece import Piece

# Compressed they are about half of it: large enough for a network disk, small enough to copy one by one.
SHARD_TOKENS = 32 << 20
# One record a group is what makes random access cheap.
OPTIONS = "group_size:1,zstd:3"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A shard to be written: `file`, its name, and `rows`, its pieces in their order."""

    file: str
    rows: tuple[Outcome, ...]

    @property
    def receipt_file(self) -> str:
        return f"{self.file}.npz"


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What is to be known of a written shard.

    Attributes:
      shard: its row in the card.
      lengths: tokens of each record, after BPE. [records] int32
      digests: sha256 of each record. [records, 32] uint8
      signatures: see similarity.signature, zeros where there is none. [records, HASHES] uint32
    """

    shard: Shard
    lengths: np.ndarray
    digests: np.ndarray
    signatures: np.ndarray

    @classmethod
    def load(cls, plan: Plan, work: os.PathLike) -> Receipt:
        with storage.open_bytes(work / plan.receipt_file) as file, np.load(file) as data:
            shard = Shard(plan.file, len(plan.rows), int(data["lengths"].sum()), str(data["sha256"]))
            return cls(shard, data["lengths"], data["digests"], data["signatures"])


def plan(rows: Iterable[Outcome], split: str, first: int) -> list[Plan]:
    """Divides `rows` among shards of `SHARD_TOKENS` (before BPE), numbered from `first`."""
    shards, room = [], 0
    for row in rows:
        if room <= 0:
            shards.append([])
            room = SHARD_TOKENS
        shards[-1].append(row)
        room -= row.tokens
    return [
        Plan(f"{split}-{number:05d}.array_record", tuple(members)) for number, members in enumerate(shards, start=first)
    ]


def write(
    plan: Plan, pieces: Iterable[Piece], tokenizer: SymbolicTokenizer, licence: str, draft: Path, work: Path
) -> None:
    """Writes a shard and its lengths into `draft` and its receipt into `work`, each whole or not at all.

    `pieces` are those of `plan.rows`, `licence` is that of all of them; if empty, each has its own. The same plan gives
    the same bytes, so that it does no harm to write one twice.
    """
    signatures = np.zeros((len(plan.rows), similarity.HASHES), np.uint32)

    def records() -> Iterator[Record]:
        for index, (row, piece) in enumerate(zip(plan.rows, pieces, strict=True)):
            signatures[index, : len(piece.signature)] = piece.signature
            conditions = {"composer": row.composer, **row.conditions} if row.composer else row.conditions
            ids = tokenizer.merge(piece.ids)
            yield Record(ids, conditions, row.piece, row.family, row.source, licence or row.licence)

    shard, lengths, digests = write_records(plan.file, records(), draft, work)
    part = work / uuid.uuid4().hex
    with open(part, "wb") as file:
        np.savez(file, lengths=lengths, digests=digests, signatures=signatures, sha256=np.array(shard.sha256))
    os.replace(part, work / plan.receipt_file)


def write_records(
    name: str, records: Iterable[Record], draft: Path, work: Path
) -> tuple[Shard, np.ndarray, np.ndarray]:
    """Writes the shard `name` and its lengths into `draft`, each whole or not at all; `work` is for what is unfinished.

    Returns:
      Its row in the card, the tokens of each record, [records] int32, and their sha256s, [records, 32] uint8.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    part = work / uuid.uuid4().hex
    writer = ArrayRecordWriter(str(part), OPTIONS)
    lengths, digests = [], []
    for record in records:
        data = record.to_bytes()
        writer.write(data)
        lengths.append(len(record.ids))
        digests.append(np.frombuffer(hashlib.sha256(data).digest(), np.uint8))
    writer.close()
    lengths = np.array(lengths, np.int32)
    shard = Shard(name, len(lengths), int(lengths.sum()), file_sha256(part))
    os.replace(part, draft / shard.file)
    with open(part, "wb") as file:
        np.save(file, lengths)
    os.replace(part, draft / shard.lengths_file)
    return shard, lengths, np.array(digests, np.uint8).reshape(-1, 32)


def read(folder: Path, shards: Iterable[Shard]) -> Iterator[bytes]:
    """Yields the records of shards as bytes."""
    from array_record.python.array_record_module import ArrayRecordReader

    for shard in shards:
        reader = ArrayRecordReader(str(folder / shard.file))
        yield from reader.read_all()
        reader.close()


def digests(folder: Path, shards: Iterable[Shard]) -> Iterator[bytes]:
    """Yields the sha256 of each record of shards."""
    return (hashlib.sha256(record).digest() for record in read(folder, shards))
