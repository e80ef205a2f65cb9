"""Remote: the staging of a dataset in an object store, by way of a folder on this machine."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.data import cache, card
from amt_jax.errors import UserError
from amt_jax.tokens import symbolic
from data_prep.dataset import outcome, similarity
from data_prep.dataset.staging import FOLDER, Staging

if TYPE_CHECKING:
    from etils import epath

COMMITTED = "committed"


class RemoteStaging(Staging):
    """As Staging, for `DATASET` in an object store: `dataset` is a copy in the cache, gone when the work is done.

    `commit` sends `draft` to `DATASET/.prepare/RUN`, writes RUN into `.prepare/committed`, which is the one moment that
    decides, and copies the files to their places inside the store, the card last; `recover`, on any machine, goes on
    with that. Until then the journal stays in the cache, and the dataset in the store as it was. Every run has a name
    of its own, because workers of one that was given up may still write; a store has no locks to keep others out.
    """

    def __init__(self, dataset: str):
        self._store = storage.open_folder(dataset)
        self._there = self._store / FOLDER
        self._files = storage.file_system(dataset)
        names = self._names(self._store)
        if names and card.FILE not in names and FOLDER not in names:
            raise UserError(f"{dataset!r} is no dataset but holds {names[0]!r}: name a new or empty folder")
        self._draft = self._there / uuid.uuid4().hex
        super().__init__(cache.folder_for("preparations", str(self._store)))

    def recover(self) -> None:
        with storage.reaching(self._store):
            if COMMITTED in self._names(self._there):
                self._move(self._there / (self._there / COMMITTED).read_text())
            self._remove_there()
        (self.dataset / card.FILE).unlink(missing_ok=True)  # Copied last, a card says that the copy is whole.
        super().recover()
        if card.FILE in self._names(self._store):
            self._fetch()

    def _fetch(self) -> None:
        card_ = card.Card.load(self._store)
        shards = [shard for split in card_.splits.values() for shard in split.shards]
        cache.fetch_shards(shards, self._store, self.dataset)
        for name in (symbolic.FILE, outcome.FILE, similarity.FILE, card.FILE):
            cache.fetch(self._store / name, self.dataset / name)

    def share(self) -> None:
        self.shards, self.work = self._draft, self._there / f"{self._draft.name}-work"

    def commit(self) -> None:
        storage.upload(self.draft, self._draft, progress=f"sending to {self._store}")
        with storage.reaching(self._store):
            self._check()
            storage.write_text(self._there / COMMITTED, self._draft.name)
            self._move(self._draft)

    def _check(self) -> None:
        """Raises UserError if another preparation was at work here meanwhile."""
        shards = [shard for split in card.Card.load(self.draft).splits.values() for shard in split.shards]
        there = {*self._names(self._store), *self._names(self._draft)}
        before, now = self.dataset / card.FILE, self._store / card.FILE
        same = before.exists() == now.exists() and (not now.exists() or before.read_bytes() == now.read_bytes())
        if not same or not there.issuperset(name for shard in shards for name in (shard.file, shard.lengths_file)):
            raise UserError(f"another preparation wrote to {self._store} meanwhile; run the same command again")

    def _move(self, draft: epath.Path) -> None:
        self._copy(draft, [name for name in self._names(draft) if name != card.FILE])
        self._copy(draft, [card.FILE])
        self._files.rm(str(self._there / COMMITTED))

    def _copy(self, draft: epath.Path, names: list[str]) -> None:
        self._files.copy([str(draft / name) for name in names], [str(self._store / name) for name in names])

    def remove(self) -> None:
        with storage.reaching(self._store):
            self._remove_there()
        for path in self.dataset.iterdir():
            if path != self.folder:
                path.unlink()
        super().remove()

    def _remove_there(self) -> None:
        if self._names(self._there):
            self._files.rm(str(self._there), recursive=True)

    def _names(self, folder: epath.Path) -> list[str]:
        """What lies directly in a folder of the store."""
        with storage.reaching(folder):
            try:
                paths = self._files.ls(str(folder), detail=False)
            except FileNotFoundError:
                return []
        names = sorted(path.rstrip("/").rpartition("/")[2] for path in paths)
        return [name for name in names if name]
