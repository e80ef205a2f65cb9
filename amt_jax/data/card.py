"""Card: dataset.json, everything there is to know about a dataset folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from amt_jax import storage
from amt_jax.errors import UserError, near
from amt_jax.tokens.spec import TokenSpec

SCHEMA = 2
FILE = "dataset.json"
SPLITS = ("train", "valid", "test")
OTHER = "OTHER"
KINDS = ("categorical", "multi_label", "scalar", "text")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file: name, record and token counts, and a sha256 against damage.

    Beside `NAME.array_record` stands `NAME.lengths.npy`, int32: the tokens of each record.
    """

    file: str
    records: int
    tokens: int
    sha256: str

    @property
    def lengths_file(self) -> str:
        return self.file.removesuffix(".array_record") + ".lengths.npy"


@dataclasses.dataclass(frozen=True)
class Split:
    """The shards of one split and the hash of its contents, whatever their layout."""

    shards: tuple[Shard, ...]
    content: str

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What values one condition can have, and how a network is given them: as vectors whose first element is null.

    Attributes:
      kind: `categorical` (a name), `multi_label` (names), `scalar` (a number) or `text`.
      values: of names, in the order of their ids; may hold `OTHER`, which takes every name not listed.
      counts: records in the dataset a value, same order.
      knots: of numbers, ascending; a number is told by how near it is to the two around it.
      encoder: of texts, the name of the encoder ...
      digest: ... and the hash of its weights and settings; of semantic tokens, that of the clusters;
      length: the most vectors it makes of a text, each of `width` numbers.
    """

    kind: str
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    knots: tuple[float, ...] = ()
    encoder: str = ""
    digest: str = ""
    length: int = 0
    width: int = 0

    def __post_init__(self):
        for name in ("values", "counts", "knots"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in KINDS:
            raise ValueError(f"condition kind {self.kind!r}")

    @property
    def size(self) -> int:
        """Elements of a vector, null's included."""
        return 1 + (self.width if self.kind == "text" else len(self.knots or self.values))

    @property
    def meaning(self) -> tuple:
        """What the elements of a vector stand for."""
        return self.kind, self.values, self.knots, self.digest, self.length

    def id(self, name: str | None) -> int:
        """Id of `name`; 0 for None, OTHER's for a name not listed, 0 if there is no OTHER."""
        if name in self.values:
            return self.values.index(name) + 1
        return self.id(OTHER) if name is not None and OTHER in self.values else 0

    def vector(self, value: str | Sequence[str] | float | None) -> np.ndarray:
        """A name, names or a number as a vector of about unit length; null for None and what is not known. [W] float16

        A number between two knots is shared between them, by how near each is; beyond the ends it is the end.
        """
        found = np.zeros(self.size, np.float32)
        if value is None:
            pass
        elif self.kind == "scalar":
            place = float(np.interp(value, self.knots, np.arange(len(self.knots))))
            lower = min(int(place), len(self.knots) - 2)
            found[lower + 1], found[lower + 2] = lower + 1 - place, place - lower
        else:
            names = [value] if self.kind == "categorical" else value
            found[[self.id(name) for name in names]] = 1
            found[0] = 0
            found /= max(np.linalg.norm(found), 1)
        if not found.any():
            found[0] = 1
        return found.astype(np.float16)

    def find(self, condition: str, name: str) -> str:
        """The listed value that a person meant by `name` (case does not matter); UserError if none."""
        for value in self.values:
            if value.casefold() == name.strip().casefold():
                return value
        see = "those that this model knows are in dataset.json of its run folder"
        raise UserError(f"unknown {condition} {near(name, list(self.values), see)}")


@dataclasses.dataclass(frozen=True)
class Card:
    """A dataset's card.

    Attributes:
      spec: the vocabulary.
      splits: split -> shards.
      conditions: condition name -> its values.
      preparation: the configuration that made the dataset, for people and for re-running.
      skipped: reason -> number of source files that are not in the dataset.
    """

    spec: TokenSpec
    splits: Mapping[str, Split]
    conditions: Mapping[str, Vocabulary] = dataclasses.field(default_factory=dict)
    preparation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    def save(self, folder: str | os.PathLike) -> None:
        """Writes dataset.json into `folder`, whole or not at all."""
        data = dataclasses.asdict(self)
        for name, split in self.splits.items():
            data["splits"][name] |= {"records": split.records, "tokens": split.tokens}
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        storage.write_text(storage.open_folder(folder) / FILE, text)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Card:
        """Reads `folder`/dataset.json; raises UserError if there is none, or it is damaged or newer."""
        path = storage.open_folder(folder) / FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"no {FILE} in {str(folder)!r}: not a dataset folder; make one with python -m data_prep.midi"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged ({error}); prepare it in a new folder") from None
        if data.get("schema", 0) > SCHEMA:
            raise UserError(f"{path} has schema {data['schema']}, this program knows {SCHEMA}; update amt_jax")
        try:
            data["spec"] = TokenSpec.from_json(data["spec"])
            data["conditions"] = {name: Vocabulary(**value) for name, value in data["conditions"].items()}
            data["splits"] = {
                name: Split(tuple(Shard(**shard) for shard in split["shards"]), split["content"])
                for name, split in data["splits"].items()
            }
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error!r}); prepare it in a new folder") from None

    def split(self, name: str) -> Split:
        """The split `name`; UserError if the dataset has none or it is empty."""
        if name not in self.splits or not self.splits[name].records:
            filled = [name for name, split in self.splits.items() if split.records]
            raise UserError(
                f"the dataset has no records in split {name!r}; it has {', '.join(filled) or 'none at all'}"
            )
        return self.splits[name]

    def lengths(self, folder: str | os.PathLike, split: str) -> np.ndarray:
        """Tokens of each record of a split, in the order of its shards. [records] int64."""
        parts = []
        for shard in self.split(split).shards:
            path = Path(folder) / shard.lengths_file
            try:
                lengths = np.load(path)
            except (OSError, ValueError) as error:
                raise UserError(f"cannot read {path} ({error}); prepare it in a new folder") from None
            if lengths.shape != (shard.records,) or lengths.sum() != shard.tokens:
                raise UserError(f"{path} does not fit its shard; prepare it in a new folder")
            parts.append(lengths.astype(np.int64))
        return np.concatenate(parts)

    def verify(self, folder: str | os.PathLike, splits: Iterable[str] = SPLITS) -> None:
        """Checks every shard of `splits` against its sha256; raises UserError naming the first damaged one."""
        for name in splits:
            shards = self.splits[name].shards if name in self.splits else ()
            for shard in tqdm(shards, f"checking {name}", unit="shard", leave=False, delay=2, disable=None):
                path = Path(folder) / shard.file
                if not path.exists():
                    raise UserError(f"shard {path} is missing; copy it again, or prepare the dataset in a new folder")
                if file_sha256(path) != shard.sha256:
                    raise UserError(
                        f"shard {path} is damaged (sha256 differs); copy it again, or prepare it in a new folder"
                    )


def file_sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(records: Iterable[bytes]) -> str:
    """sha256 over the sorted sha256s of the records: the same for any shard layout and order."""
    return combine(hashlib.sha256(record).digest() for record in records)


def combine(digests: Iterable[bytes]) -> str:
    """The content hash of records by their sha256s."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
