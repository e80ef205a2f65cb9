"""Encoder: texts to states, by a frozen network or by a table of words, behind one interface.

N texts   L tokens   D width
"""

from __future__ import annotations

import abc
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from amt_jax.errors import UserError
from amt_jax.text.cleaning import clean

FILE = "encoder.json"
SCHEMA = 1
POOLINGS = ("mean", "cls")
TFIDF = "tfidf"
LENGTH = 32  # tokens of a text; captions have about 20


class States(NamedTuple):
    """What texts mean, token by token.

    Attributes:
      values: a state a token, zeros where there is none. [N, L, D] float32
      mask: which are tokens; none are in an empty text. [N, L] bool
    """

    values: np.ndarray
    mask: np.ndarray


class Encoder(abc.ABC):
    """A frozen encoder of texts.

    Attributes:
      kind: "tfidf" or "bert".
      name: where it comes from: "tfidf", a name on the Hugging Face hub or a folder.
      width: D.
      length: L, the tokens of a text that are read; what comes after is not.
      pooling: how states become one vector: their "mean", or the first one's, "cls".
    """

    kind: ClassVar[str]
    name: str
    width: int
    length: int
    pooling: str

    @abc.abstractmethod
    def encode_unique(self, texts: Sequence[str]) -> list[np.ndarray]:
        """States of clean texts that are not empty and differ. Of each [its tokens, D] float32"""

    @abc.abstractmethod
    def content(self) -> Mapping[str, Any]:
        """All that decides what is encoded as what, for the digest."""

    def encode(self, texts: Sequence[str]) -> States:
        """States of texts; each different one is encoded once."""
        texts = [clean(text) for text in texts]
        unique = sorted(set(texts) - {""})
        found = dict(zip(unique, self.encode_unique(unique), strict=True)) if unique else {}
        values = np.zeros((len(texts), self.length, self.width), np.float32)
        mask = np.zeros((len(texts), self.length), bool)
        for row, text in enumerate(texts):
            if text:
                values[row, : len(found[text])] = found[text]
                mask[row, : len(found[text])] = True
        return States(values, mask)

    def words_read(self, text: str) -> int:
        """How many words of a text are read, from its first on: all, unless it is longer than `length`."""
        return len(clean(text).split())

    def pool(self, states: States) -> np.ndarray:
        """One vector a text; zeros for one without tokens. [N, D] float32"""
        if self.pooling == "cls":
            return states.values[:, 0]
        return states.values.sum(1) / np.maximum(states.mask.sum(1, keepdims=True), 1).astype(np.float32)

    def pooled(self, texts: Sequence[str]) -> np.ndarray:
        """One vector a text. [N, D] float32"""
        return self.pool(self.encode(texts))

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over the weights or tables and the settings: encoders of one digest give the same states."""
        content = {**self.content(), "kind": self.kind, "length": self.length, "pooling": self.pooling}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What `save` writes."""
        fields = ("kind", "name", "width", "length", "pooling", "digest")
        return {"schema": SCHEMA, **{field: getattr(self, field) for field in fields}}

    def save(self, folder: str | os.PathLike) -> None:
        """Writes encoder.json: a TF-IDF table whole, of a network its name and digest."""
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n"
        (Path(folder) / FILE).write_text(text, encoding="utf-8")


def load_encoder(folder: str | os.PathLike, source: str | None = None) -> Encoder:
    """The encoder that `Encoder.save` wrote; a network is found again by its name, or by `source` where it lies now.

    UserError if there is none in `folder`, the network cannot be found, or it is another one by its digest.
    """
    path = Path(folder) / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        kind, name, digest, schema = (data[key] for key in ("kind", "name", "digest", "schema"))
    except FileNotFoundError:
        raise UserError(f"no {FILE} in {str(folder)!r}; make one with python -m data_prep.encode") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); copy it again") from None
    if schema > SCHEMA:
        raise UserError(f"{path} has schema {schema}, this program knows {SCHEMA}; update amt_jax")
    if kind == TFIDF:
        from amt_jax.text.tfidf import TfidfEncoder

        encoder = TfidfEncoder(data["terms"])
        if encoder.digest != digest:
            raise UserError(f"{path} is damaged (its digest differs); copy it again")
        return encoder
    from amt_jax.text.bert import BertEncoder

    try:
        encoder = BertEncoder(source or name, pooling=data["pooling"], length=data["length"])
    except UserError as error:
        raise UserError(
            f"the text encoder named in {path} cannot be loaded; if it lies elsewhere now, name that with --encoder: "
            f"{error}"
        ) from error
    if encoder.digest != digest:
        raise UserError(
            f"{source or name!r} is another text encoder than the one in {path} (digest {encoder.digest[:12]}, "
            f"wanted {digest[:12]}); name the checkpoint that was used, as a folder or NAME@REVISION"
        )
    return encoder
