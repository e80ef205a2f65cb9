"""Clustering: a dataset's captions into clusters, and what is in each."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amt_jax.data.captions import CLUSTERS, FOLDER, CaptionTable
from amt_jax.data.card import file_sha256
from amt_jax.errors import UserError
from amt_jax.text.clusters import Clusters, normalise
from amt_jax.text.tfidf import STOP_WORDS
from data_prep.dataset import captions

TYPICAL = 5  # captions shown a cluster


def cluster(dataset: Path, ks: Sequence[int], *, seed: int) -> tuple[Clusters, CaptionTable]:
    """Divides a dataset's captions into the best K of `ks`, by those of the train split; the table as it is then.

    UserError if they are not encoded, or too few say anything.
    """
    with captions.hold(dataset):
        table = CaptionTable.load(dataset / FOLDER)
        table.verify()
        train = np.array([row for row, each in enumerate(table.captions) if each.train and table.lengths[row]])
        if not len(train):
            raise UserError(f"no caption of the train split in {table.folder} says anything to {table.card.encoder!r}")
        clusters = Clusters.fit(table.pooled(train), ks, seed=seed, digest=table.card.digest)
        table = _save(clusters, table)
        captions.register(dataset)
    return clusters, table


def _save(clusters: Clusters, table: CaptionTable) -> CaptionTable:
    """Puts clusters and the cluster of each caption beside the captions; the table as it is then."""
    folder, names = table.folder, (CLUSTERS, "semantic.npy")
    # Between the two cards the table has no clusters: a kill leaves no half of them.
    others = {name: sha256 for name, sha256 in table.card.files.items() if name not in names}
    dataclasses.replace(table.card, files=others).save(folder)
    clusters.save(folder)
    np.save(folder / "semantic.npy", clusters.assign(table.pooled(slice(None))))
    files = others | {name: file_sha256(folder / name) for name in names}
    dataclasses.replace(table.card, files=files).save(folder)
    return CaptionTable.load(folder)


@dataclasses.dataclass(frozen=True)
class Portrait:
    """A cluster for people: its size, the words that set it apart, and the captions nearest to its centroid."""

    size: int
    words: tuple[str, ...]
    captions: tuple[str, ...]


def portraits(clusters: Clusters, table: CaptionTable) -> list[Portrait]:
    """What is in each cluster."""
    words = [set(re.findall(r"[^\W\d_]{3,}", caption.text.casefold())) - STOP_WORDS for caption in table.captions]
    overall = Counter(word for each in words for word in each)
    made = []
    for number, centroid in enumerate(clusters.centroids):
        rows = np.flatnonzero(table.semantic == number)
        inside = Counter(word for row in rows for word in words[row])
        excess = {word: count / len(rows) - overall[word] / len(table) for word, count in inside.items()}
        nearest = rows[np.argsort(-normalise(table.pooled(rows)) @ centroid, kind="stable")[:TYPICAL]]
        made.append(
            Portrait(
                size=len(rows),
                words=tuple(sorted(excess, key=lambda word: (-excess[word], word))[:3]),
                captions=tuple(table.captions[row].text for row in nearest),
            )
        )
    return made
