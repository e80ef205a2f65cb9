"""What may be sampled next: the grammar, the instruments asked for, and the end of a piece where its time is up."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from amt_jax.tokens.grammar import KINDS, Grammar, GrammarState

EARLY_END = 0.9  # a piece may come to its own end once its notes fill this share of its time
STRIDE = 512  # tokens of prompts read by one call of the compiled program
ENDLESS = 1 << 20  # bars, where they are not limited; in ticks it still fits 32 bits


class Limits(NamedTuple):
    """What a row's new music keeps to, apart from the polyphony, which is the clock's.

    begin and end: [B] float32, the seconds of its piece between which it lies; begin_bar and end_bar: [B] int32, its
    first bar and the one it does not reach, ENDLESS later if that is not limited; playable: [B, V] bool, the tokens
    that name no other instrument than asked.
    """

    begin: jax.Array
    end: jax.Array
    begin_bar: jax.Array
    end_bar: jax.Array
    playable: jax.Array


def start(grammar: Grammar, prompts: Sequence[np.ndarray], pad: int) -> GrammarState:
    """The grammar states after prompts, a row a prompt; `pad` is an id that the grammar passes over."""
    longest = max(map(len, prompts))
    tokens = np.full((len(prompts), -(-longest // STRIDE) * STRIDE), pad, np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    clock = grammar.start((len(prompts),), jnp)
    for first in range(0, longest, STRIDE):
        clock = _read(grammar, clock, tokens[:, first : first + STRIDE])
    return clock


@functools.partial(jax.jit, static_argnames=("grammar",))
def _read(grammar: Grammar, clock: GrammarState, tokens: jax.Array) -> GrammarState:
    """The states after tokens [B, STRIDE]."""
    return jax.lax.scan(lambda state, token: (grammar.advance(state, token, jnp), None), clock, tokens.T)[0]


def constrain(grammar: Grammar, clock: GrammarState, logits: jax.Array, limits: Limits) -> jax.Array:
    """Leaves only what is valid music within its limits.

    Nothing moves a row's clock to where no note fits before `end` or `end_bar`, and no new note sounds past them.
    A piece may end once its notes fill EARLY_END of the time between `begin` and `end`, or reach into the bar before
    `end_bar`; from then on the probability of whatever would go further is that of ending.

    Args:
      grammar: which token may follow which.
      clock: the rows' states, [B].
      logits: [B, V].
      limits: the rows' own.

    Returns:
      [B, V] with -inf where a token may not follow.
    """
    allowed, after = grammar.look(clock, jnp)
    allowed &= limits.playable
    end_bar = limits.end_bar[:, None]
    excess = after.note_end - _end_tick(after, end_bar)
    # A prompt's notes may sound on.
    allowed &= (excess <= 0) | (excess <= clock.note_end[:, None] - _end_tick(clock, limits.end_bar)[:, None])
    sounding, sounded, end = end_seconds(after), end_seconds(clock)[:, None], limits.end[:, None]
    allowed &= (sounding <= end) | ((sounded > end) & (after.note_end <= clock.note_end[:, None]))
    needed = jnp.where(after.state == KINDS.index("FRAME"), 0, after.position_ticks)  # what ends a frame opens nothing
    over = after.tick + needed > _end_tick(after, end_bar)
    over |= after.seconds + needed * after.tick_seconds > end
    is_eos = jnp.arange(logits.shape[-1]) == grammar.eos
    may_end = jnp.take(allowed, grammar.eos, axis=-1)
    late = sounded[:, 0] >= limits.begin + EARLY_END * (limits.end - limits.begin)
    late |= clock.note_end > _end_tick(clock, limits.end_bar) - clock.bar_ticks
    eos = jax.nn.logsumexp(jnp.where((allowed & over) | is_eos, logits, -jnp.inf), axis=-1)
    kept = jnp.where(allowed & ~over & ~is_eos, logits, -jnp.inf)
    stuck = jnp.all(kept == -jnp.inf, axis=-1)  # nothing fits into the time that is left
    eos = jnp.where(stuck, 0.0, jnp.where(may_end & late, eos, -jnp.inf))
    return jnp.where(is_eos, eos[:, None], kept)


def end_seconds(clock: GrammarState) -> jax.Array:
    """When the last note ends if the tempo stays."""
    return clock.seconds + (clock.note_end - clock.tick) * clock.tick_seconds


def _end_tick(clock: GrammarState, end_bar: jax.Array) -> jax.Array:
    """Where a bar begins if the meter stays."""
    return clock.bar_tick + (end_bar - clock.bar) * clock.bar_ticks
