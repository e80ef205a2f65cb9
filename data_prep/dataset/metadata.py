"""Metadata: what a CSV or JSONL table says about the files of a folder."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import unicodedata
from collections.abc import Mapping

from amt_jax import storage
from amt_jax.errors import UserError
from data_prep.rows import read_rows, require_columns


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Composers, families and licences by a file's name (see files.Source.name), None where no column tells them.

    `names` are all that the table has a line for, None if there is no table.
    """

    composers: Mapping[str, str] | None = None
    families: Mapping[str, str] | None = None
    names: frozenset[str] | None = None
    licences: Mapping[str, str] | None = None

    @classmethod
    def read(
        cls, file: str, folder: str, path_column: str, composer_column: str | None, family_column: str | None
    ) -> Metadata:
        """Reads a .csv (with a header line) or .jsonl table whose paths are relative to `folder` or absolute in it.

        Raises UserError if the table or one of the named columns is missing, or a line cannot be read.
        """
        rows = list(read_rows(file))
        columns = list(dict.fromkeys(column for row in rows for column in row))
        for column in (path_column, composer_column, family_column):
            if column is not None:
                require_columns(file, columns, [column])
        if composer_column is None and family_column is None:
            raise UserError(
                f"say what to take from {file}: --composer-column or --family-column, of {', '.join(columns)}"
            )
        tables, names = {composer_column: {}, family_column: {}}, set()
        for row in rows:
            name = source_name(str(row.get(path_column) or ""), folder)
            names.add(name)
            for column, table in tables.items():
                value = row.get(column) if column else None
                if name and value not in (None, ""):
                    table.setdefault(name, unicodedata.normalize("NFC", str(value).strip()))
        return cls(
            tables[composer_column] if composer_column else None,
            tables[family_column] if family_column else None,
            frozenset(names),
        )


def source_name(path: str, folder: str) -> str:
    """What a file at `path`, relative to `folder` or absolute in it, is called; see files.Source.name."""
    path = unicodedata.normalize("NFC", path.strip().replace("\\", "/"))
    if posixpath.isabs(path):
        path = os.path.relpath(path, os.path.abspath(folder)).replace(os.sep, "/")
    elif storage.is_remote(path):
        path = path.removeprefix(f"{folder.rstrip('/')}/")
    return posixpath.normpath(path) if path else ""
