"""The key/value cache and the window of tokens it belongs to.

    B batch (times guidance branches)   K key/value heads   S slots   H head dim

Rows share slots: all rows' newest token stands in the same slot, prompts are padded on the left, and `first` says
which slot a row begins at. One write a step then serves the whole batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from amt_jax.parallel.attention import CACHE, by_device

Cache = list[tuple[jax.Array, jax.Array]]  # a (key, value) of [B · K, S, H] a layer


def fill(layers: list[tuple[jax.Array, jax.Array]], slots: int, mesh: Mesh) -> Cache:
    """A cache of `slots` on `mesh` that begins with the keys and values of a prompt, each [B, T, K, H]."""

    def place(x):
        flat = x.transpose(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[3])
        return jnp.pad(flat, ((0, 0), (0, slots - x.shape[1]), (0, 0)))

    place = by_device(mesh, place, [("batch", None, "heads")], CACHE)
    return [(place(key), place(value)) for key, value in layers]


def grow(cache: Cache, slots: int) -> Cache:
    """The same cache with room for `slots`."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, slots - x.shape[1]), (0, 0))), cache)
