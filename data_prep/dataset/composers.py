"""Composers: which names get an id of their own, and composer_mapping.json, the table that says so."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from amt_jax.data.card import OTHER, Vocabulary
from data_prep.dataset.outcome import Outcome

FILE = "composer_mapping.json"
COUNTS = ("files", "works")


def bucket(kept: Iterable[Outcome], known: Vocabulary | None, min_count: int, count: str) -> Vocabulary | None:
    """The composers' vocabulary: names with at least `min_count` files or works in alphabetical order, then OTHER.

    Ids of the `known` vocabulary stay; names new to it come after OTHER. None if nobody has enough and nobody ever had.
    """
    files, works = Counter(), defaultdict(set)
    for outcome in kept:
        if outcome.composer:
            files[outcome.composer] += 1
            works[outcome.composer].add(outcome.family)
    amounts = files if count == "files" else {name: len(families) for name, families in works.items()}
    values = list(known.values) if known else []
    enough = [name for name, amount in amounts.items() if amount >= min_count and name not in (*values, OTHER)]
    values += sorted(enough, key=lambda name: (name.casefold(), name))
    if not values:
        return None
    if OTHER not in values:
        values.append(OTHER)
    own = {name: files[name] for name in values if name != OTHER}
    own[OTHER] = files.total() - sum(own.values())
    return Vocabulary("categorical", tuple(values), tuple(own[name] for name in values))


def write(vocabulary: Vocabulary | None, kept: Iterable[Outcome], folder: Path) -> None:
    """Writes `folder`/composer_mapping.json: ids, counts, and who is pooled in OTHER."""
    names = Counter(outcome.composer for outcome in kept)
    unconditional = names.pop("", 0)
    values = vocabulary.values if vocabulary else ()
    table = {
        "unconditional": {"id": 0, "pieces": unconditional},
        "composers": {
            name: {"id": index, "pieces": pieces}
            for index, (name, pieces) in enumerate(zip(values, vocabulary.counts if vocabulary else (), strict=True), 1)
        },
        "pooled": {name: names[name] for name in sorted(names) if name not in values},
    }
    (folder / FILE).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
