"""Tokenizer: what all that comes after preparation knows of how music became ids."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from amt_jax.errors import UserError
from amt_jax.tokens.spec import TokenSpec

if TYPE_CHECKING:
    from symusic import Score

FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """Music to ids and back.

    Attributes:
      name: the preset.
      spec: the vocabulary.
      names: the base ids' names, "Pitch_60"; the grammar is made of them.
    """

    name: str
    spec: TokenSpec
    names: Sequence[str]

    def encode(self, score: Score) -> np.ndarray:
        """Token ids of a score, without BOS and EOS. [T] uint16. MidiError if nothing is left to encode."""

    def decode(self, ids: np.ndarray) -> Score:
        """The score of token ids, however they came about. [T] -> Score."""

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `folder`/tokenizer.json, whole or not at all."""


def load(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer of `folder`/tokenizer.json; raises UserError if it is missing or damaged."""
    from amt_jax.tokens.pianoroll import PianoRoll
    from amt_jax.tokens.symbolic import SymbolicTokenizer

    return (PianoRoll if read(folder)["preset"] == PianoRoll.name else SymbolicTokenizer).load(folder)


def read(folder: str | os.PathLike) -> dict:
    """What `folder`/tokenizer.json says, its preset at least; raises UserError if it is missing or damaged."""
    path = Path(folder) / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data["preset"]
        return data
    except FileNotFoundError:
        raise UserError(f"no {FILE} in {str(folder)!r}: a run or dataset folder without its tokenizer") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from None
