"""Conditions: a table of what the music is asked to be, and its way into the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

NULL = 0  # the id that asks for nothing: unconditional


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
    """One row of the table: a categorical value a segment, embedded and added to the token embeddings.

    Attributes:
      name: the condition's name in the dataset's card.
      size: number of ids, null included.
      scale: factor on the embedding before it is added.
      dropout: probability, a segment and training step, that the value becomes null.
    """

    name: str
    size: int
    scale: float = 0.25
    dropout: float = 0.6


class Conditioning(nnx.Module):
    """The embeddings of all conditions."""

    def __init__(self, configs: tuple[ConditionConfig, ...], d_model: int, dtype, *, rngs: nnx.Rngs):
        self.configs, self.dtype = configs, dtype
        self.tables = nnx.Dict(
            {
                config.name: nnx.Param(
                    jax.random.normal(rngs.params(), (config.size, d_model)), axes=("condition", "embed")
                )
                for config in configs
            }
        )

    def __call__(
        self,
        values: Mapping[str, jax.Array],
        segments: jax.Array,
        constrain: Callable[..., jax.Array] = lambda x: x,
    ) -> jax.Array | float:
        """The sum to add to token embeddings. values name -> [B, segments] ids, segments [B, T] from 1 -> [B, T, D].

        Padding (segment 0) takes the first segment's values; nothing ever reads it. `constrain` tells where a table
        lies that is looked up in: whole everywhere.
        """
        total = 0.0
        for config in self.configs:
            ids = jnp.take_along_axis(values[config.name], jnp.maximum(segments - 1, 0), axis=1)  # [B, T]
            total = total + config.scale * constrain(self.tables[config.name][...].astype(self.dtype))[ids]
        return total


def drop_conditions(
    configs: tuple[ConditionConfig, ...], values: Mapping[str, jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """Sets values to null, each condition by its own probability: classifier-free guidance (Ho & Salimans 2022)."""
    dropped = dict(values)
    for index, config in enumerate(configs):
        kept = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - config.dropout, values[config.name].shape)
        dropped[config.name] = jnp.where(kept, values[config.name], NULL)
    return dropped
