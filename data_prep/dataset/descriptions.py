"""Descriptions: what is known in words and numbers of each file, into records and into the card's vocabularies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from amt_jax.data.card import Vocabulary
from amt_jax.errors import UserError
from amt_jax.text.cleaning import clean
from data_prep.dataset.families import folder_key
from data_prep.dataset.metadata import source_name
from data_prep.dataset.outcome import Outcome
from data_prep.rows import are, checked, is_number, is_text, numbered_rows

LABELS = ("genre", "mood", "instruments")
NUMBERS = ("tempo", "density")
CAPTION = {"text": is_text} | dict.fromkeys(("human", "names_key"), lambda value: isinstance(value, bool))
KINDS = {"path": is_text, "captions": are(lambda value: isinstance(value, dict))}
KINDS |= dict.fromkeys(LABELS, are(is_text)) | dict.fromkeys(NUMBERS, is_number)
# A number is told by its place among so many quantiles of the training split.
KNOTS = 17


def read(file: str, folder: str) -> dict[str, dict[str, Any]]:
    """What data_prep.describe wrote: by a file's name (see files.Source.name) its conditions, as in Record.

    Raises UserError at a line that is none.
    """
    found = {}
    for number, row in numbered_rows(file):
        try:
            row = checked(row, ["path"], KINDS)
            name = source_name(row["path"], folder)
            if name in found:
                raise ValueError(f"{row['path']!r} was described before")
            found[name] = _conditions(row)
        except ValueError as error:
            raise UserError(
                f"line {number} of {file} is not a description ({error}); make it with data_prep.describe"
            ) from None
    return found


def families(file: str, folder: str) -> dict[str, str]:
    """The works that windows are of, by a file's name: the file that they were cut from, or the folder that holds it.

    `file` is one that `read` takes; what it tells no family of is left out.
    """
    found = {source_name(row["path"], folder): row.get("family") for _, row in numbered_rows(file)}
    return {name: folder_key(each) or each for name, each in found.items() if isinstance(each, str) and each}


def licences(file: str, folder: str) -> dict[str, str]:
    """The licences of files' music, by a file's name, where `file`, one that `read` takes, tells them."""
    found = {source_name(row["path"], folder): row.get("licence") for _, row in numbered_rows(file)}
    return {name: each for name, each in found.items() if isinstance(each, str) and each}


def _conditions(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a line has; what is empty is not known."""
    captions = [checked(caption, CAPTION, CAPTION) for caption in row.get("captions") or ()]
    values = {"text": [{name: each[name] for name in CAPTION} for each in captions if clean(each["text"])]}
    values |= {name: sorted(set(row.get(name) or ())) for name in LABELS}
    values |= {name: float(row[name]) for name in NUMBERS if row.get(name) is not None}
    json.dumps(values, ensure_ascii=False).encode()  # raises at half a character, which no file can hold
    return {name: value for name, value in values.items() if value != []}


def vocabularies(kept: Sequence[Outcome], known: Mapping[str, Vocabulary], min_count: int) -> dict[str, Vocabulary]:
    """The vocabularies of all that is told of the `kept` pieces; what is in the `known` ones keeps its id.

    A label gets an id with `min_count` pieces. A number's knots are quantiles of the training split, as many as differ.
    """
    found = {}
    for name in LABELS:
        counts = Counter(label for each in kept for label in each.conditions.get(name, ()))
        values = list(known[name].values) if name in known else []
        values += sorted(label for label, count in counts.items() if count >= min_count and label not in values)
        if values:
            found[name] = Vocabulary("multi_label", tuple(values), tuple(counts[value] for value in values))
    for name in NUMBERS:
        knots = (
            known[name].knots
            if name in known
            else _knots([each.conditions[name] for each in kept if each.split == "train" and name in each.conditions])
        )
        if len(knots) > 1:
            found[name] = Vocabulary("scalar", knots=knots)
    return found


def _knots(values: Iterable[float]) -> tuple[float, ...]:
    values = np.array(list(values))
    if not len(values):
        return ()
    return tuple(sorted({round(float(each), 3) for each in np.quantile(values, np.linspace(0, 1, KNOTS))}))
