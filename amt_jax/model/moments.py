"""Moments: what sounds together, told to each token of its own moment so far and of those before it.

A transformer has to gather a chord from the tokens that spell it; here it is given chords as such, as the recurrent
networks on piano rolls are (Boulanger-Lewandowski et al. 2012).

B batch   T time   K moments back   P pitches   D model   C features   R reach
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from amt_jax.model.config import TransformerConfig
from amt_jax.model.layers import Linear


class Heard(NamedTuple):
    """What a token knows of moments; each array of a token, or of all tokens of a row.

    Attributes:
      now: [..., P] float32, 1 for the pitches of its own moment, up to its own.
      past: [..., K, P] float32, those of the moments before it, the latest first; zeros before its segment.
      moment: [...] int32, moments begun in its segment since the first token.
    """

    now: jax.Array
    past: jax.Array
    moment: jax.Array


def hear(tokens: jax.Array, segments: jax.Array, config: TransformerConfig) -> Heard:
    """What each token of whole rows knows. [B, T] ids, [B, T] segments."""
    struck = jax.nn.one_hot(jnp.asarray(config.pitches)[tokens], config.num_pitches)
    first = jnp.diff(segments, axis=1, prepend=-1) != 0
    begins = jnp.asarray(config.moments)[tokens] | first
    time = np.arange(tokens.shape[1])

    def latest(marks):  # [B, T] bool -> the last marked place up to each
        return jax.lax.cummax(jnp.where(marks, time, 0), axis=1)

    def at(x, places):  # [B, T, ...], [B, T]
        return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)

    before = jnp.cumsum(struck, axis=1) - struck  # in all tokens before this one
    start, segment_start = latest(begins), latest(first)
    now, past, begun = before + struck - at(before, start), [], start
    for _ in range(config.history):
        last = at(start, jnp.maximum(begun - 1, 0))  # where the moment before begins
        inside = begun > segment_start
        past.append(jnp.where(inside[..., None], at(before, begun) - at(before, last), 0))
        begun = jnp.where(inside, last, begun)
    past = jnp.stack(past, axis=2) if past else jnp.zeros((*tokens.shape, 0, config.num_pitches))
    moments = jnp.cumsum(begins, axis=1)
    return Heard(jnp.minimum(now, 1), jnp.minimum(past, 1), moments - at(moments, segment_start))


def hear_on(heard: Heard, tokens: jax.Array, config: TransformerConfig) -> Heard:
    """What the next token of each row knows, after what the one before it did. [B] ids."""
    begins = jnp.asarray(config.moments)[tokens]
    struck = jax.nn.one_hot(jnp.asarray(config.pitches)[tokens], config.num_pitches)
    shifted = jnp.concatenate([heard.now[:, None], heard.past], axis=1)[:, : config.history]
    return Heard(
        now=jnp.minimum(jnp.where(begins[:, None], 0, heard.now) + struck, 1),
        past=jnp.where(begins[:, None, None], shifted, heard.past),
        moment=heard.moment + begins,
    )


REACH = 12  # semitones up and down


class History(nnx.Module):
    """What was heard as a vector to add to a token's embedding."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        inputs = (1 + config.history) * config.num_pitches
        # A few pitches of many sound: the gain makes their sum about as large as an embedding.
        self.project = Linear(inputs, config.d_model, ("heard", "embed"), config, rngs=rngs, gain=4.0)
        self.dtype = config.dtype

    def __call__(self, heard: Heard) -> jax.Array:
        """[..., P], [..., K, P] -> [..., D]."""
        chords = jnp.concatenate([heard.now[..., None, :], heard.past], axis=-2)
        return self.project(chords.reshape(*chords.shape[:-2], -1).astype(self.dtype))


class Relative(nnx.Module):
    """What was heard around each pitch, for the logit of that pitch: a convolution along pitch, so that what is learnt
    in one key is known in all. The hidden state says how much each feature counts.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        shape = 1 + config.history, 2 * REACH + 1, config.relative
        self.filters = nnx.Param(0.1 * jax.random.normal(rngs.params(), shape), axes=(None, None, None))
        self.threshold = nnx.Param(jnp.zeros(config.relative), axes=(None,))
        self.mix = Linear(config.d_model, config.relative, ("embed", None), config, rngs=rngs, gain=0.3)
        self.config = config

    def __call__(self, x: jax.Array, heard: Heard) -> jax.Array:
        """To add to logits. Hidden states [..., D], what was heard -> [..., V] float32."""
        pitches = self.config.num_pitches
        # All pairs of a pitch that was heard and one that may come: a product is faster than a narrow convolution.
        offsets = np.arange(pitches)[:, None] - np.arange(pitches) + REACH  # [heard, to come]
        inside = (offsets >= 0) & (offsets <= 2 * REACH)
        pairs = jnp.where(inside[..., None], self.filters[...][:, np.clip(offsets, 0, 2 * REACH)], 0)
        chords = jnp.concatenate([heard.now[..., None, :], heard.past], axis=-2).astype(x.dtype)
        found = jnp.einsum("...KQ,KQPC->...PC", chords, pairs.astype(x.dtype))
        found = jax.nn.gelu(found + self.threshold[...].astype(x.dtype))
        added = jnp.einsum("...PC,...C->...P", found, self.mix(x), preferred_element_type=jnp.float32)
        ids = np.array(self.config.pitches)
        return jnp.where(ids >= 0, added[..., ids], 0)
