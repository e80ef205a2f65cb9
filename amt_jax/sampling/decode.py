"""The two programs of generation: reading a prompt, and sampling token after token.

B batch   G guidance branches   P prompt slots   S window slots   M output tokens   V vocabulary
L vectors of width W a condition   K key/value heads   H head dim
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from amt_jax.model.moments import Heard, hear_last, hear_on, told
from amt_jax.model.transformer import Transformer
from amt_jax.parallel.attention import CACHE, placement
from amt_jax.parallel.mesh import constrain, sharding
from amt_jax.sampling import cache, constraints
from amt_jax.sampling.constraints import Limits
from amt_jax.sampling.filters import Controls, noise, penalize, sample
from amt_jax.sampling.guidance import guide
from amt_jax.tokens.grammar import Grammar, GrammarState


class DecodeState(NamedTuple):
    """What the decode loop carries.

    cache: a (key, value) of [B · G · K, S, H] a layer; logits: [B · G, V] of the next token, a row's branches side by
    side, so that devices that share rows need not exchange them; window: [B, S] the tokens in the slots; index: [] the
    next free slot; first: [B] a row's first slot; output: [B, M] new tokens; count: [] how many; done: [B]; seen:
    [B, V] tokens that came before; clock: the rows' grammar states; heard: what the newest tokens know of moments, all
    of them kept, None where the model does not ask.
    """

    cache: cache.Cache
    logits: jax.Array
    window: jax.Array
    index: jax.Array
    first: jax.Array
    output: jax.Array
    count: jax.Array
    done: jax.Array
    seen: jax.Array
    clock: GrammarState
    heard: Heard | None


class Plan(NamedTuple):
    """What stays fixed for a batch.

    controls; guidance scales [G - 1, B]; conditions name -> [B · G, 1, L, W]; max_tokens [B]; the rows' limits.
    """

    controls: Controls
    scales: jax.Array
    conditions: dict[str, jax.Array]
    max_tokens: jax.Array
    limits: Limits


@functools.partial(jax.jit, static_argnames=("graph", "slots", "mesh"))
def prefill(graph, params, conditions, window, first, *, slots, mesh):
    """Reads a prompt [B, P] whose rows begin at slots `first`.

    Returns:
      The cache of `slots`, logits of the next tokens [B · G, V], and what the last ones know of moments.
    """
    model: Transformer = nnx.merge(graph, params)
    slot = jnp.arange(window.shape[1])
    segments = (slot >= first[:, None]).astype(jnp.int32)
    positions = jnp.maximum(slot - first[:, None], 0)
    branches = logits_rows(conditions, window) // window.shape[0]
    lengths = jnp.stack([first, window.shape[1] - first], axis=1)  # padding before, the prompt after
    inputs = (jnp.repeat(x, branches, axis=0) for x in (window[..., None], positions, segments))
    x, layers = model.hidden(*inputs, conditions, jnp.repeat(lengths, branches, axis=0), placement=placement(mesh))
    heard = hear_last(window, segments, model.config) if model.config.hears else None
    logits = model.logits(x[:, -1], model.head(placement(mesh)))[:, 0]
    filled = cache.fill(layers, slots + model.config.prefix_slots, mesh)
    return filled, constrain(mesh, logits, "batch"), heard


def logits_rows(conditions, window):
    """Rows of a forward pass: B · G where there are conditions, else B."""
    return next(iter(conditions.values())).shape[0] if conditions else window.shape[0]


@functools.partial(
    jax.jit, static_argnames=("graph", "grammar", "candidates", "pad", "mesh"), donate_argnames=("state",)
)
def decode(
    graph, params, plan: Plan, state: DecodeState, stop, *, grammar: Grammar, candidates, pad, mesh: Mesh
) -> DecodeState:
    """Samples tokens until `stop` of them, a full window, or the end of every row."""
    model: Transformer = nnx.merge(graph, params)
    batch, slots = state.window.shape
    slot = jnp.arange(slots)
    remembered = model.remember(plan.conditions, placement(mesh))

    def unfinished(state):
        return (state.count < stop) & (state.index < slots) & ~jnp.all(state.done)

    def step(state):
        logits = guide(state.logits.reshape(batch, -1, state.logits.shape[-1]).swapaxes(0, 1), plan.scales)
        logits = constraints.constrain(grammar, state.clock, logits, plan.limits)
        logits = penalize(logits, state.seen, plan.controls.repetition_penalty)
        drawn = sample(logits, noise(plan.controls.seed, state.count, logits.shape[-1]), plan.controls, candidates)
        token = jnp.where(state.done, pad, drawn)
        done = state.done | (token == grammar.eos) | (state.count + 1 >= plan.max_tokens)
        window = jax.lax.dynamic_update_slice_in_dim(state.window, token[:, None], state.index, axis=1)
        output = jax.lax.dynamic_update_slice_in_dim(state.output, token[:, None], state.count, axis=1)

        branches = state.logits.shape[0] // batch
        mask = (slot >= state.first[:, None]) & (slot <= state.index)
        heard = None if state.heard is None else hear_on(state.heard, token, model.config)
        each = token, state.index - state.first, mask, None if heard is None else told(heard, model.config)
        tokens, positions, mask, known = jax.tree.map(lambda x: jnp.repeat(x, branches, axis=0), each)
        logits, filled = model.step(
            tokens[:, None], positions, remembered, state.cache, state.index, mask, placement(mesh), known
        )
        return DecodeState(
            cache=filled,
            logits=logits[:, 0],
            window=window,
            index=state.index + 1,
            first=state.first,
            output=output,
            count=state.count + 1,
            done=done,
            seen=state.seen.at[jnp.arange(batch), token].set(True),
            clock=grammar.advance(state.clock, token, jnp),
            heard=heard,
        )

    # It leaves as it came, or the next call would be another program.
    return jax.lax.with_sharding_constraint(jax.lax.while_loop(unfinished, step, state), shardings(state, mesh))


def shardings(state: DecodeState, mesh: Mesh) -> DecodeState:
    """Where a state lies: its rows by batch, its cache by batch and heads."""

    def place(x):
        return sharding(mesh, *["batch"][: x.ndim])

    held = jax.tree.map(lambda x: sharding(mesh, *CACHE), state.cache)
    return jax.tree.map(place, state._replace(cache=None))._replace(cache=held)
