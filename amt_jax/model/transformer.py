"""The decoder: token streams in, logits of the next tokens out.

B batch   T time   S cache slots   K token streams / key-value heads   H head dim   M sources   D model   V vocabulary
L layers
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from amt_jax.model.attention import rotary_tables
from amt_jax.model.conditioning import Conditioning, before_segments, of_segments
from amt_jax.model.config import TransformerConfig
from amt_jax.model.layers import ONE_DEVICE, Layer, Norm, Placement, dropout, keep_dots, look_up
from amt_jax.model.moments import Heard, History, hear


class Remembered(NamedTuple):
    """What is asked of pieces, ready for decoding steps; None where nothing goes that way.

    Attributes:
      added: [B, D], to add to each token's embedding.
      memory: a (key, value) of [B, M, K, H] a layer.
      visible: [B, 1, M] bool, the sources that are there.
      head: [K, D, V], see `Transformer.head`; whatever is asked.
    """

    added: jax.Array | None
    memory: list[tuple[jax.Array, jax.Array]] | None
    visible: jax.Array | None
    head: jax.Array


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
        self.history = History(config, rngs=rngs) if config.history else None
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
        return placement.constrain(self.logits(x, self.head(placement)), "batch", "time")

    def hidden(
        self, tokens, positions, segments, conditions, lengths=None, dropout_key=None, placement: Placement = ONE_DEVICE
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """The last hidden states [B, T, D], and each layer's (key, value), to fill a cache.

        Keys and values are [B, slots + T, K, H], those of `conditioning.before_segments` first.
        """
        x, asked, slots = self.embed(tokens, placement), self.conditioning(conditions, placement.constrain), 0
        if asked.added is not None:
            x = x + of_segments(asked.added, segments)
        heard = hear(tokens[..., 0], segments, self.config) if self.config.hears else None
        x, positions = self.tell(x, positions, heard)
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
        apply = Layer.__call__
        if self.config.remat != "none":
            apply = nnx.remat(apply, static_argnums=(6,), policy=keep_dots if self.config.remat == "dots" else None)
        caches = []
        for layer, key in zip(self.layers, keys[:-1], strict=True):
            x, cache = apply(layer, x, rotary, segments, lengths, sources, placement, key)
            caches.append(cache)
        return self.norm(x[:, slots:]), caches

    def remember(self, conditions, placement: Placement = ONE_DEVICE) -> Remembered:
        """What `step` needs to know of conditions, name -> [B, 1, L, W], once a piece."""
        head = self.head(placement)
        asked = self.conditioning(conditions, placement.constrain)
        added = None if asked.added is None else asked.added[:, 0]
        if asked.sources is None:
            return Remembered(added, None, None, head)
        memory = [layer.cross.remember(asked.sources) for layer in self.layers]
        return Remembered(added, memory, (asked.source_segments != 0)[:, None], head)

    def tell(self, x: jax.Array, positions: jax.Array, heard: Heard | None) -> tuple[jax.Array, jax.Array]:
        """Embeddings [..., D] told of moments, and positions [...] by the clock."""
        return (
            x if self.history is None else x + self.history(heard.chords),
            heard.moment if self.config.clock == "moments" else positions,
        )

    def step(
        self, tokens, positions, remembered: Remembered, cache, index, mask, placement: Placement = ONE_DEVICE,
        heard: Heard | None = None,
    ):  # fmt: skip
        """One decoding step.

        Args:
          tokens: [B, K] int32, the newest token of each row.
          positions: [B] int32, its position in its piece's window, as in `__call__`.
          remembered: of `remember`.
          cache: a (key, value) of [B · K, slots + S, H] a layer, the `config.prefix_slots` first.
          index: which of the S slots after those the new keys and values take, one for all rows.
          mask: [B, S] bool, those that a row may attend to, `index` included.
          placement: how it runs on the devices at hand.
          heard: what these tokens are told of moments, [B, ...]; None where the config does not ask for it.

        Returns:
          logits [B, K, V] float32 and the cache with slot `index` filled.
        """
        x, slots = self.embed(tokens, placement), self.config.prefix_slots
        if remembered.added is not None:
            x = x + remembered.added
        x, positions = self.tell(x, positions, heard)
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
        return self.logits(self.norm(x), remembered.head), caches

    def embed(self, tokens: jax.Array, placement: Placement = ONE_DEVICE) -> jax.Array:
        """Sum of the streams' embeddings. [..., K] -> [..., D]."""
        # Whole where it is looked up in: rows of a part each would have to be exchanged for parts of rows.
        table = placement.constrain(self.embedding[...].astype(self.config.dtype))
        return sum(look_up(table[stream], tokens[..., stream]) for stream in range(self.config.num_streams))

    def head(self, placement: Placement = ONE_DEVICE) -> jax.Array:
        """The embeddings as `logits` takes them, [K, D, V]; in a loop XLA's CPU compiler would turn them every time."""
        return placement.constrain(self.embedding[...].astype(self.config.dtype)).swapaxes(1, 2)

    def logits(self, x: jax.Array, head: jax.Array) -> jax.Array:
        """Scaled products with the embeddings. [..., D], [K, D, V] -> [..., K, V] float32."""
        products = jnp.einsum("...D,KDV->...KV", x, head, preferred_element_type=jnp.float32)
        return products * self.config.d_model**-0.5
