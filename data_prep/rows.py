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
    """`read_rows`, each with the number of the line that it ends on."""
    kind = Path(file).suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise UserError(f"cannot read {file!r}: a table is a .csv or a .jsonl file")
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front of the first column's name.
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if kind == ".csv":
                for row in (reader := csv.DictReader(lines, strict=True)):
                    yield reader.line_num, {column: value for column, value in row.items() if column}
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        wrong = getattr(error, "msg", error)  # without json's own count of lines
                        raise UserError(f"line {number} of {file} is not JSON ({wrong})") from None
                    if not isinstance(row, dict):
                        raise UserError(f"line {number} of {file} is not a JSON object")
                    yield number, row
    except OSError as error:
        raise UserError(f"cannot read {file!r}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file!r} as {kind[1:]} in UTF-8: {error}") from None


def require_columns(file: str, columns: Collection[str], wanted: Collection[str]) -> None:
    """UserError unless `columns`, those of `file`, hold all that are wanted."""
    for column in wanted:
        if column not in columns:
            known = [str(each) for each in columns]
            raise UserError(f"{file} has no column {near(column, known)}; its columns: {', '.join(known) or 'none'}")
