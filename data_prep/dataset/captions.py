"""The captions of a dataset: who may write of them, what its records have, and what its card says of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from amt_jax import storage
from amt_jax.data.captions import CLUSTERS, FOLDER, Caption, CaptionTable
from amt_jax.data.card import Card, Vocabulary
from amt_jax.data.conditions import SEMANTIC, TEXT
from amt_jax.data.record import Record
from amt_jax.errors import UserError
from amt_jax.text.cleaning import clean
from amt_jax.text.clusters import Clusters
from data_prep.dataset import shards


@contextlib.contextmanager
def hold(dataset: Path) -> Iterator[None]:
    """Holds a dataset that captions are written to; UserError if there is none, or another process holds it."""
    if dataset.is_file():
        raise UserError(f"--dataset={dataset} is a file; name the dataset folder, {dataset.parent} perhaps")
    Card.load(dataset)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.lock(dataset, wait=False))
        except BlockingIOError:
            raise UserError(f"another process is at work on {dataset}; wait for it, or stop it") from None
        yield


def read(dataset: Path, card: Card) -> tuple[list[Caption], int]:
    """The unique captions of all records, sorted, and how many empty ones there were."""
    found: dict[str, Caption] = {}
    empty = 0
    with tqdm(total=sum(split.records for split in card.splits.values()), desc="reading captions", delay=2) as bar:
        for name, split in card.splits.items():
            for data in shards.read(dataset, split.shards):
                bar.update()
                for value in Record.from_bytes(data).conditions.get("text", ()):
                    text = value["text"]
                    if not clean(text):
                        empty += 1
                        continue
                    seen = found.get(text, Caption(text, human=False, names_key=False, count=0, train=0))
                    found[text] = Caption(
                        text,
                        human=seen.human or value["human"],
                        names_key=seen.names_key or value["names_key"],
                        count=seen.count + 1,
                        train=seen.train + (name == "train"),
                    )
    return [found[text] for text in sorted(found)], empty


def register(dataset: Path) -> None:
    """Writes into the dataset's card what its texts, and their clusters if there are any, are to a model."""
    card, table = Card.load(dataset), CaptionTable.load(dataset / FOLDER)
    about = table.card
    told = {
        TEXT: Vocabulary("text", encoder=about.encoder, digest=about.digest, length=about.length, width=about.width)
    }
    if table.semantic is not None:
        counts = [0] * Clusters.load(table.folder).k
        for cluster, caption in zip(table.semantic, table.captions, strict=True):
            if cluster >= 0:
                counts[cluster] += caption.count
        names, digest = tuple(map(str, range(len(counts)))), about.files[CLUSTERS]
        told[SEMANTIC] = Vocabulary("categorical", names, tuple(counts), digest=digest)
    kept = {name: each for name, each in card.conditions.items() if name not in (TEXT, SEMANTIC)}
    dataclasses.replace(card, conditions=kept | told).save(dataset)
