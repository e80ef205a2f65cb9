"""JSON lines: the files that the steps of preparing words hand on."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from amt_jax.errors import UserError


def read(file: str, texts: Collection[str], *, may_be_empty: bool = False) -> list[dict[str, Any]]:
    """The objects of a file, one a line; UserError with the line if one is broken or has no `texts`.

    Args:
      texts: fields that have to be there and be text, if only an empty one.
    """
    lines = []
    try:
        with open(file, encoding="utf-8") as text:
            for number, line in enumerate(text, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"line {number} of {file} is not JSON: {error.msg}") from None
                if not isinstance(row, dict):
                    raise UserError(f"line {number} of {file} is not a JSON object")
                if missing := [field for field in texts if not isinstance(row.get(field), str)]:
                    raise UserError(f"line {number} of {file} has no text as {' and '.join(map(repr, missing))}")
                lines.append(row)
    except OSError as error:
        raise UserError(f"cannot read {file!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file!r} is not UTF-8: {error}") from None
    if not (lines or may_be_empty):
        raise UserError(f"{file} is empty")
    return lines
