"""Tables: rows of CSV and JSON lines files that people bring."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from amt_jax.errors import UserError, near

Kinds = Mapping[str, Callable[[Any], bool]]

csv.field_size_limit(1 << 24)  # What is said about an album can be longer than Python's own 128 Ki characters.


def read_rows(file: str) -> Iterator[dict[str, Any]]:
    """The rows of a .csv (with a header line) or .jsonl file by column; UserError at what cannot be read."""
    return (row for _, row in numbered_rows(file))


def numbered_rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same, each row with its line in a .jsonl file, or its number in a .csv file; from 1."""
    kind = Path(file).suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise UserError(f"cannot read {file!r}: a table is a .csv or a .jsonl file")
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front of the first column's name.
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if kind == ".csv":
                for number, row in enumerate(csv.DictReader(lines, strict=True), 1):
                    yield number, {column: value for column, value in row.items() if column}
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _object(line, f"line {number} of {file}")
    except OSError as error:
        raise UserError(f"cannot read {file!r}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file!r} as {kind[1:]} in UTF-8: {error}") from None


def parse(text: str, place: str) -> Any:
    """What `text` says as JSON; UserError if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise UserError(f"{place} is not JSON: {getattr(error, 'msg', error)}") from None


def _object(line: str, place: str) -> dict[str, Any]:
    row = parse(line, place)
    if not isinstance(row, dict):
        raise UserError(f"{place} is not a JSON object")
    return row


def read_objects(
    file: str, needed: Collection[str], kinds: Kinds, way_out: str, *, may_be_empty: bool = False
) -> list[dict[str, Any]]:
    """The rows of a file that another step wrote; UserError if it is empty, or at a row that `checked` refuses.

    Args:
      file: .jsonl.
      way_out: what makes such a file, for the error.
      may_be_empty: whether a file without rows is one too.
    """
    rows = []
    for number, row in numbered_rows(file):
        try:
            rows.append(checked(row, needed, kinds))
        except ValueError as error:
            raise UserError(f"line {number} of {file} cannot be used ({error}); {way_out}") from None
    if not (rows or may_be_empty):
        raise UserError(f"{file} is empty; {way_out}")
    return rows


def checked(row: Mapping[str, Any], needed: Collection[str], kinds: Kinds) -> dict[str, Any]:
    """A row whose fields are of their kinds; a number that is none (NaN, infinite) is not known: None.

    Args:
      needed: fields that have to be there.
      kinds: what values of fields have to be, where a row has them.

    Raises ValueError that says what the row lacks, or has instead.
    """
    row = {name: None if isinstance(each, float) and not math.isfinite(each) else each for name, each in row.items()}
    for name in dict.fromkeys([*needed, *kinds]):
        if (value := row.get(name)) is None:
            if name in needed:
                raise ValueError(f"it has no {name!r}")
        elif not kinds[name](value):
            raise ValueError(f"its {name} is {str(value)[:40]!r}")
    return row


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_said(value: Any) -> bool:
    """Whether it is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_amount(value: Any) -> bool:
    """Whether it is a number that is not below 0."""
    return is_number(value) and value >= 0


def is_worded(value: Any) -> bool:
    """Whether it is an object with a text."""
    return isinstance(value, dict) and is_text(value.get("text"))


def are(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The kind of lists of values of that kind."""
    return lambda value: isinstance(value, list) and all(map(kind, value))


def is_naming(value: Any) -> bool:
    """Whether it is a text or several: what people write as genre."""
    return is_text(value) or are(is_text)(value)


# What midi_metadata.jsonl says of a file.
_FACTS: Kinds = (
    {"path": is_said, "instruments": are(is_text), "captions": are(is_worded)}
    | dict.fromkeys(("title", "artist", "family", "licence", "key", "time_signature", "polyphony"), is_text)
    | dict.fromkeys(("duration", "tempo", "density", "notes"), is_amount)
)


def read_metadata(file: str, needed: Collection[str]) -> list[dict[str, Any]]:
    """The rows of midi_metadata.jsonl; UserError at one that lacks a `needed` field or has what is none."""
    return read_objects(file, needed, _FACTS, "data_prep.collect makes it of a folder of MIDI files")


def require_columns(file: str, columns: Collection[str], wanted: Collection[str]) -> None:
    """UserError unless `columns`, those of `file`, hold all that are wanted."""
    for column in wanted:
        if column not in columns:
            known = [str(each) for each in columns]
            raise UserError(f"{file} has no column {near(column, known, f'it has {len(known)} others')}")
