"""Classifier-free guidance (Ho & Salimans 2022), written once for any number of branches."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def guide(logits: jax.Array, scales: jax.Array) -> jax.Array:
    """base + Σ scaleᵢ · (condᵢ − base).

    Args:
      logits: [G, B, V]; with one branch it is the answer, else branch 0 is the base (null or the negative prompt).
      scales: [G - 1, B], the scale of each other branch.

    Returns:
      [B, V].
    """
    base, others = logits[0], logits[1:]
    return base + jnp.einsum("GB,GBV->BV", scales, others - base) if len(others) else base
