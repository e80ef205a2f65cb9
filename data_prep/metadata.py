"""Metadata: what a CSV or JSONL table says about the files of a folder."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import posixpath
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amt_jax import storage
from amt_jax.errors import UserError, near


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Composers and families by a file's name (see files.Source.name); a name that is missing has neither."""

    composers: Mapping[str, str]
    families: Mapping[str, str]

    @classmethod
    def read(
        cls, file: str, folder: str, path_column: str, composer_column: str | None, family_column: str | None
    ) -> Metadata:
        """Reads a .csv (with a header line) or .jsonl table whose paths are relative to `folder` or absolute in it.

        Raises UserError if the table or one of the named columns is missing, or a line cannot be read.
        """
        lines = rows(file)
        columns = list(dict.fromkeys(column for row in lines for column in row))
        for column in (path_column, composer_column, family_column):
            if column is not None and column not in columns:
                raise UserError(f"{file} has no column {near(column, columns)}; its columns: {', '.join(columns)}")
        if composer_column is None and family_column is None:
            raise UserError(
                f"say what to take from {file}: --composer-column or --family-column, of {', '.join(columns)}"
            )
        tables = {composer_column: {}, family_column: {}}
        for row in lines:
            name = _name(str(row.get(path_column) or ""), folder)
            for column, table in tables.items():
                value = row.get(column) if column else None
                if name and value not in (None, ""):
                    table.setdefault(name, unicodedata.normalize("NFC", str(value).strip()))
        return cls(tables[composer_column] if composer_column else {}, tables[family_column] if family_column else {})


def rows(file: str) -> list[dict[str, Any]]:
    """The rows of a .csv or .jsonl table; UserError that names the line or the reason if it cannot be read."""
    kind = Path(file).suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise UserError(f"cannot read {file!r}: a table is a .csv or a .jsonl file")
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front of the first column's name.
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if kind == ".csv":
                return [{k: v for k, v in row.items() if k} for row in csv.DictReader(lines, strict=True)]
            rows = []
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(json.loads(line))
                    if not isinstance(rows[-1], dict):
                        raise UserError(f"line {number} of {file} is not a JSON object")
            return rows
    except OSError as error:
        raise UserError(f"cannot read {file!r}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {file!r} as {kind[1:]} in UTF-8: {error}") from None


def _name(path: str, folder: str) -> str:
    path = unicodedata.normalize("NFC", path.strip().replace("\\", "/"))
    if posixpath.isabs(path):
        path = os.path.relpath(path, os.path.abspath(folder)).replace(os.sep, "/")
    elif storage.is_remote(path):
        path = path.removeprefix(f"{folder.rstrip('/')}/")
    return posixpath.normpath(path) if path else ""
