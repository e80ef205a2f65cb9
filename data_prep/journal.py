"""Journal: the pieces already prepared, so that an interrupted preparation goes on where it was."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import numpy as np

from amt_jax.errors import UserError
from data_prep.piece import Finding, Piece

_COLUMNS = "sha256 TEXT PRIMARY KEY, piece TEXT, ids BLOB, signature BLOB, seconds REAL, reason TEXT, details TEXT"
_COMMIT_SECONDS = 1.0


class Journal:
    """sha256 of a file -> its Piece, in an SQLite file that one process at a time may hold."""

    def __init__(self, file: Path, configuration: str):
        """Opens or makes it; drops what it holds from another `configuration`.

        Raises UserError if another process has it or it cannot be written.
        """
        self._folder = file.parent
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
        execute("BEGIN IMMEDIATE")
        execute("CREATE TABLE IF NOT EXISTS configuration (value TEXT)")
        if execute("SELECT value FROM configuration").fetchall() != [(configuration,)]:
            execute("DROP TABLE IF EXISTS pieces")
            execute("DELETE FROM configuration")
            execute("INSERT INTO configuration VALUES (?)", (configuration,))
        execute(f"CREATE TABLE IF NOT EXISTS pieces ({_COLUMNS}) WITHOUT ROWID")
        execute("COMMIT")
        execute("BEGIN")

    def __contains__(self, sha256: str) -> bool:
        return self._connection.execute("SELECT 1 FROM pieces WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def __setitem__(self, sha256: str, piece: Piece) -> None:
        self._execute(
            "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                sha256,
                piece.piece,
                piece.ids.astype("<u2").tobytes(),
                piece.signature.astype("<u4").tobytes(),
                piece.seconds,
                piece.reason,
                piece.details,
            ),
        )
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def __getitem__(self, sha256: str) -> Piece:
        query = "SELECT piece, ids, signature, seconds, reason, details FROM pieces WHERE sha256 = ?"
        row = self._connection.execute(query, (sha256,)).fetchone()
        if row is None:
            raise KeyError(sha256)
        piece, ids, signature, seconds, reason, details = row
        ids, signature = np.frombuffer(ids, "<u2"), np.frombuffer(signature, "<u4")
        return Piece(piece, ids.astype(np.uint16), signature.astype(np.uint32), seconds, reason, details)

    def finding(self, sha256: str) -> Finding:
        query = "SELECT piece, length(ids) / 2, seconds, reason, details FROM pieces WHERE sha256 = ?"
        return Finding(*self._connection.execute(query, (sha256,)).fetchone())

    def commit(self) -> None:
        """Makes what was set so far survive a kill."""
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
