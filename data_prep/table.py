"""Table: rows that survive a kill, so that interrupted work goes on where it was."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amt_jax.errors import UserError

_COMMIT_SECONDS = 1.0


class Table:
    """Rows by their first column, in an SQLite file that one process at a time may hold."""

    def __init__(self, file: Path, columns: str, configuration: str):
        """Opens or makes it; drops what it holds from another `configuration`.

        Raises UserError if another process has it or it cannot be written.
        """
        self._folder = file.parent
        self._columns = [column.split() for column in columns.split(", ")]
        try:
            self._open(file)
            self._use(configuration)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise UserError(f"another preparation is writing to {str(file.parent.parent)!r}; wait for it") from None
            raise UserError(f"cannot write to {str(file.parent)!r}: {error}") from None
        except sqlite3.DatabaseError:  # Damaged, by a power cut say. It holds nothing that cannot be made again.
            self._connection.close()
            for path in file.parent.glob(f"{file.name}*"):
                path.unlink()
            self._open(file)
            self._use(configuration)
        self._committed = time.monotonic()

    def _open(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, timeout=0.5, isolation_level=None)
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")

    def _use(self, configuration: str) -> None:
        execute = self._connection.execute
        columns = ", ".join(f"{name} {kind}" for name, kind in self._columns)
        execute("BEGIN IMMEDIATE")
        execute("CREATE TABLE IF NOT EXISTS configuration (value TEXT)")
        if execute("SELECT value FROM configuration").fetchall() != [(configuration,)]:
            execute("DROP TABLE IF EXISTS pieces")
            execute("DELETE FROM configuration")
            execute("INSERT INTO configuration VALUES (?)", (configuration,))
        execute(f"CREATE TABLE IF NOT EXISTS pieces ({columns}, PRIMARY KEY ({self._columns[0][0]})) WITHOUT ROWID")
        execute("COMMIT")
        execute("BEGIN")

    def __contains__(self, key: str) -> bool:
        return self.get(key, "1") is not None

    def get(self, key: str, columns: str) -> tuple[Any, ...] | None:
        """The named columns of the row of `key`, None if there is none."""
        query = f"SELECT {columns} FROM pieces WHERE {self._columns[0][0]} = ?"
        return self._connection.execute(query, (key,)).fetchone()

    def __iter__(self) -> Iterator[str]:
        """The keys as they are now; rows may be put and removed meanwhile."""
        return iter([key for (key,) in self._connection.execute(f"SELECT {self._columns[0][0]} FROM pieces")])

    def put(self, *row: Any) -> None:
        """Adds a row, or replaces the one of its key."""
        self._execute(f"INSERT OR REPLACE INTO pieces VALUES ({', '.join('?' * len(row))})", row)
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def remove(self, key: str) -> None:
        self._execute(f"DELETE FROM pieces WHERE {self._columns[0][0]} = ?", (key,))

    def commit(self) -> None:
        """Makes what was put so far survive a kill."""
        if self._connection.in_transaction:  # A full disk ends it.
            self._execute("COMMIT")
        self._execute("BEGIN")
        self._committed = time.monotonic()

    def close(self) -> None:
        try:
            if self._connection.in_transaction:
                self._execute("COMMIT")
        finally:
            self._connection.close()

    def _execute(self, *query) -> None:
        try:
            self._connection.execute(*query)
        except sqlite3.OperationalError as error:
            raise UserError(f"cannot write to {str(self._folder)!r}: {error}") from None
