"""Causal attention within segments: a plain reference and a blockwise form that never holds a [T, T] array.

B batch   T time   S segments a row at most   N query heads   K key/value heads   H head dim
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

# attend(query [B, T, N, H], key [B, T, K, H], value [B, T, K, H], segments [B, T], lengths) -> [B, T, N, H]
# lengths: tokens of each segment [B, S] where the segments of a row stand side by side in order, else None.
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]

KEPT = "attention"  # the name of what an attention's backward pass needs of its forward pass
MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite too


def rotary_tables(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine of rotary position embeddings (Su et al. 2021). positions [...] -> 2 × [..., H / 2] float32."""
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.sin(angles), jnp.cos(angles)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Applies rotary tables to queries or keys. x [..., N, H], tables [..., H / 2] -> [..., N, H]."""
    # Turned around by a flip instead, a CPU's training step took 7 % longer (bench/results/remat.md).
    sin, cos = (table[..., None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def visible(segments: jax.Array, row_segments: jax.Array, first: jax.Array | int) -> jax.Array:
    """Which keys the queries from `first` on see: not later ones, of the same segment.

    Args:
      segments: [B, S] of the keys 0 ... S.
      row_segments: [B, T] of the queries first ... first + T.
      first: the first query.

    Returns:
      [B, 1, T, S] bool. With segments 1 1 2 2 and all four queries:   1 . . .
                                                                       1 1 . .
                                                                       . . 1 .
                                                                       . . 1 1
    """
    causal = first + np.arange(row_segments.shape[1])[:, None] >= np.arange(segments.shape[1])[None, :]
    return ((row_segments[:, :, None] == segments[:, None, :]) & causal)[:, None]


def plain_attend(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array, lengths=None) -> jax.Array:
    """Softmax attention written out, the reference that every other form is tested against."""
    key, value = (repeat_heads(x, query.shape[2]) for x in (key, value))
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    scores = jnp.where(visible(segments, segments, 0), scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, value)


def repeat_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """Repeats key/value heads so that each query head has its own. [B, T, K, H] -> [B, T, N, H]."""
    return jnp.repeat(x, num_heads // x.shape[2], axis=2) if x.shape[2] != num_heads else x


def blockwise_attend(
    query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array, lengths=None
) -> jax.Array:
    """Attention in blocks of queries, each over its visible prefix of keys; memory grows with T, not with T².

    The backward pass recomputes the weights from the saved log-sum-exp (Dao et al. 2022) instead of keeping them.
    """
    key, value = (repeat_heads(x, query.shape[2]) for x in (key, value))
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))  # [B, N, T, H]
    return _blockwise(query * query.shape[-1] ** -0.5, key, value, segments).transpose(0, 2, 1, 3)


def _blocks(length: int) -> list[tuple[int, int, int]]:
    """Blocks of queries (first, stop, loops), each with its own prefix of keys.

    128 queries skip most of the masked half at 512; wider blocks keep programs short and are worked off in `loops`
    loops of 128, so that no more than that many rows of scores exist.
    """
    size = max(128, length // 2048 * 128)
    bounds = [(first, min(first + size, length)) for first in range(0, length, size)]
    return [(first, stop, (stop - first) // 128 if (stop - first) % 128 == 0 else 1) for first, stop in bounds]


def blockwise_pairs(length: int) -> int:
    """Pairs of query and key that `blockwise_attend` computes a head and row, those it masks included."""
    return sum((stop - first) * stop for first, stop, _ in _blocks(length))


def _scores(query, key, segments, row_segments, first):
    """Masked scores of a block of queries over a prefix of keys. -> [B, N, block, prefix] float32."""
    scores = jnp.einsum("BNTH,BNSH->BNTS", query, key, preferred_element_type=jnp.float32)
    return jnp.where(visible(segments, row_segments, first), scores, MASKED)


def _rows(x: jax.Array, loops: int, axis: int) -> jax.Array:
    """Cuts the time axis into loops. [..., T, ...] -> [loops, ..., T / loops, ...]"""
    return jnp.moveaxis(x.reshape(*x.shape[:axis], loops, -1, *x.shape[axis + 1 :]), axis, 0)


def _joined(x: jax.Array) -> jax.Array:
    """The inverse of `_rows` for [loops, B, N, T, H]."""
    return jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1, x.shape[-1])


@jax.custom_vjp
def _blockwise(query, key, value, segments):
    return _blockwise_forward(query, key, value, segments)[0]


def _blockwise_forward(query, key, value, segments):
    outputs, normalizers = [], []
    for first, stop, loops in _blocks(query.shape[2]):
        prefix = np.s_[:, :, :stop]

        def attend(rows, prefix=prefix, stop=stop):
            row_query, row_segments, row = rows
            scores = _scores(row_query, key[prefix], segments[:, :stop], row_segments, row)
            top = jnp.max(scores, axis=-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            mixed = jnp.einsum(
                "BNTS,BNSH->BNTH", weights.astype(value.dtype), value[prefix], preferred_element_type=jnp.float32
            )
            return (mixed / total).astype(value.dtype), top + jnp.log(total)

        block = query[:, :, first:stop], segments[:, first:stop]
        if loops == 1:
            output, normalizer = attend((*block, first))
        else:
            starts = first + np.arange(loops) * ((stop - first) // loops)
            rows = _rows(block[0], loops, 2), _rows(block[1], loops, 1), starts
            output, normalizer = map(_joined, jax.lax.map(attend, rows))
        outputs.append(output)
        normalizers.append(normalizer)
    output, normalizer = (checkpoint_name(jnp.concatenate(x, axis=2), KEPT) for x in (outputs, normalizers))
    return output, (query, key, value, segments, output, normalizer)


def _blockwise_backward(saved, grad):
    # Without the barrier the compiler finds these scores to be the forward pass's and keeps all of those instead.
    query, key, value, segments, output, normalizer = jax.lax.optimization_barrier(saved)
    overlap = jnp.sum(grad.astype(jnp.float32) * output.astype(jnp.float32), axis=-1, keepdims=True)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    d_query, d_key, d_value = [], jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
    for first, stop, loops in _blocks(query.shape[2]):
        prefix = np.s_[:, :, :stop]

        def pull_back(sums, rows, prefix=prefix, stop=stop):
            row_query, row_grad, row_overlap, row_normalizer, row_segments, row = rows
            scores = _scores(row_query, key[prefix], segments[:, :stop], row_segments, row)
            weights = jnp.exp(scores - row_normalizer)
            d_weights = product("BNTH,BNSH->BNTS", row_grad, value[prefix])
            d_scores = (weights * (d_weights - row_overlap)).astype(query.dtype)
            d_key, d_value = sums
            d_key = d_key + product("BNTS,BNTH->BNSH", d_scores, row_query)
            d_value = d_value + product("BNTS,BNTH->BNSH", weights.astype(grad.dtype), row_grad)
            return (d_key, d_value), product("BNTS,BNSH->BNTH", d_scores, key[prefix]).astype(query.dtype)

        block = [x[:, :, first:stop] for x in (query, grad, overlap, normalizer)]
        sums = d_key[prefix], d_value[prefix]
        if loops == 1:
            sums, d_rows = pull_back(sums, (*block, segments[:, first:stop], first))
        else:
            starts = first + np.arange(loops) * ((stop - first) // loops)
            rows = *(_rows(x, loops, 2) for x in block), _rows(segments[:, first:stop], loops, 1), starts
            sums, d_rows = jax.lax.scan(pull_back, sums, rows)
            d_rows = _joined(d_rows)
        d_key, d_value = d_key.at[prefix].set(sums[0]), d_value.at[prefix].set(sums[1])
        d_query.append(d_rows)
    return jnp.concatenate(d_query, axis=2), d_key.astype(key.dtype), d_value.astype(value.dtype), None


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def cross_attend(query: jax.Array, key: jax.Array, value: jax.Array, visible: jax.Array) -> jax.Array:
    """Attention to sources outside the sequence, few enough to hold all scores.

    Args:
      query: [B, T, N, H].
      key, value: [B, M, K, H].
      visible: [B, T, M] bool.

    Returns:
      [B, T, N, H].
    """
    grouped = query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[3]) * query.shape[3] ** -0.5
    scores = jnp.einsum("BTKGH,BMKH->BKGTM", grouped, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, MASKED), axis=-1).astype(value.dtype)
    return jnp.einsum("BKGTM,BMKH->BTKGH", weights, value).reshape(query.shape)


def cached_attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    index: jax.Array,
    mask: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Attention of one new token a row over its cache, to which it is added.

    Args:
      query: [B, N, H].
      key, value: [B, K, H] of the same token.
      cache: keys and values [B · K, S, H]; rows and heads share an axis because XLA's CPU compiler copies the whole
        cache in every step when it has to drop a batch axis of 1 between the write and the product.
      index: the slot that the new key and value take, one for all rows.
      mask: [B, S] bool, the slots to attend to, `index` included.

    Returns:
      [B, N, H] and the cache with slot `index` filled.
    """
    batch, num_heads, head_dim = query.shape
    keys, values = cache = tuple(
        jax.lax.dynamic_update_slice_in_dim(old, new.reshape(-1, 1, head_dim).astype(old.dtype), index, axis=1)
        for old, new in zip(cache, (key, value), strict=True)
    )
    rows = keys.shape[0]
    grouped = query.reshape(rows, -1, head_dim) * head_dim**-0.5
    scores = jnp.einsum("RGH,RSH->RGS", grouped, keys, preferred_element_type=jnp.float32)
    mask = jnp.repeat(mask, rows // batch, axis=0)[:, None]
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(values.dtype)
    return jnp.einsum("RGS,RSH->RGH", weights, values).reshape(batch, num_heads, head_dim), cache
