"""Record: one piece of music, to bytes and back (msgpack, self-describing, versioned)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import msgpack
import numpy as np

from amt_jax.errors import UserError

VERSION = 1

# A condition's value by kind: categorical -> its name, multi_label -> names, scalar -> a number, text -> captions, each
# {"text", "human": whether a person wrote it, "names_key": whether it is untrue once the piece is transposed}.
# Names, not ids, stand in records: ids belong to the card, so a vocabulary can grow without rewriting shards.
ConditionValue = str | list[str] | float | list[dict[str, str | bool]]


@dataclasses.dataclass(frozen=True)
class Record:
    """One piece.

    Attributes:
      ids: token ids without BOS and EOS, uint16; [T] for one stream, [T, K] otherwise.
      conditions: condition name -> value; a condition that is not known is left out.
      piece: id of the piece, a hash of its musical content.
      family: pieces of one family (performances of one work) share a split.
      source: the file it came from, relative to the input folder.
      licence: licence of the source, empty if unknown.
    """

    ids: np.ndarray
    conditions: Mapping[str, ConditionValue]
    piece: str
    family: str
    source: str
    licence: str = ""

    def to_bytes(self) -> bytes:
        """Encodes the record; equal records give equal bytes."""
        if self.ids.dtype != np.uint16:
            raise TypeError(f"record ids are uint16, not {self.ids.dtype}")
        return msgpack.packb(
            {
                "version": VERSION,
                "shape": list(self.ids.shape),
                "ids": self.ids.astype("<u2").tobytes(),
                "conditions": {name: self.conditions[name] for name in sorted(self.conditions)},
                "piece": self.piece,
                "family": self.family,
                "source": self.source,
                "licence": self.licence,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Decodes a record; raises UserError if it is damaged or from a newer version."""
        try:
            fields = msgpack.unpackb(data)
            version = fields.pop("version")
            shape = fields.pop("shape")
            ids = np.frombuffer(fields.pop("ids"), "<u2").astype(np.uint16, copy=False).reshape(shape)
        except Exception as error:
            raise UserError(f"damaged record ({error}); prepare it in a new folder") from error
        if version > VERSION:
            raise UserError(f"record version {version} is newer than this program's {VERSION}; update amt_jax")
        return cls(ids=ids, **fields)
