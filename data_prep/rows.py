"""Tables: rows of CSV and JSON lines files that people bring."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from amt_jax.errors import UserError, near

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


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise UserError(f"{place} is not JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(row, dict):
        raise UserError(f"{place} is not a JSON object")
    return row


def read_objects(
    file: str, texts: Collection[str], way_out: str, *, may_be_empty: bool = False
) -> list[dict[str, Any]]:
    """The rows of a file that another step wrote; UserError if it is empty, or a row lacks one of `texts`.

    Args:
      file: .jsonl.
      texts: fields that have to be there and be text, if only an empty one.
      way_out: what makes such a file, for the error.
      may_be_empty: whether a file without rows is one too.
    """
    rows = []
    for number, row in numbered_rows(file):
        if missing := [field for field in texts if not isinstance(row.get(field), str)]:
            lacking = " and ".join(map(repr, missing))
            raise UserError(f"line {number} of {file} has no text as {lacking}; {way_out}")
        rows.append(row)
    if not (rows or may_be_empty):
        raise UserError(f"{file} is empty; {way_out}")
    return rows


def require_columns(file: str, columns: Collection[str], wanted: Collection[str]) -> None:
    """UserError unless `columns`, those of `file`, hold all that are wanted."""
    for column in wanted:
        if column not in columns:
            known = [str(each) for each in columns]
            raise UserError(f"{file} has no column {near(column, known, f'it has {len(known)} others')}")
