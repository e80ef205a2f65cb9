"""Captions: the table of a dataset's unique captions and their encoder states, DATASET/text.

N captions   D width
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from amt_jax import storage
from amt_jax.data.card import Card, file_sha256
from amt_jax.errors import UserError

FOLDER = "text"
CARD = "text.json"
FILE = "captions.jsonl"
CLUSTERS = "clusters.json"  # as text.clusters writes them
SCHEMA = 1
AGAIN = "run python -m data_prep.encode again"


@dataclasses.dataclass(frozen=True)
class Caption:
    """A text that is the caption of one or more records.

    Attributes:
      human: a person wrote it.
      names_key: it names a key, which transposing would make untrue.
      count: how often records have it.
      train: how often those of the train split do.
    """

    text: str
    human: bool
    names_key: bool
    count: int
    train: int


@dataclasses.dataclass(frozen=True)
class TextCard:
    """text.json: what the table holds.

    Attributes:
      captions: N.
      human: those a person wrote.
      tokens: encoder states in all.
      width: D.
      length: the most states of a caption.
      encoder: name of the encoder.
      digest: its digest.
      files: the table's files, name -> sha256.
      contents: of the dataset whose captions these are, see `contents`.
    """

    captions: int
    human: int
    tokens: int
    width: int
    length: int
    encoder: str
    digest: str
    files: Mapping[str, str]
    contents: Mapping[str, str]
    schema: int = SCHEMA

    def save(self, folder: Path) -> None:
        """Writes text.json into `folder`, whole or not at all."""
        storage.write_text(folder / CARD, json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n")


def contents(card: Card) -> dict[str, str]:
    """What is in a dataset: split -> the hash of its records."""
    return {name: split.content for name, split in card.splits.items()}


def read_card(folder: Path) -> TextCard:
    """What the table in `folder` holds; UserError if a newer program wrote it."""
    data = json.loads((folder / CARD).read_text(encoding="utf-8"))
    if data.get("schema", 0) > SCHEMA:
        raise UserError(f"{folder / CARD} has schema {data['schema']}, this program knows {SCHEMA}; update amt_jax")
    return TextCard(**data)


def read_captions(folder: Path) -> tuple[Caption, ...]:
    """The captions of the table in `folder`, in order."""
    with open(folder / FILE, encoding="utf-8") as lines:  # str.splitlines would cut captions that hold U+2028
        return tuple(Caption(**json.loads(line)) for line in lines)


class CaptionTable:
    """The captions, sorted, and their states, which stay on disk until they are asked for.

    Attributes:
      folder: where it lies.
      card: what it holds.
      captions: in the order of their indices.
      semantic: the cluster of each, −1 where a text says nothing; None before data_prep.cluster. [N] int32
    """

    def __init__(self, folder: Path, card: TextCard, captions: tuple[Caption, ...]):
        self.folder, self.card, self.captions = folder, card, captions
        self._index = {caption.text: index for index, caption in enumerate(captions)}
        self._offsets = self._array("offsets.npy", np.int64, (card.captions + 1,))
        self._states = self._array("states.npy", np.float16, (card.tokens, card.width))
        self._pooled = self._array("pooled.npy", np.float16, (card.captions, card.width))
        known = "semantic.npy" in card.files
        self.semantic = self._array("semantic.npy", np.int32, (card.captions,)) if known else None

    @classmethod
    def load(cls, folder: str | os.PathLike) -> CaptionTable:
        """Opens the table in `folder`; UserError if there is none, or it is damaged or newer."""
        folder = Path(folder)
        try:
            card, captions = read_card(folder), read_captions(folder)
        except FileNotFoundError as error:
            raise UserError(
                f"no {error.filename}: the captions are not encoded; run python -m data_prep.encode --dataset=…"
            ) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"the captions in {folder} are damaged ({error}); {AGAIN}") from None
        if len(captions) != card.captions:
            raise UserError(f"the captions in {folder} are damaged (not as many as {CARD} says); {AGAIN}")
        return cls(folder, card, captions)

    def _array(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        try:
            # numpy cannot map a file without elements.
            array = np.load(self.folder / name, mmap_mode="r" if np.prod(shape) else None)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.folder / name} ({error}); {AGAIN}") from None
        if array.dtype != dtype or array.shape != shape:
            raise UserError(f"{self.folder / name} does not fit {CARD}; {AGAIN}")
        return array

    def verify(self) -> None:
        """Checks every file against its sha256; raises UserError naming the first damaged one."""
        for name, sha256 in tqdm(self.card.files.items(), "checking captions", leave=False, delay=2, disable=None):
            if not (self.folder / name).exists() or file_sha256(self.folder / name) != sha256:
                raise UserError(f"{self.folder / name} is damaged (sha256 differs); copy it again, or {AGAIN}")

    def __len__(self) -> int:
        return len(self.captions)

    def __contains__(self, text: str) -> bool:
        return text in self._index

    def index(self, text: str) -> int:
        """The row of a caption; UserError if it is not in the table."""
        if text not in self._index:
            raise UserError(f"the caption {text[:60]!r} is not in {self.folder}; {AGAIN}")
        return self._index[text]

    def require(self, card: Card) -> None:
        """Raises UserError unless it was made of all records that the dataset of `card` has now."""
        if self.card.contents != contents(card):
            raise UserError(f"other pieces are in the dataset than when {self.folder} was made; {AGAIN}")

    @property
    def lengths(self) -> np.ndarray:
        """States of each caption; 0 for one that says nothing to the encoder. [N] int64"""
        return np.diff(self._offsets)

    def states(self, index: int) -> np.ndarray:
        """Encoder states of a caption. [its tokens, D] float16"""
        return self._states[self._offsets[index] : self._offsets[index + 1]]

    def pooled(self, index: int | slice | np.ndarray) -> np.ndarray:
        """The vector of a caption, or of several. [D] or [..., D] float16"""
        return self._pooled[index]
