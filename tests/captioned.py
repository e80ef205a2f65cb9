"""Datasets whose records have captions, for the tests of what reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from amt_jax.data.card import SPLITS, Card, Shard, Split, content_hash, file_sha256
from amt_jax.data.record import Record
from amt_jax.tokens.spec import TokenSpec

RANGES = {"PAD": (0, 1), "BOS": (1, 2), "EOS": (2, 3), "Pitch": (3, 40)}


def caption(text: str, human: bool = False, names_key: bool = False) -> dict:
    return {"text": text, "human": human, "names_key": names_key}


def write_captioned(folder: Path, captions: Mapping[str, Sequence[Sequence[dict]]]) -> None:
    """Writes a dataset: split -> its records, each by its captions."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split in SPLITS:
        path, made = folder / f"{split}-00000.array_record", []
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for row, values in enumerate(captions.get(split, ())):
            conditions = {"text": list(values)} if values else {}
            ids = np.arange(3, 9, dtype=np.uint16)
            made.append(Record(ids, conditions, f"{split}{row}", f"{split}{row}", f"{split}{row}.mid").to_bytes())
            writer.write(made[-1])
        writer.close()
        np.save(folder / f"{split}-00000.lengths.npy", np.full(len(made), 6, np.int32))
        shard = Shard(path.name, len(made), 6 * len(made), file_sha256(path))
        splits[split] = Split((shard,) if made else (), content_hash(made))
    Card(TokenSpec("test", 1, 40, 0, 1, 2, RANGES), splits).save(folder)
