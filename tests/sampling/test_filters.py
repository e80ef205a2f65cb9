"""The filters against plain numpy, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.sampling.filters import Controls, noise, penalize, sample

V = 40
jitted = jax.jit(sample, static_argnums=3)


def controls(rows=1, **fields):
    values = dict(seed=0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0) | fields
    kinds = {"seed": np.uint32, "top_k": np.int32}
    return Controls(*(np.full(rows, values[name], kinds.get(name, np.float32)) for name in Controls._fields))


def survivors(logits, candidates=V, **fields):
    """The tokens that can be drawn: those that win where their noise is large. logits [V]"""
    fields = {"temperature": 1.0} | fields
    rows = np.tile(np.asarray(logits, np.float32), (V, 1))
    return set(np.asarray(jitted(rows, np.eye(V, dtype=np.float32) * 1e6, controls(V, **fields), candidates)).tolist())


def expected_survivors(logits, temperature, top_k, top_p, min_p):
    """The same by the book: sort, keep k, keep the nucleus, drop what is far below the best."""
    order = [i for i in np.argsort(-logits, kind="stable") if logits[i] > -np.inf][: top_k or None]
    weights = np.exp((logits[order] - logits[order[0]]) / temperature)
    weights /= weights.sum()
    kept, total = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        if kept and (total >= top_p or weight < min_p * weights[0]):
            break
        kept.append(int(token))
        total += weight
    return set(kept)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 7, 1000]),
    top_p=st.sampled_from([0.0, 0.4, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.11, 1.0]),
)
def test_what_survives(seed, temperature, top_k, top_p, min_p):
    random = np.random.default_rng(seed)
    logits = random.normal(size=V).astype(np.float32)
    logits[random.random(V) < 0.3] = -np.inf
    fields = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert survivors(logits, **fields) == expected_survivors(logits, **fields)


def test_top_k_goes_first():
    """With the nucleus first, 0.9 of all would need four tokens; of the two likeliest, it needs both."""
    logits = np.full(V, -np.inf)
    logits[:4] = np.log([0.4, 0.3, 0.2, 0.1])
    assert survivors(logits, top_k=2, top_p=0.5) == {0}
    assert survivors(logits, top_k=0, top_p=0.5) == {0, 1}


def test_few_candidates_are_enough_for_a_small_k():
    logits = np.random.default_rng(0).normal(size=V)
    assert survivors(logits, candidates=8, top_k=8, top_p=0.9) == survivors(logits, top_k=8, top_p=0.9)


@pytest.mark.parametrize(
    "fields", [{"temperature": 0.0}, {"temperature": 1e-6}, {"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}]
)
def test_greedy_in_five_ways(fields):
    logits = jax.random.normal(jax.random.key(0), (50, V))
    gumbel = noise(jnp.arange(50, dtype=jnp.uint32), jnp.int32(3), V)
    np.testing.assert_array_equal(jitted(logits, gumbel, controls(50, **fields), V), jnp.argmax(logits, -1))


def test_frequencies_are_the_probabilities():
    rows = 20_000
    logits = np.array([0.0, 1.0, 2.0, -np.inf] + [-np.inf] * (V - 4), np.float32)
    gumbel = noise(jnp.arange(rows, dtype=jnp.uint32), jnp.int32(0), V)
    drawn = jitted(np.tile(logits, (rows, 1)), gumbel, controls(rows, temperature=2.0), V)
    weights = np.exp([0, 0.5, 1])
    counts = np.bincount(drawn, minlength=V)[:4] / rows
    np.testing.assert_allclose(counts, [*(weights / weights.sum()), 0], atol=0.015)


def test_noise_is_of_the_seed_and_the_step():
    seeds = jnp.array([5, 9, 5], jnp.uint32)
    first, again, later = (noise(seeds, jnp.int32(step), V) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], noise(seeds[1:2], jnp.int32(0), V)[0])
    assert (first[0] != first[1]).all()
    assert (first != later).all()


def test_penalty_makes_what_was_seen_less_likely():
    logits = jnp.array([[2.0, -2.0, 2.0, -jnp.inf]])
    seen = jnp.array([[True, True, False, True]])
    np.testing.assert_allclose(penalize(logits, seen, jnp.array([2.0])), [[1.0, -4.0, 2.0, -jnp.inf]])
    np.testing.assert_allclose(penalize(logits, seen, jnp.array([1.0])), logits)
