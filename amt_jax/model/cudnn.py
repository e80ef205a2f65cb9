"""Causal attention within segments by cuDNN's flash attention, on GPUs from Hopper on.

B batch   T time   S segments a row at most   N query heads   K key/value heads   H head dim
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# The one place in JAX that takes packed rows to cuDNN; `jax.nn.dot_product_attention` knows only padding.
from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

from amt_jax.model.attention import blockwise_attend, repeat_heads


def cudnn_attend(
    query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array, lengths: jax.Array | None
) -> jax.Array:
    """Attention of rows whose segments stand side by side; see attention.Attend.

    cuDNN takes half precision only. In float32, and where the lengths are not known, attention is blockwise.
    """
    if lengths is None or query.dtype == jnp.float32:
        return blockwise_attend(query, key, value, segments, lengths)
    # JAX takes the offsets of keys for those of queries, so that both need as many heads.
    key, value = (repeat_heads(x, query.shape[2]) for x in (key, value))
    if lengths.shape[1] == 1:
        return dot_product_attention(query, key, value, scale=query.shape[-1] ** -0.5, mask_type=MaskType.CAUSAL)
    counts, offsets = packing(lengths, query.shape[1])
    return dot_product_attention(
        query,
        key,
        value,
        q_seqlen=counts,
        kv_seqlen=counts,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=query.shape[-1] ** -0.5,
        mask_type=MaskType.PADDING_CAUSAL,
    )


def packing(lengths: jax.Array, time: int) -> tuple[jax.Array, jax.Array]:
    """Where the segments of rows of `time` tokens stand, as cuDNN takes it: -1 where there is none.

    What is left at a row's end is one more segment, because cuDNN writes nothing where it finds none.

    Args:
      lengths: [B, S] int32 tokens of each segment, 0 for none.
      time: T.

    Returns:
      Lengths [B, S + 1] and first tokens [B, S + 2], the last always -1.
    """
    rest = time - jnp.sum(lengths, axis=1, keepdims=True)
    lengths = jnp.concatenate([lengths, rest], axis=1).astype(jnp.int32)
    starts = jnp.cumsum(lengths, axis=1) - lengths
    none = lengths == 0
    return jnp.where(none, -1, lengths), jnp.pad(jnp.where(none, -1, starts), ((0, 0), (0, 1)), constant_values=-1)
