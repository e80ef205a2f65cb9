"""Causal attention within segments on TPUs, by the splash kernel of JAX's Pallas library.

B batch   T time   N query heads   K key/value heads   H head dim
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash


def splash_attend(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Attention in blocks that stay on the chip, forwards and backwards; memory grows with T, not with T²."""
    length, num_heads = query.shape[1], query.shape[2]
    block, count = blocks(length)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, block * count - length), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
        for x in (query * query.shape[-1] ** -0.5, key, value)
    )  # [B, N, T, H]
    segments = jnp.pad(segments, ((0, 0), (0, block * count - length)))
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((block * count, block * count))] * num_heads),
        block_sizes=splash.BlockSizes(*[block] * 8), interpret=interpret,
    )
    mixed = jax.vmap(kernel)(query, key, value, splash.SegmentIds(segments, segments))
    return mixed.transpose(0, 2, 1, 3)[:, :length]


def blocks(length: int) -> tuple[int, int]:
    """Size and number of the blocks."""
    count = -(-length // 512)
    return -(-length // count // 128) * 128, count
