"""Journal: the pieces already prepared, so that an interrupted preparation goes on where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.dataset.piece import Finding, Piece
from data_prep.table import Table

_COLUMNS = "sha256 TEXT, piece TEXT, ids BLOB, signature BLOB, seconds REAL, reason TEXT, details TEXT"


class Journal(Table):
    """sha256 of a file -> its Piece."""

    def __init__(self, file: Path, configuration: str):
        """Opens or makes it; see Table."""
        super().__init__(file, _COLUMNS, configuration)

    def __setitem__(self, sha256: str, piece: Piece) -> None:
        ids, signature = piece.ids.astype("<u2").tobytes(), piece.signature.astype("<u4").tobytes()
        self.put(sha256, piece.piece, ids, signature, piece.seconds, piece.reason, piece.details)

    def __getitem__(self, sha256: str) -> Piece:
        row = self.get(sha256, "piece, ids, signature, seconds, reason, details")
        if row is None:
            raise KeyError(sha256)
        piece, ids, signature, seconds, reason, details = row
        ids, signature = np.frombuffer(ids, "<u2"), np.frombuffer(signature, "<u4")
        return Piece(piece, ids.astype(np.uint16), signature.astype(np.uint32), seconds, reason, details)

    def finding(self, sha256: str) -> Finding:
        return Finding(*self.get(sha256, "piece, length(ids) / 2, seconds, reason, details"))
