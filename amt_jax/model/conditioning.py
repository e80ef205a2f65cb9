"""Conditions: a table of what the music is asked to be, and its ways into the network.

A condition's value is a short list of vectors of about unit length whose first element says "nothing is asked": names
are one-hot, several names multi-hot, numbers lie between two neighbours, texts are what an encoder made of them. One
learned matrix a condition takes them to the width of the network. What is all zero is no value at all.

B batch   S segments a row   T time   L vectors a value   W their width   P prefix slots a segment   M sources a row
D model
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WAYS = ("add", "prefix", "cross")
ALIGNMENT = 8  # prefix slots of a row are filled up to a multiple, so that a mesh's `sequence` axis can divide them


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
    """One row of the table.

    Attributes:
      name: the condition's name in the dataset's card.
      width: W, the element for null included.
      way: `add`, to the embedding of each token of a segment; `prefix`, a slot of its own before the segment; `cross`,
        sources that every layer attends to.
      length: L; above 1 only for `cross`, where the first vector is always null's, so that there is one to attend to.
      scale: factor on the embedding.
      dropout: probability, a segment and training step, that the value becomes null.
    """

    name: str
    width: int
    way: str = "add"
    length: int = 1
    scale: float = 0.25
    dropout: float = 0.6

    def __post_init__(self):
        if self.way not in WAYS:
            raise ValueError(f"the way in of condition {self.name} is add, prefix or cross, not {self.way!r}")

    def null(self) -> np.ndarray:
        """The value that asks for nothing. [L, W] float16"""
        value = np.zeros((self.length, self.width), np.float16)
        value[0, 0] = 1
        return value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Asked:
    """The values of all conditions, embedded; None where none goes that way.

    Attributes:
      added: [B, S, D], to add to a segment's tokens.
      prefix: [B, S, P, D], the slots before a segment.
      sources: [B, M, D], what to attend to ...
      source_segments: ... and whose it is, [B, M], 0 where there is nothing.
    """

    added: jax.Array | None
    prefix: jax.Array | None
    sources: jax.Array | None
    source_segments: jax.Array | None


class Conditioning(nnx.Module):
    """The matrices of all conditions."""

    def __init__(self, configs: tuple[ConditionConfig, ...], d_model: int, dtype, *, rngs: nnx.Rngs):
        self.configs, self.dtype = configs, dtype
        self.tables = nnx.Dict(
            {
                config.name: nnx.Param(
                    jax.random.normal(rngs.params(), (config.width, d_model)), axes=("condition", "embed")
                )
                for config in configs
            }
        )

    def __call__(self, values: Mapping[str, jax.Array], constrain: Callable[..., jax.Array] = lambda x: x) -> Asked:
        """Embeds values, name -> [B, S, L, W]. `constrain` tells where a matrix lies: whole everywhere."""
        ways = {way: [] for way in WAYS}
        segments = []
        for config in self.configs:
            value = values[config.name].astype(self.dtype)
            embedded = config.scale * (value @ constrain(self.tables[config.name][...].astype(self.dtype)))
            if config.way == "cross":
                batch, count, length, _ = value.shape
                number = jnp.arange(1, count + 1)[None, :, None]
                segments.append(jnp.where(jnp.any(value != 0, axis=-1), number, 0).reshape(batch, count * length))
                ways["cross"].append(embedded.reshape(batch, count * length, -1))
            else:
                ways[config.way].append(embedded[:, :, 0])
        return Asked(
            added=sum(ways["add"]) if ways["add"] else None,
            prefix=jnp.stack(ways["prefix"], axis=2) if ways["prefix"] else None,
            sources=jnp.concatenate(ways["cross"], axis=1) if ways["cross"] else None,
            source_segments=jnp.concatenate(segments, axis=1) if segments else None,
        )


def of_segments(added: jax.Array, segments: jax.Array) -> jax.Array:
    """Each token's share of what is asked of its segment. [B, S, D], [B, T] from 1 -> [B, T, D].

    Padding (segment 0) takes nothing.
    """
    return jax.nn.one_hot(segments - 1, added.shape[1], dtype=added.dtype) @ added


def prefix_slots(configs: tuple[ConditionConfig, ...], segments: int) -> int:
    """Slots before the tokens of a row with up to so many segments."""
    return -(-segments * sum(config.way == "prefix" for config in configs) // ALIGNMENT) * ALIGNMENT


def before_segments(prefix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The slots of all segments, side by side before the row's tokens.

    Attention within segments finds them, wherever its segment begins. They are filled up on the left by slots that
    belong to nobody.

    Args:
      prefix: [B, S, P, D].

    Returns:
      [B, slots, D]; their positions, 0 to P - 1 in each segment, [B, slots]; their segments, [B, slots].
    """
    batch, count, each, width = prefix.shape
    missing = -count * each % ALIGNMENT
    flat = jnp.pad(prefix.reshape(batch, count * each, width), ((0, 0), (missing, 0), (0, 0)))
    places = np.pad(np.tile(np.arange(each, dtype=np.int32), count), (missing, 0))
    owners = np.pad(np.repeat(np.arange(1, count + 1, dtype=np.int32), each), (missing, 0))
    shape = batch, count * each + missing
    return flat, jnp.broadcast_to(places, shape), jnp.broadcast_to(owners, shape)


def drop_conditions(
    configs: tuple[ConditionConfig, ...], values: Mapping[str, jax.Array], key: jax.Array, all_of_them: float = 0.0
) -> dict[str, jax.Array]:
    """Sets values to null, each condition by its own probability: classifier-free guidance (Ho & Salimans 2022).

    Args:
      configs: the conditions.
      values: name -> [B, S, L, W].
      key: PRNG key.
      all_of_them: probability, a segment, that it loses all at once, which is what guidance takes for its base.
    """
    dropped = dict(values)
    if not configs:
        return dropped
    # A stream of its own, so that one condition's chances do not depend on how many others there are.
    kept_any = jax.random.bernoulli(
        jax.random.fold_in(key, len(configs)), 1 - all_of_them, values[configs[0].name].shape[:2]
    )
    for index, config in enumerate(configs):
        value = values[config.name]
        kept = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - config.dropout, value.shape[:2])
        kept = (kept & kept_any)[..., None, None]
        dropped[config.name] = jnp.where(kept, value, config.null().astype(value.dtype))
    return dropped
