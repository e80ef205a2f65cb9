"""Pairs: automated_paired_data.json, which words belong to which MIDI file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amt_jax.errors import UserError

FILE = "automated_paired_data.json"


def read(file: str) -> list[dict[str, Any]]:
    """The entries as data_prep.pair writes them; UserError at one that has no midi_path or no text."""
    try:
        entries = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file!r}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {file!r} as JSON in UTF-8: {error}") from None
    if not isinstance(entries, list):
        raise UserError(f"{file} is not a list of pairs; data_prep.pair makes it")
    for number, entry in enumerate(entries, 1):
        for name in ("midi_path", "text"):
            if not isinstance(entry, dict) or not isinstance(entry.get(name), str) or not entry[name].strip():
                has = ", ".join(entry) if isinstance(entry, dict) and entry else "nothing"
                raise UserError(f"pair {number} of {file} has no {name}, but {has}; data_prep.pair makes such files")
    return entries
