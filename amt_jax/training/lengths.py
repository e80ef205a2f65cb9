"""Lengths: a run may begin with short contexts, whose attention costs less, and end with the whole one.

Only what a step computes changes: it takes the same rows of the plan, cut into pieces of the phase's length, so that it
has as many tokens, and every token is still met once an epoch.

Glossary: B rows, C the context, c a phase's length, S the most segments a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amt_jax.errors import UserError


def phases(lengths: str, context: int, total_steps: int) -> list[tuple[int, int]]:
    """The length of each phase of a run and the step at which it is over, in order.

    Args:
      lengths: "length:share,…", each share a fraction of the steps; what they leave has the length `context`.
        "512:0.5,1024:0.3" with context 2048: half of the steps at 512, 0.3 at 1024, 0.2 at 2048.
      context: C; every length divides it.
      total_steps: of the run.

    Raises:
      UserError: if `lengths` is none of that.
    """
    found, shares = [], 0.0
    try:
        for phase in filter(None, lengths.split(",")):
            length, share = phase.split(":")
            shares += float(share)
            if float(share) <= 0 or int(length) < 1 or context % int(length):
                raise ValueError
            found.append((int(length), round(shares * total_steps)))
        if not shares <= 1 + 1e-9:
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"config.lengths is {lengths!r}; it looks like 512:0.5,1024:0.3, each length a divisor of config.context "
            f"{context} with its share of the steps, at most 1 in all"
        ) from None
    return found if found and found[-1][1] == total_steps else [*found, (context, total_steps)]


def length_at(phases: list[tuple[int, int]], step: int) -> int:
    """The length of rows in the step after `step` steps; after the last one, that of the last phase."""
    return next((length for length, stop in phases if step < stop), phases[-1][0])


def cut(batch: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Rows of C tokens as C / c rows of c = `length` each, in order. [B, C, …] -> [B · C / c, c, …]

    What a cut goes on with begins again at position 0. Conditions [B, S] stand once a cut.
    """
    cuts = batch["inputs"].shape[1] // length
    if cuts == 1:
        return dict(batch)
    conditions = {name: np.repeat(ids, cuts, axis=0) for name, ids in batch["conditions"].items()}
    whole = {name: x for name, x in batch.items() if name not in ("lengths", "conditions")}
    rows = {name: x.reshape(-1, length, *x.shape[2:]) for name, x in whole.items()}
    numbers = np.arange(1, batch["lengths"].shape[1] + 1)
    lengths = np.sum(rows["segments"][..., None] == numbers, axis=1, dtype=np.int32)
    goes_on = rows["segments"] == rows["segments"][:, :1]
    positions = rows["positions"] - np.where(goes_on, rows["positions"][:, :1], 0)
    return rows | {"positions": positions, "lengths": lengths, "conditions": conditions}
