"""Settings: what decides the content of a dataset."""

from __future__ import annotations

import dataclasses

from amt_jax.errors import UserError
from data_prep.dataset import composers, piece


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the content of a dataset; one that exists is only added to with the same ones.

    Attributes:
      tokenizer: preset of SymbolicTokenizer.
      bpe: vocabulary size to reach by BPE, 0 for none.
      valid: share of the families in the validation split.
      test: share of the families in the test split.
      seed: chooses which.
      min_count: what a composer needs for an id of its own ...
      count: ... `files` or `works`.
    """

    tokenizer: str = "remi"
    bpe: int = 0
    valid: float = 0.05
    test: float = 0.05
    seed: int = 0
    min_count: int = 10
    count: str = "files"

    def __post_init__(self):
        if not (0 <= self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise UserError(
                f"--valid={self.valid:g} and --test={self.test:g} are shares that must leave some for training"
            )
        if self.count not in composers.COUNTS:
            raise UserError(f"--count is files or works, not {self.count!r}")
        if self.min_count < 1:
            raise UserError(f"--min-count is at least 1, not {self.min_count}")

    def to_json(self) -> dict[str, str | int | float]:
        return {"command": "data_prep.midi", "version": piece.VERSION, **dataclasses.asdict(self)}
