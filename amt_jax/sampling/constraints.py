"""What may be sampled next: the grammar, and the end of a piece where its time is up."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from amt_jax.tokens.grammar import Grammar, GrammarState

EARLY_END = 0.9  # a piece may come to its own end once its notes fill this share of its time
STRIDE = 512  # tokens of prompts read by one call of the compiled program


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


def constrain(grammar: Grammar, clock: GrammarState, logits: jax.Array, begin: jax.Array, end: jax.Array) -> jax.Array:
    """Leaves only what is valid music within its time.

    Nothing moves a row's clock past `end`. A piece may end once its notes fill EARLY_END of the time between `begin`
    and `end`; from then on the probability of whatever would go past `end` is that of ending.

    Args:
      grammar: which token may follow which.
      clock: the rows' states, [B].
      logits: [B, V].
      begin, end: seconds, [B].

    Returns:
      [B, V] with -inf where a token may not follow.
    """
    allowed, after = grammar.look(clock, jnp)
    is_eos = jnp.arange(logits.shape[-1]) == grammar.eos
    may_end = jnp.take(allowed, grammar.eos, axis=-1)
    filled = clock.seconds + (clock.note_end - clock.tick) * clock.tick_seconds
    late = filled >= begin + EARLY_END * (end - begin)
    over = allowed & (after.seconds > end[:, None])
    eos = jax.nn.logsumexp(jnp.where(over | is_eos, logits, -jnp.inf), axis=-1)
    kept = jnp.where(allowed & ~over & ~is_eos, logits, -jnp.inf)
    stuck = jnp.all(kept == -jnp.inf, axis=-1)  # nothing fits into the time that is left
    eos = jnp.where(stuck, 0.0, jnp.where(may_end & late, eos, -jnp.inf))
    return jnp.where(is_eos, eos[:, None], kept)
