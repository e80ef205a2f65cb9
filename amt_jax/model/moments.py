"""Moments: what sounds together, told to each token of its own moment so far and of some before it.

A transformer has to gather a chord from the tokens that spell it; here it is given chords as such, as the recurrent
networks on piano rolls are (Boulanger-Lewandowski et al. 2012).

B batch   T time   K lags told, in moments   F the farthest of them   P pitches   D model
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
    """What is known of moments, at each token of rows, or at the newest.

    Attributes:
      chords: [..., 1 + K, P] float32, 1 for the pitches that sound: those of its own moment, up to the token itself,
        then those of moments before, zeros before its segment. A token is told of those `config.history` moments back;
        to listen on, all 1 to F are kept.
      moment: [...] int32, moments begun in its segment since the first token.
    """

    chords: jax.Array
    moment: jax.Array


def hear(tokens: jax.Array, segments: jax.Array, config: TransformerConfig) -> Heard:
    """What each token of whole rows is told. [B, T] ids, [B, T] segments -> [B, T, ...]."""
    time = np.arange(tokens.shape[1])
    return _hear(tokens, segments, config, time, np.array(config.history, int))


def hear_last(tokens: jax.Array, segments: jax.Array, config: TransformerConfig) -> Heard:
    """What the last tokens of rows know, all moments kept. [B, T] ids, [B, T] segments -> [B, ...]."""
    time = np.arange(tokens.shape[1])[-1:]
    return jax.tree.map(lambda x: x[:, 0], _hear(tokens, segments, config, time, 1 + np.arange(config.farthest)))


def hear_on(heard: Heard, tokens: jax.Array, config: TransformerConfig) -> Heard:
    """What the next token of each row knows, after what the one before it did; all moments kept. [B] ids."""
    begins = jnp.asarray(config.moments)[tokens]
    own = jnp.arange(1 + config.farthest)[:, None] == 0
    struck = jax.nn.one_hot(jnp.asarray(config.pitches)[tokens], config.num_pitches)
    shifted = jnp.where(own, 0, jnp.roll(heard.chords, 1, axis=1))
    chords = jnp.where(begins[:, None, None], shifted, heard.chords)
    return Heard(jnp.maximum(chords, own * struck[:, None]), heard.moment + begins)


def told(heard: Heard, config: TransformerConfig) -> Heard:
    """What a token is told, of all moments that were kept."""
    return heard._replace(chords=heard.chords[..., np.array((0, *config.history)), :])


def _hear(tokens, segments, config: TransformerConfig, time: np.ndarray, lags: np.ndarray) -> Heard:
    """At tokens [B, T], of moments `lags` back, at the places `time` of T."""
    batch, length = tokens.shape
    struck = jax.nn.one_hot(jnp.asarray(config.pitches)[tokens], config.num_pitches)
    before = jnp.pad(jnp.cumsum(struck, axis=1), ((0, 0), (1, 0), (0, 0)))  # [B, T + 1, P] in all tokens before
    first = jnp.diff(segments, axis=1, prepend=-1) != 0
    begins = jnp.asarray(config.moments)[tokens] | first
    number = jnp.cumsum(begins, axis=1) - 1  # of the moment in its row
    rows = np.arange(batch)[:, None]
    starts = jnp.full((batch, length + 1), length)  # [B, T + 1] where each moment begins
    starts = starts.at[rows, jnp.where(begins, number, length + 1)].set(np.arange(length), mode="drop")
    chords = jnp.diff(before[rows, starts], axis=1)  # [B, T, P] of each moment
    opening = jax.lax.cummax(jnp.where(first, number, 0), axis=1)[:, time]  # the first moment of each segment

    number = number[:, time]
    own = before[:, 1 + time] - before[rows, starts[rows, number]]
    places = number[..., None] - lags
    past = chords[rows[..., None], jnp.maximum(places, 0)]
    past = jnp.where((places >= opening[..., None])[..., None], past, 0)
    return Heard(jnp.minimum(jnp.concatenate([own[:, :, None], past], axis=2), 1), number - opening)


class History(nnx.Module):
    """What a token is told of moments, as a vector to add to its embedding."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        inputs = (1 + len(config.history)) * config.num_pitches
        # A few pitches of many sound: the gain makes their sum about as large as an embedding.
        self.project = Linear(inputs, config.d_model, ("heard", "embed"), config, rngs=rngs, gain=4.0)
        self.dtype = config.dtype

    def __call__(self, chords: jax.Array) -> jax.Array:
        """[..., 1 + K, P] -> [..., D]."""
        return self.project(chords.reshape(*chords.shape[:-2], -1).astype(self.dtype))
