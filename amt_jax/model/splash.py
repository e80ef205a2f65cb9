"""Causal attention within segments on TPUs, by JAX's splash kernel.

B batch   T time   N query heads   K key/value heads   H head dim
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from amt_jax.model.attention import KEPT

MAX_BLOCK = 512  # MaxText's default on every chip
LANES = 128  # of a vector register; a block's size is a multiple of it


def splash_attend(
    query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array, lengths=None, *, interpret: bool = False
) -> jax.Array:
    """Attention in blocks whose scores never leave the chip, forwards and backwards; see attention.Attend.

    Rows are padded to whole blocks: no query of a row sees what comes after it. `interpret` runs the kernel's program
    on any device, slowly.
    """
    time, num_heads = query.shape[1:3]
    count, size = blocks(time)
    padding = (0, count * size - time)
    query, key, value = (
        jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0))).transpose(0, 2, 1, 3)
        for x in (query * query.shape[-1] ** -0.5, key, value)
    )  # [B, N, T, H]
    segments = jnp.pad(segments, ((0, 0), padding))
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((count * size,) * 2)] * num_heads),
        block_sizes=splash.BlockSizes(*[size] * 8),
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )
    mixed = jax.vmap(kernel)(query, key, value, splash.SegmentIds(segments, segments))
    return mixed.transpose(0, 2, 1, 3)[:, :time]


def blocks(time: int) -> tuple[int, int]:
    """How many blocks a row of `time` tokens has, and of how many tokens."""
    count = -(-time // MAX_BLOCK)
    return count, -(-time // (count * LANES)) * LANES


def splash_pairs(time: int) -> int:
    """Pairs of query and key that `splash_attend` computes a head and row, those it masks included."""
    count, size = blocks(time)
    return count * (count + 1) // 2 * size**2
