"""Captions: words about pieces in a table that somebody brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from amt_jax.errors import UserError
from data_prep.rows import checked, is_amount, is_naming, is_text, read_rows, require_columns
from data_prep.words.text import Missing, Text

# A number of a .csv is a text.
_KINDS = {"path": is_text, "genre": is_naming} | dict.fromkeys(
    ("bpm", "duration"), lambda value: is_text(value) or is_amount(value)
)


def read(file: str) -> Iterator[Text | Missing]:
    """The rows of a .csv or .jsonl table with the columns text, and path, or title and artist.

    It may also have url, licence, genre (a list, or names between semicolons), bpm and duration (seconds). UserError if
    a column is missing.
    """
    rows = list(read_rows(file))
    if not rows:
        raise UserError(f"{file} has no rows")
    columns = dict.fromkeys(column for row in rows for column in row)
    by_path = any("path" in column.casefold() for column in columns) and not {"title", "artist"} <= columns.keys()
    try:
        require_columns(file, columns, ["path", "text"] if by_path else ["title", "artist", "text"])
    except UserError as error:
        needs = "text, and path or title and artist, in small letters and (in a .csv) with commas between them"
        raise UserError(f"{error}; it needs {needs}") from None
    for row in rows:
        try:
            yield _text(checked(row, (), _KINDS))
        except ValueError as error:
            about = (_string(row, name) for name in ("title", "artist"))
            yield Missing("captions", *about, "unreadable row", str(error), _string(row, "path"))


def _text(row: Mapping[str, Any]) -> Text:
    genre = row.get("genre") or ()
    return Text(
        _string(row, "title"),
        _string(row, "artist"),
        _string(row, "text"),
        "captions",
        url=_string(row, "url"),
        licence=_string(row, "licence"),
        genre=tuple(each.strip() for each in (genre.split(";") if isinstance(genre, str) else genre)),
        bpm=_number(row, "bpm"),
        duration=_number(row, "duration"),
        path=_string(row, "path"),
    )


def _string(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)


def _number(row: Mapping[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value in (None, ""):
        return None
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{column} {value!r}")
    return number
