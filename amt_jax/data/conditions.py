"""Values of conditions as the network takes them: vectors, see model.conditioning.

L vectors a value   W their width   D the text encoder's width
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amt_jax.data.card import FILE, Card, Vocabulary
from amt_jax.errors import UserError

if TYPE_CHECKING:
    from amt_jax.data.captions import CaptionTable

TEXT, SEMANTIC = "text", "semantic"
TRANSPOSITION = "transposition"  # by how many semitones training has moved a piece; null where it has not
TRANSPOSITIONS = Vocabulary("categorical", tuple(f"{step:+d}" for step in range(-12, 13) if step))


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a run tells its network of a piece.

    Attributes:
      vocabularies: of all conditions that it uses, by name.
      lengths: L by name; above 1 where the network attends to a value vector by vector.
      captions: the vectors of the dataset's texts; None where neither they nor their clusters are read.
    """

    vocabularies: Mapping[str, Vocabulary]
    lengths: Mapping[str, int]
    captions: CaptionTable | None = None

    def of_piece(
        self, values: Mapping[str, Any], random: np.random.Generator | None = None, *, transposed: int = 0
    ) -> dict[str, np.ndarray]:
        """The values of a record's conditions. name -> [L, W] float16

        Of several captions a random one is taken, or without `random` the first that a person wrote, else the first;
        never one that names the key of a piece that was transposed, by so many semitones.
        """
        number = self._caption(values, random, transposed) if self.captions else None
        found = {}
        for name, vocabulary in self.vocabularies.items():
            if name == TEXT and number is not None:
                found[name] = self.text(self.captions.states(number), self.captions.pooled(number))
            elif name == TRANSPOSITION:
                found[name] = self.value(name, f"{transposed:+d}" if transposed else None)
            elif name == SEMANTIC and number is not None:
                found[name] = self.value(name, str(self.captions.semantic[number]))  # −1 is none of them
            else:
                found[name] = self.value(name, None if vocabulary.kind == "text" else values.get(name))
        return found

    def _caption(self, values: Mapping[str, Any], random: np.random.Generator | None, transposed: int) -> int | None:
        captions = [each for each in values.get(TEXT, ()) if not (transposed and each["names_key"])]
        if not captions:
            return None
        if random is None:
            return self.captions.index(next((each for each in captions if each["human"]), captions[0])["text"])
        return self.captions.index(captions[random.integers(len(captions))]["text"])

    def value(self, name: str, value: Any) -> np.ndarray:
        """A name, names, a number or None. [L, W] float16"""
        vocabulary = self.vocabularies[name]
        if value is None:
            return _stack(np.zeros((0, vocabulary.size)), self.lengths[name])
        return _stack(vocabulary.vector(value)[None], self.lengths[name])

    def text(self, states: np.ndarray, pooled: np.ndarray) -> np.ndarray:
        """A text by the vectors of its tokens, [n, D], and by one for all of it, [D]. [L, W] float16"""
        length = self.lengths[TEXT]
        vectors = np.asarray(states if length > 1 else pooled[None], np.float32)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
        return _stack(np.pad(vectors, ((0, 0), (1, 0))), length)


def open_conditions(folder: str | os.PathLike, card: Card, config: Any) -> Conditions:
    """What a network (model.transformer.TransformerConfig) is told of the pieces of a dataset folder.

    UserError if its captions are missing, or were encoded by another encoder than the card names.
    """
    lengths = {each.name: each.length for each in config.conditions}
    vocabularies, captions = {name: card.conditions[name] for name in lengths}, None
    if not {TEXT, SEMANTIC}.isdisjoint(lengths):
        from amt_jax.data.captions import CLUSTERS, CaptionTable

        captions, wanted = CaptionTable.load(Path(folder) / TEXT), card.conditions[TEXT]
        if captions.card.digest != wanted.digest:
            raise UserError(
                f"the captions in {folder} were encoded by {captions.card.encoder} ({captions.card.digest[:12]}), the "
                f"model knows {wanted.encoder} ({wanted.digest[:12]}); encode them by that: "
                f"python -m data_prep.encode --dataset={folder} --encoder={wanted.encoder}"
            )
        captions.verify()
        clusters = captions.card.files.get(CLUSTERS)
        if SEMANTIC in lengths and clusters != card.conditions[SEMANTIC].digest:
            about = Path(folder) / FILE  # a copy of a remote dataset has none
            own = Card.load(folder).conditions.get(SEMANTIC) if about.exists() else None
            if own and own.digest != clusters:
                raise UserError(
                    f"{about} names other clusters than those in {captions.folder}: data_prep.cluster "
                    f"was interrupted; run python -m data_prep.cluster --dataset={folder} again"
                )
            raise UserError(
                f"the clusters in {folder} are not those whose semantic tokens the model knows; take the dataset that "
                f"it was trained on, as it was then"
            )
    return Conditions(vocabularies, lengths, captions)


def _stack(vectors: np.ndarray, length: int) -> np.ndarray:
    """Up to L vectors [n, W], null's first where there is room for it or nothing else. [L, W] float16"""
    value = np.zeros((length, vectors.shape[1]), np.float16)
    first = int(length > 1)
    vectors = vectors[: length - first]
    value[first : first + len(vectors)] = vectors
    if first or not value.any():
        value[0, 0] = 1
    return value
