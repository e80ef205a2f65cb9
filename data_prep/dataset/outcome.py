"""Outcome: what became of one input file; `files.jsonl` holds them all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from amt_jax.data.record import ConditionValue
from amt_jax.errors import UserError

FILE = "files.jsonl"
KEPT, DUPLICATE, SKIPPED = "kept", "duplicate", "skipped"


@dataclasses.dataclass(frozen=True, order=True)
class Outcome:
    """What became of one input file. Fields that do not apply are empty, and left out of the file.

    Attributes:
      source: path relative to the input folder.
      sha256: of the file's bytes.
      outcome: `kept`, `duplicate` or `skipped`.
      reason: for skipped files, one of a fixed set of short phrases.
      details: for skipped files, what exactly was wrong.
      original: for duplicates, the source that was kept.
      piece: hash of the music.
      work: name of the work that the file belongs to by its folder or by metadata.
      family: pieces of one family share a split.
      split: `train`, `valid` or `test`.
      composer: as found, before rare ones are pooled.
      tokens: its length, after BPE.
      seconds: its length.
      licence: of the file, where descriptions tell it.
      conditions: what else is known of it, as in Record.
    """

    source: str
    sha256: str
    outcome: str
    reason: str = ""
    details: str = ""
    original: str = ""
    piece: str = ""
    work: str = ""
    family: str = ""
    split: str = ""
    composer: str = ""
    tokens: int = 0
    seconds: float = 0.0
    licence: str = ""
    conditions: Mapping[str, ConditionValue] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def kept(self) -> bool:
        return self.outcome == KEPT


def write(outcomes: Iterable[Outcome], folder: Path) -> None:
    """Writes `folder`/files.jsonl, one line a file, sorted."""
    with open(folder / FILE, "w", encoding="utf-8") as file:
        for outcome in sorted(outcomes):
            fields = {name: value for name, value in dataclasses.asdict(outcome).items() if value}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def read(folder: Path) -> list[Outcome]:
    """Reads `folder`/files.jsonl; raises UserError if it is missing or damaged."""
    try:
        with open(folder / FILE, encoding="utf-8") as file:
            # A file that could not be read has no sha256.
            return [Outcome(**{"sha256": "", **json.loads(line)}) for line in file]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read {str(folder / FILE)!r} ({error}); nothing can be added without it: prepare into a new folder"
        ) from None
