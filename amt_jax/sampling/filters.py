"""From logits to a token: repetition penalty, temperature, top-k, top-p, min-p, with a value a row.

B batch   V vocabulary   C candidates
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Controls(NamedTuple):
    """How each row is sampled; see GenerationSettings for what the fields mean.

    All are [B] arrays: seed uint32, top_k int32, the others float32.
    """

    seed: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array


def penalize(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
    """Makes tokens that were seen less likely (Keskar et al. 2019, CTRL). [B, V], seen [B, V] bool, penalty [B]."""
    penalty = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def noise(seed: jax.Array, step: jax.Array, vocab_size: int) -> jax.Array:
    """Gumbel noise of one step: a row's depends on its own seed and step alone. seed [B], step scalar -> [B, V]."""

    def row(seed):
        return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), step), (vocab_size,))

    return jax.vmap(row)(seed)


def sample(logits: jax.Array, noise: jax.Array, controls: Controls, candidates: int) -> jax.Array:
    """Draws a token a row by the Gumbel-max trick.

    argmax(logits / temperature + noise) equals argmax(logits + temperature · noise), which is the likeliest token at
    temperature 0 without a special case.

    Args:
      logits: [B, V] float32, forbidden tokens at -inf.
      noise: [B, V] Gumbel noise.
      controls: the rows' settings.
      candidates: C, static; at least every row's top_k, or V where a row has top_k 0.

    Returns:
      [B] int32.
    """
    values, ids = jax.lax.top_k(logits, candidates)  # sorted, [B, C]
    rank = jnp.arange(candidates)
    top_k = jnp.where(controls.top_k == 0, logits.shape[-1], controls.top_k)[:, None]
    kept = (rank < top_k) & (values > -jnp.inf)
    cooled = (values - values[:, :1]) / jnp.maximum(controls.temperature, 1e-6)[:, None]
    weights = jax.nn.softmax(jnp.where(kept, cooled, -jnp.inf), axis=-1)
    before = jnp.cumsum(weights, axis=-1) - weights
    kept &= before < controls.top_p[:, None]
    kept &= weights >= controls.min_p[:, None] * weights[:, :1]
    kept |= rank == 0  # whatever the settings, the likeliest token stays
    drawn = values + controls.temperature[:, None] * jnp.take_along_axis(noise, ids, axis=-1)
    choice = jnp.argmax(jnp.where(kept, drawn, -jnp.inf), axis=-1)
    return jnp.take_along_axis(ids, choice[:, None], axis=-1)[:, 0].astype(jnp.int32)
