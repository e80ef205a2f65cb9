"""Cache: the copies on this machine of datasets that lie in an object store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from amt_jax import storage
from amt_jax.data import captions
from amt_jax.data.card import Card, Shard, file_sha256
from amt_jax.data.conditions import TEXT
from amt_jax.errors import UserError


def open_dataset(folder: str, splits: Sequence[str]) -> tuple[Card, Path]:
    """A dataset's card, and a folder on this machine with the undamaged shards of `splits`.

    Shards of a remote dataset are fetched once; all runs and processes of a machine share them. UserError if there is
    no dataset, its store cannot be reached, or a shard is missing or damaged.
    """
    card = Card.load(folder)
    if not storage.is_remote(folder):
        card.verify(folder, splits)
        return card, Path(folder)
    source = storage.open_folder(folder)
    copy = folder_for("datasets", repr(card.splits))
    copy.mkdir(parents=True, exist_ok=True)
    shards = [shard for name in splits if name in card.splits for shard in card.splits[name].shards]
    if not all(_is_whole(shard, copy) for shard in shards):
        with storage.lock(copy, wait=True):  # Another process may be fetching them, or just have done so.
            fetch_shards(shards, source, copy)
    if TEXT in card.conditions:
        with storage.lock(copy, wait=True):
            fetch_texts(source / captions.FOLDER, copy / captions.FOLDER)
    return card, copy


def home() -> Path:
    """Where on this machine everything is kept that can be made or fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amt_jax"


def folder_for(kind: str, key: str) -> Path:
    """Where on this machine what belongs to `key` is kept."""
    return home() / kind / hashlib.sha256(key.encode()).hexdigest()[:16]


def fetch_shards(shards: Sequence[Shard], source: os.PathLike, copy: Path) -> None:
    """Downloads those of the shards that are not in `copy` or damaged there."""
    wanted = [shard for shard in shards if not _is_whole(shard, copy)]
    for shard in tqdm(wanted, desc=f"fetching {source} to {copy}", unit="shard", disable=not wanted):
        for name in (shard.lengths_file, shard.file):
            fetch(source / name, copy / name, shard.sha256 if name == shard.file else None)


def fetch_texts(source: os.PathLike, copy: Path) -> None:
    """Downloads what of a table of captions is not in `copy` or differs there."""
    copy.mkdir(exist_ok=True)
    fetch(source / captions.CARD, copy / captions.CARD)
    for name, sha256 in captions.read_card(copy).files.items():
        if not (copy / name).exists() or file_sha256(copy / name) != sha256:
            fetch(source / name, copy / name, sha256)


def _is_whole(shard: Shard, folder: Path) -> bool:
    path = folder / shard.file
    return (folder / shard.lengths_file).exists() and path.exists() and file_sha256(path) == shard.sha256


def fetch(source: os.PathLike, target: Path, sha256: str | None = None) -> None:
    """Downloads a file, which gets its name when it is complete and undamaged."""
    part = target.with_name(f"{target.name}.part")
    with storage.reaching(source):
        storage.file_system(source).get_file(os.fspath(source), str(part))
    if sha256 and file_sha256(part) != sha256:
        raise UserError(f"{source} is damaged (sha256 differs); copy it there again, or prepare it in a new folder")
    os.replace(part, target)
