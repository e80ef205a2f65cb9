"""The decoder: token streams in, logits of the next tokens out.

B batch   T time   S cache slots   K token streams / key-value heads   N heads   H head dim   M sources
D model   F feed-forward   V vocabulary   L layers
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from amt_jax.model.attention import Attend, blockwise_attend, cached_attend, cross_attend, rotary_tables, rotate
from amt_jax.model.conditioning import ConditionConfig, Conditioning, before_segments, of_segments, prefix_slots


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and choices of the decoder that a person makes.

    Attributes:
      num_layers: L.
      num_heads: N; d_model / num_heads is the head dim.
      num_kv_heads: key/value heads; fewer than num_heads is grouped-query attention (Ainslie et al. 2023).
      d_model: D.
      d_ff: F, hidden width of the feed-forward layers.
      dropout: rate on embeddings and on both residual branches while training.
      norm: "layernorm" or "rmsnorm" (Zhang & Sennrich 2019), before each branch and at the end.
      activation: "gelu" or "swiglu" (Shazeer 2020).
      qk_norm: RMS-normalise queries and keys a head (Henry et al. 2020).
      bias: biases in linear layers.
      rope_theta: base of the rotary frequencies.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      dtype: compute type, "float32" or "bfloat16"; parameters are float32.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_model: int
    d_ff: int
    dropout: float
    norm: str
    activation: str
    qk_norm: bool
    bias: bool
    rope_theta: float
    remat: bool
    dtype: str


@dataclasses.dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """The decoder for a dataset.

    Attributes:
      vocab_size: V, ids a stream.
      num_streams: K, token streams a time step.
      context_length: the longest window it is trained on, in tokens.
      conditions: the table of conditions.
    """

    vocab_size: int
    num_streams: int
    context_length: int
    conditions: tuple[ConditionConfig, ...] = ()

    def __post_init__(self):
        if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
            raise ValueError(f"d_model {self.d_model} does not split into {self.num_heads} heads of even size")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.norm not in ("layernorm", "rmsnorm"):
            raise ValueError(f"norm is layernorm or rmsnorm, not {self.norm!r}")
        if self.activation not in ("gelu", "swiglu"):
            raise ValueError(f"activation is gelu or swiglu, not {self.activation!r}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is float32 or bfloat16, not {self.dtype!r}")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    @property
    def attends_to_sources(self) -> bool:
        return any(condition.way == "cross" for condition in self.conditions)

    @property
    def prefix_slots(self) -> int:
        """Cache slots before a piece's first token."""
        return prefix_slots(self.conditions, 1)


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
    """x @ kernel + bias, the kernel stored [in, out]."""

    def __init__(self, d_in: int, d_out: int, axes: tuple[str, str], config: TransformerConfig, *, rngs: nnx.Rngs,
                 gain: float = 1.0):  # fmt: skip
        self.kernel = nnx.Param(gain * d_in**-0.5 * jax.random.normal(rngs.params(), (d_in, d_out)), axes=axes)
        self.bias = nnx.Param(jnp.zeros(d_out), axes=axes[1:]) if config.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


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


class Remembered(NamedTuple):
    """What is asked of pieces, ready for decoding steps; None where nothing goes that way.

    Attributes:
      added: [B, D], to add to each token's embedding.
      memory: a (key, value) of [B, M, K, H] a layer.
      visible: [B, 1, M] bool, the sources that are there.
    """

    added: jax.Array | None
    memory: list[tuple[jax.Array, jax.Array]] | None
    visible: jax.Array | None


class Transformer(nnx.Module):
    """A causal decoder over K token streams with tied embeddings.

    Build it inside `jax.jit` (or `nnx.eval_shape`), split it once with `nnx.split`, and merge it inside jitted
    functions: its only state is its parameters. Each `nnx.Param` names its logical axes in its metadata `axes`.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        # Around N(0, 1): tied to logits × D^-0.5, a smaller table would barely learn.
        table = jax.random.normal(rngs.params(), (config.num_streams, config.vocab_size, config.d_model))
        self.embedding = nnx.Param(table, axes=("stream", "vocab", "embed"))
        self.conditioning = Conditioning(config.conditions, config.d_model, jnp.dtype(config.dtype), rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = Norm(config.d_model, config.norm)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        conditions: Mapping[str, jax.Array],
        *,
        lengths: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        placement: Placement = ONE_DEVICE,
    ) -> jax.Array:
        """Logits of the next tokens.

        Args:
          tokens: [B, T, K] int32 ids.
          positions: [B, T] int32, from 0 where a segment starts.
          segments: [B, T] int32, 0 is padding; a token sees its own segment only.
          conditions: name -> [B, segments, L, W], see model.conditioning.
          lengths: [B, segments] int32 tokens of each segment, if they stand in order; attention may be faster for it.
          dropout_key: PRNG key while training; None means no dropout.
          placement: how it runs on the devices at hand.

        Returns:
          [B, T, K, V] float32.
        """
        x, _ = self.hidden(tokens, positions, segments, conditions, lengths, dropout_key, placement)
        return placement.constrain(self.logits(x, placement), "batch", "time")

    def hidden(
        self, tokens, positions, segments, conditions, lengths=None, dropout_key=None, placement: Placement = ONE_DEVICE
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """The last hidden states [B, T, D] and each layer's (key, value), the latter to fill a cache.

        Keys and values are [B, slots + T, K, H], those of `conditioning.before_segments` first.
        """
        x, asked, slots = self.embed(tokens, placement), self.conditioning(conditions, placement.constrain), 0
        if asked.added is not None:
            x = x + of_segments(asked.added, segments)
        if asked.prefix is not None:
            prefix, places, owners = before_segments(asked.prefix)
            slots = prefix.shape[1]
            x = jnp.concatenate([prefix, x], axis=1)
            positions = jnp.concatenate([places, positions + asked.prefix.shape[2]], axis=1)
            segments, lengths = jnp.concatenate([owners, segments], axis=1), None
        sources = None
        if asked.sources is not None:
            sources = (
                asked.sources,
                (segments[:, :, None] == asked.source_segments[:, None]) & (segments != 0)[..., None],
            )
        keys = [None] * (len(self.layers) + 1)
        if dropout_key is not None:
            keys = list(jax.random.split(dropout_key, len(keys)))
        x = placement.constrain(dropout(x, self.config.dropout, keys[-1]), "batch", "time")
        rotary = rotary_tables(positions, self.config.head_dim, self.config.rope_theta)
        apply = nnx.remat(Layer.__call__, static_argnums=(6,)) if self.config.remat else Layer.__call__
        caches = []
        for layer, key in zip(self.layers, keys[:-1], strict=True):
            x, cache = apply(layer, x, rotary, segments, lengths, sources, placement, key)
            caches.append(cache)
        return self.norm(x[:, slots:]), caches

    def remember(self, conditions, placement: Placement = ONE_DEVICE) -> Remembered:
        """What `step` needs to know of conditions, name -> [B, 1, L, W], once a piece."""
        asked = self.conditioning(conditions, placement.constrain)
        added = None if asked.added is None else asked.added[:, 0]
        if asked.sources is None:
            return Remembered(added, None, None)
        memory = [layer.cross.remember(asked.sources) for layer in self.layers]
        return Remembered(added, memory, (asked.source_segments != 0)[:, None])

    def step(self, tokens, positions, remembered: Remembered, cache, index, mask, placement: Placement = ONE_DEVICE):
        """One decoding step.

        Args:
          tokens: [B, K] int32, the newest token of each row.
          positions: [B] int32, its position in its piece's window, as in `__call__`.
          remembered: of `remember`.
          cache: a (key, value) of [B · K, slots + S, H] a layer, the `config.prefix_slots` first.
          index: which of the S slots after those the new keys and values take, one for all rows.
          mask: [B, S] bool, those that a row may attend to, `index` included.
          placement: how it runs on the devices at hand.

        Returns:
          logits [B, K, V] float32 and the cache with slot `index` filled.
        """
        x, slots = self.embed(tokens, placement), self.config.prefix_slots
        if remembered.added is not None:
            x = x + remembered.added
        if slots:
            each = sum(condition.way == "prefix" for condition in self.config.conditions)
            owned = jnp.broadcast_to(np.arange(slots) >= slots - each, (mask.shape[0], slots))
            index, mask, positions = index + slots, jnp.concatenate([owned, mask], axis=1), positions + each
        rotary = rotary_tables(positions, self.config.head_dim, self.config.rope_theta)
        caches = []
        memories = remembered.memory or [None] * len(self.layers)
        for layer, layer_cache, memory in zip(self.layers, cache, memories, strict=True):
            x, layer_cache = layer.step(x, rotary, layer_cache, index, mask, memory, remembered.visible, placement)
            caches.append(layer_cache)
        return self.logits(self.norm(x), placement), caches

    def embed(self, tokens: jax.Array, placement: Placement = ONE_DEVICE) -> jax.Array:
        """Sum of the streams' embeddings. [..., K] -> [..., D]."""
        # Whole where it is looked up in: rows of a part each would have to be exchanged for parts of rows.
        table = placement.constrain(self.embedding[...].astype(self.config.dtype))
        return sum(look_up(table[stream], tokens[..., stream]) for stream in range(self.config.num_streams))

    def logits(self, x: jax.Array, placement: Placement = ONE_DEVICE) -> jax.Array:
        """Scaled products with the embeddings. [..., D] -> [..., K, V] float32."""
        table = placement.constrain(self.embedding[...].astype(x.dtype))
        products = jnp.einsum("...D,KVD->...KV", x, table, preferred_element_type=jnp.float32)
        return products * self.config.d_model**-0.5


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
