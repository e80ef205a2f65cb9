"""What may be sampled next: the grammar, and the end of a piece where its time is up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from amt_jax.tokens.grammar import Grammar, GrammarState

EARLY_END = 0.9  # a piece may come to its own end once this share of its time has passed


def start(grammar: Grammar, prompts: list[np.ndarray]) -> GrammarState:
    """The grammar states after prompts, a row a prompt."""
    states = []
    for prompt in prompts:
        state = grammar.start()
        for token in prompt:
            state = grammar.advance(state, token)
        states.append(state)
    return GrammarState(*(jnp.asarray(np.stack(field)) for field in zip(*states, strict=True)))


def constrain(grammar: Grammar, clock: GrammarState, logits: jax.Array, begin: jax.Array, end: jax.Array) -> jax.Array:
    """Leaves only what is valid music within its time.

    What would move a row's clock past `end` is an ending: its probability goes to EOS. A row's own EOS counts once
    EARLY_END of the time between `begin` and `end` has passed.

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
    late = clock.seconds >= begin + EARLY_END * (end - begin)
    over = allowed & (after.seconds > end[:, None])
    ending = over | (is_eos & late[:, None])
    eos = jax.nn.logsumexp(jnp.where(ending, logits, -jnp.inf), axis=-1)
    kept = jnp.where(allowed & ~over & ~is_eos, logits, -jnp.inf)
    stuck = jnp.all(kept == -jnp.inf, axis=-1)
    eos = jnp.where(stuck, 0.0, jnp.where(may_end, eos, -jnp.inf))
    return jnp.where(is_eos, eos[:, None], kept)
