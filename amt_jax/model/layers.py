"""The parts of the decoder, and how they run on the devices at hand.

B batch   T time   S cache slots   N heads   K key-value heads   H head dim   M sources   D model   F feed-forward
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from amt_jax.model.attention import KEPT, Attend, blockwise_attend, cached_attend, cross_attend, rotate
from amt_jax.model.config import TransformerConfig
from amt_jax.model.quantization import int8_product


class Placement(NamedTuple):
    """How the network runs on the devices it runs on; the default suits one.

    Attributes:
      attend: attention of whole sequences.
      cached_attend: attention of a new token a row, see attention.cached_attend.
      constrain: (x, its logical axes) -> x; where activations should lie.
    """

    attend: Attend = blockwise_attend
    cached_attend: Callable = cached_attend
    constrain: Callable[..., jax.Array] = lambda x, *axes: x


ONE_DEVICE = Placement()


class Linear(nnx.Module):
    """x @ kernel + bias, the kernel stored [in, out]; int8 with a scale a column where the config says so."""

    def __init__(self, d_in: int, d_out: int, axes: tuple[str, str], config: TransformerConfig, *, rngs: nnx.Rngs,
                 gain: float = 1.0):  # fmt: skip
        self.kernel = nnx.Param(gain * d_in**-0.5 * jax.random.normal(rngs.params(), (d_in, d_out)), axes=axes)
        self.bias = nnx.Param(jnp.zeros(d_out), axes=axes[1:]) if config.bias else None
        self.scale = nnx.Param(jnp.ones(d_out), axes=axes[1:]) if config.quantized else None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        y = product(x, kernel) if self.scale is None else int8_product(x, kernel, self.scale[...])
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel in x's type. [..., K], [K, N] -> [..., N].

    Its gradients are written as products whose results need not be turned: with the kernel's as jax derives it, a whole
    step in bfloat16 took a CPU three and a half times as long (bench.train_speed --dtype=bfloat16, jax 0.12).
    """
    return x @ kernel.astype(x.dtype)


def _product_forward(x, kernel):
    return x @ kernel.astype(x.dtype), (x, kernel)


def _product_backward(saved, gradient):
    x, kernel = saved
    towards_x = jnp.einsum("...n,kn->...k", gradient, kernel.astype(x.dtype))
    return towards_x, jnp.einsum("...k,...n->kn", x, gradient).astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


class Norm(nnx.Module):
    """LayerNorm or RMSNorm over the last axis, statistics in float32."""

    def __init__(self, size: int, kind: str):
        self.scale = nnx.Param(jnp.ones(size), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros(size), axes=("norm",)) if kind == "layernorm" else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return normalize(x, self.scale[...], None if self.bias is None else self.bias[...])


@jax.checkpoint  # the backward pass has x anyway; what lies between would cost memory, and time to write and read it
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
    """LayerNorm, or RMSNorm without a bias. [..., D], [D], [D] -> [..., D]."""
    y = x.astype(jnp.float32)
    if bias is not None:
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + 1e-6) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


class Attention(nnx.Module):
    """Projections around attention: one fused product for queries, keys and values.

    Its columns stand by key/value head, each with its queries before it, so that devices can share them by heads.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = Linear(config.d_model, heads * config.head_dim, ("embed", "heads"), config, rngs=rngs)
        self.out = Linear(config.d_model, config.d_model, ("heads", "embed"), config, rngs=rngs,
                          gain=(2 * config.num_layers) ** -0.5)  # fmt: skip
        self.query_norm = Norm(config.head_dim, "rmsnorm") if config.qk_norm else None
        self.key_norm = Norm(config.head_dim, "rmsnorm") if config.qk_norm else None

    def project(self, x: jax.Array, rotary: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values, rotated. x [..., D], rotary [..., H / 2] -> [..., N, H], 2 × [..., K, H]."""
        config = self.config
        heads = self.qkv(x).reshape(*x.shape[:-1], config.num_kv_heads, -1, config.head_dim)
        query, key, value = jnp.split(heads, [heads.shape[-2] - 2, heads.shape[-2] - 1], axis=-2)
        query = query.reshape(*x.shape[:-1], config.num_heads, config.head_dim)
        key, value = key[..., 0, :], value[..., 0, :]
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return rotate(query, rotary), rotate(key, rotary), value

    def merge(self, mixed: jax.Array) -> jax.Array:
        """[..., N, H] -> [..., D]."""
        return self.out(mixed.reshape(*mixed.shape[:-2], -1))


class CrossAttention(nnx.Module):
    """Projections around attention to sources; columns of keys and values stand by head, as in `Attention`."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.query = Linear(config.d_model, config.d_model, ("embed", "heads"), config, rngs=rngs)
        self.memory = Linear(config.d_model, 2 * config.num_kv_heads * config.head_dim, ("embed", "heads"), config,
                             rngs=rngs)  # fmt: skip
        self.out = Linear(config.d_model, config.d_model, ("heads", "embed"), config, rngs=rngs,
                          gain=(2 * config.num_layers) ** -0.5)  # fmt: skip

    def remember(self, sources: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of sources. [B, M, D] -> 2 × [B, M, K, H]."""
        heads = self.memory(sources).reshape(*sources.shape[:-1], self.config.num_kv_heads, 2, self.config.head_dim)
        return heads[..., 0, :], heads[..., 1, :]

    def __call__(self, x: jax.Array, memory: tuple[jax.Array, jax.Array], visible: jax.Array) -> jax.Array:
        """What tokens take from sources. x [B, T, D], memory 2 × [B, M, K, H], visible [B, T, M] -> [B, T, D]."""
        query = self.query(x).reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)
        return self.out(cross_attend(query, *memory, visible).reshape(x.shape))


class FeedForward(nnx.Module):
    """Two products with a GELU between, or SwiGLU's three."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.up = Linear(config.d_model, config.d_ff, ("embed", "mlp"), config, rngs=rngs)
        gated = config.activation == "swiglu"
        self.gate = Linear(config.d_model, config.d_ff, ("embed", "mlp"), config, rngs=rngs) if gated else None
        self.down = Linear(config.d_ff, config.d_model, ("mlp", "embed"), config, rngs=rngs,
                           gain=(2 * config.num_layers) ** -0.5)  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(activate(self.up(x), None if self.gate is None else self.gate(x)))


@jax.checkpoint  # see normalize
def activate(x: jax.Array, gate: jax.Array | None) -> jax.Array:
    """GELU of x, or SiLU of the gate times x. [..., F] -> [..., F]."""
    return jax.nn.gelu(x) if gate is None else jax.nn.silu(gate) * x


class Layer(nnx.Module):
    """Attention, attention to sources where there are any, and feed-forward; each normalised before and added after."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.dropout = config.dropout
        self.attention_norm = Norm(config.d_model, config.norm)
        self.attention = Attention(config, rngs=rngs)
        self.cross_norm = Norm(config.d_model, config.norm) if config.attends_to_sources else None
        self.cross = CrossAttention(config, rngs=rngs) if config.attends_to_sources else None
        self.feed_forward_norm = Norm(config.d_model, config.norm)
        self.feed_forward = FeedForward(config, rngs=rngs)

    def __call__(self, x, rotary, segments, lengths, sources, placement: Placement, dropout_key):
        """A whole sequence.

        Args:
          x: [B, T, D].
          rotary: tables of the positions.
          segments: [B, T].
          lengths: [B, S] or None, see attention.Attend.
          sources: ([B, M, D], visible [B, T, M]) or None.
          placement: how it runs on the devices at hand.
          dropout_key: PRNG key or None.

        Returns:
          x [B, T, D], and key and value [B, T, K, H].
        """
        keys = [None] * 3 if dropout_key is None else jax.random.split(dropout_key, 2 if sources is None else 3)
        query, key, value = self.attention.project(self.attention_norm(x), rotary)
        mixed = self.attention.merge(placement.attend(query, key, value, segments, lengths))
        x = placement.constrain(x + dropout(mixed, self.dropout, keys[0]), "batch", "time")
        if sources is not None:
            states, visible = sources
            taken = self.cross(self.cross_norm(x), self.cross.remember(states), visible)
            x = placement.constrain(x + dropout(taken, self.dropout, keys[2]), "batch", "time")
        fed = self.feed_forward(self.feed_forward_norm(x))
        return placement.constrain(x + dropout(fed, self.dropout, keys[1]), "batch", "time"), (key, value)

    def step(self, x, rotary, cache, index, mask, memory, visible, placement: Placement):
        """One token a row. x [B, D], cache key and value [B · K, S, H], written at slot `index` -> x, cache."""
        query, key, value = self.attention.project(self.attention_norm(x), rotary)
        mixed, cache = placement.cached_attend(query, key, value, cache, index, mask)
        x = x + self.attention.merge(mixed.astype(x.dtype))
        if memory is not None:
            x = x + self.cross(self.cross_norm(x)[:, None], memory, visible)[:, 0]
        return placement.constrain(x + self.feed_forward(self.feed_forward_norm(x)), "batch"), cache


def keep_dots(primitive, *args, **params) -> bool:
    """The policy of `remat` "dots": products with kernels are kept, and attention's outputs and normalizers."""
    policies = jax.checkpoint_policies
    return (
        policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
        or policies.save_only_these_names(KEPT)(primitive, *args, **params)
        or primitive.name == "dot_product_attention_fwd_wrapper"  # cuDNN's, which takes no name
    )


@jax.custom_vjp
def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a table. [V, D], [...] -> [..., D]. Its gradient is a product; a scatter takes accelerators longer."""
    return table[ids]


def _look_up_backward(saved, grad):
    ids, size = saved
    chosen = jax.nn.one_hot(ids, size, dtype=grad.dtype)
    return jnp.einsum("...V,...D->VD", chosen, grad), None


look_up.defvjp(lambda table, ids: (table[ids], (ids, table.shape[0])), _look_up_backward)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of x and scales up the rest; x itself without a key."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)
