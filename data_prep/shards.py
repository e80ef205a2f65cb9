"""Shards: records into ArrayRecord files with their lengths, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from amt_jax.data.card import Shard, file_sha256
from amt_jax.data.record import Record

# Compressed they are about half of it: large enough for a network disk, small enough to copy one by one.
SHARD_TOKENS = 32 << 20
# One record a group is what makes random access cheap.
OPTIONS = "group_size:1,zstd:3"


def write(records: Iterable[Record], folder: Path, split: str, first: int) -> tuple[Shard, ...]:
    """Writes `split`-NNNNN.array_record files and their lengths, numbered from `first`."""
    from array_record.python.array_record_module import ArrayRecordWriter

    shards, writer, lengths = [], None, []

    def close() -> None:
        writer.close()
        shard = Shard(path.name, len(lengths), sum(lengths), file_sha256(path))
        np.save(folder / shard.lengths_file, np.array(lengths, np.int32))
        shards.append(shard)

    for record in records:
        if writer is None:
            path = folder / f"{split}-{first + len(shards):05d}.array_record"
            writer, lengths, room = ArrayRecordWriter(str(path), OPTIONS), [], SHARD_TOKENS
        writer.write(record.to_bytes())
        lengths.append(len(record.ids))
        room -= len(record.ids)
        if room <= 0:
            close()
            writer = None
    if writer is not None:
        close()
    return tuple(shards)


def read(folder: Path, shards: Iterable[Shard]) -> Iterator[bytes]:
    """Yields the records of shards as bytes."""
    from array_record.python.array_record_module import ArrayRecordReader

    for shard in shards:
        reader = ArrayRecordReader(str(folder / shard.file))
        yield from reader.read_all()
        reader.close()
