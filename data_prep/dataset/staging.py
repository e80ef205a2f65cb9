"""Staging: files of a dataset appear in its folder together, or, after a kill, at the next start."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from amt_jax.data import card
from amt_jax.errors import UserError

FOLDER = ".prepare"


class Staging:
    """The work in progress of a dataset folder, under `DATASET/.prepare`.

    `draft` holds new files, `work` what only helps to make them. `commit` renames `draft` to `ready`, which is the one
    moment that decides, and moves its files into the dataset, the card last; a `ready` folder that a kill left behind
    is moved by `recover`. `shards` is where a runner puts shards: the draft.
    """

    def __init__(self, dataset: Path):
        """Makes the folder; raises UserError if that is not possible or it holds something else than a dataset."""
        self.dataset = dataset
        self.folder = dataset / FOLDER
        self.draft = self.folder / "draft"
        self.work = self.folder / "work"
        self.shards = self.draft
        self._ready = self.folder / "ready"
        try:
            ours = (dataset / card.FILE).exists() or self.folder.exists()
            if dataset.is_dir() and not ours and (other := sorted(path.name for path in dataset.iterdir())):
                raise UserError(f"{str(dataset)!r} is no dataset but holds {other[0]!r}: name a new or empty folder")
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {str(dataset)!r}: {error.strerror}") from None

    def recover(self) -> None:
        """Finishes a commit that was cut off and drops a draft that was never committed."""
        if self._ready.exists():
            self._move()
        for folder in (self.draft, self.work):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def share(self) -> None:
        """Puts `shards` and `work` where other machines find them, if there is such a place."""

    def commit(self) -> None:
        """Moves everything in `draft` into the dataset."""
        for path in self.draft.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        os.replace(self.draft, self._ready)
        self._move()

    def _move(self) -> None:
        for path in sorted(self._ready.iterdir(), key=lambda path: (path.name == card.FILE, path.name)):
            os.replace(path, self.dataset / path.name)
        self._ready.rmdir()

    def remove(self) -> None:
        """Removes all work in progress, and the dataset's folder if nothing is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # Not empty: the dataset is in it.
            self.dataset.rmdir()
