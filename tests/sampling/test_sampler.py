"""The sampler against a plain one: no cache, no batch, no compiled loop."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from amt_jax.sampling import cache, sampler
from amt_jax.sampling.decode import prefill
from amt_jax.sampling.request import Request
from amt_jax.sampling.settings import GenerationSettings
from tests.condition_values import BACH, HAYDN, LISZT, SAD, SLOWLY, SOFTLY

MARGIN = 1e-3  # two logits nearer than this may change places between two ways to add up the same numbers


def reference_logits(setup, forward, request, bucket, ids):
    """Logits before each new id and after the last, [len(ids) + 1, V]: whole forward passes over each window."""
    context = setup.config.context_length
    sequence = [setup.tokenizer.spec.bos, *request.prompt.tolist(), *ids.tolist()]
    first = bucket.width - 1 - len(request.prompt)  # the slot of BOS, if the window reached back so far

    def at(slot):
        window = 0 if slot < context else (slot - context) // (context // 2) + 1
        oldest = max(first, window * context // 2, 0)
        seen = sequence[oldest - first : slot - first]
        if bucket.branches == 1:
            return forward(seen, request.conditions)[-1]
        base = forward(seen, request.against)[-1]
        groups = request.guides or [(list(request.conditions), request.settings.guidance)]
        asked = [forward(seen, {name: request.conditions[name] for name in names})[-1] for names, _ in groups]
        return base + sum(scale * (each - base) for each, (_, scale) in zip(asked, groups, strict=True))

    return np.stack([at(bucket.width + count) for count in range(len(ids) + 1)])


def check(setup, forward, request, result):
    """Follows a result token by token; each is the plain sampler's choice, or as near to it as rounding allows."""
    grammar, wanted = setup.grammar, request.settings
    state, seen = grammar.start(), set(request.prompt.tolist())
    for token in request.prompt:
        state = grammar.advance(state, token)
    begin = float(state.seconds)
    vocabulary = np.arange(setup.config.vocab_size)
    ended = len(result.ids) < wanted.max_tokens
    all_logits = reference_logits(setup, forward, request, result.bucket, result.ids)
    near = 0
    for step, token in enumerate([*result.ids.tolist(), *([grammar.eos] if ended else [])]):
        allowed, after = grammar.look(state)
        end = np.float32(begin) + np.float32(wanted.seconds)
        sounding = after.seconds + (after.note_end - after.tick).astype(np.float32) * after.tick_seconds
        sounded = np.float32(state.seconds + np.float32(state.note_end - state.tick) * state.tick_seconds)
        allowed &= (sounding <= end) | ((sounded > end) & (after.note_end <= state.note_end))
        over = allowed & (after.seconds + after.position_ticks.astype(np.float32) * after.tick_seconds > end)
        filled = float(sounded) - begin
        logits = np.where(allowed & ~over, all_logits[step], -np.inf)
        logits[grammar.eos] = -np.inf
        if allowed[grammar.eos] and filled >= 0.9 * wanted.seconds:
            logits[grammar.eos] = np.logaddexp.reduce(all_logits[step][over | (vocabulary == grammar.eos)])
        if (logits == -np.inf).all():
            logits[grammar.eos] = 0
        for each in seen:
            logits[each] = logits[each] / wanted.repetition_penalty ** np.sign(logits[each])

        # Top-k, then top-p of what is left, then min-p. Whatever stands at the edge of one of them may be in or out.
        order = [i for i in np.argsort(-logits, kind="stable") if logits[i] > -np.inf]
        ranked = order[: wanted.top_k or None]
        weights = np.exp((logits[ranked] - logits[ranked[0]]) / max(wanted.temperature, 1e-6))
        before = (np.cumsum(weights) - weights) / weights.sum()
        edge = wanted.top_k and wanted.top_k < len(order) and logits[ranked[-1]] - logits[order[wanted.top_k]] < MARGIN
        kept = (before < wanted.top_p) & (weights >= wanted.min_p)
        kept[0] = True
        edge |= wanted.top_p < 1 and (np.abs(before - wanted.top_p)[1:] < MARGIN).any()
        edge |= wanted.min_p > 0 and (np.abs(weights - wanted.min_p)[1:] < MARGIN).any()
        key = jax.random.fold_in(jax.random.key(wanted.seed), step)
        noise = np.asarray(jax.random.gumbel(key, vocabulary.shape), np.float64)
        drawn = np.where(kept, logits[ranked] + wanted.temperature * noise[ranked], -np.inf)
        if token == ranked[np.argmax(drawn)]:
            pass
        elif edge or (len(drawn) > 1 and np.ptp(np.sort(drawn)[-2:]) < MARGIN):
            near += 1
        else:
            pytest.fail(f"step {step}: {token}, not {ranked[np.argmax(drawn)]}, with {request} in {result.bucket}")
        seen.add(token)
        allowed_now, state = grammar.run(state, token)
        assert allowed_now
    assert near <= 2 + len(result.ids) // 20
    return len(result.ids)


choices = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-6, 0.9, 2.0]),
        "top_k": st.sampled_from([0, 1, 40, 1000]),
        "top_p": st.sampled_from([0.0, 0.5, 0.95, 1.0]),
        "min_p": st.sampled_from([0.0, 0.0, 0.2]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "guidance": st.sampled_from([0.0, 1.0, 3.0]),
        "seconds": st.sampled_from([2.0, 40.0]),
        "max_tokens": st.sampled_from([20, 90]),
        "seed": st.integers(0, 2**32 - 1),
    }
)
asked_of = [
    {},
    {"conditions": HAYDN | SLOWLY},
    {"conditions": SAD | LISZT},
    {"conditions": BACH | SOFTLY, "guides": ((("words",), 2.0), (("composer",), 0.5)), "against": SLOWLY},
]
requests = st.tuples(choices, st.sampled_from(asked_of), st.sampled_from([0, 9, 50]))


# The same batches in every run, and no shrinking: it would take minutes.
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(asked=st.lists(requests, min_size=3, max_size=4))
def test_equal_to_a_plain_sampler(setup, forward, prompts, asked):
    batch = [
        Request(GenerationSettings(**fields), prompt=prompts(length), **wanted) for fields, wanted, length in asked
    ]
    for request, result in zip(batch, setup.generate(batch), strict=True):
        check(setup, forward, request, result)


def test_a_moved_window_is_a_fresh_forward_of_its_newer_half(setup, forward, prompts, monkeypatch):
    opened = []

    def recorded(*args, **options):
        opened.append(prefill(*args, **options))
        held, logits, heard = opened[-1]
        return held, jnp.copy(logits), heard  # the sampler gives its own away

    monkeypatch.setattr(sampler, "prefill", recorded)
    wanted = GenerationSettings(seconds=600, max_tokens=120, guidance=2, top_k=0, seed=4)
    batch = [Request(wanted, BACH | SLOWLY, prompts(length)) for length in (0, 9, 50, 70)]
    results = setup.generate(batch)
    assert all(len(result.ids) == 120 for result in results)
    assert results[0].bucket.width + 120 > 2 * setup.config.context_length  # moved at least twice
    half = setup.config.context_length // 2
    for row, (request, result) in enumerate(zip(batch, results, strict=True)):
        check(setup, forward, request, result)
        expected = reference_logits(setup, forward, request, result.bucket, result.ids)
        for window, (_, logits, _) in enumerate(opened):
            null, asked = logits[2 * row], logits[2 * row + 1]
            slot = (window + 1) * half if window else result.bucket.width
            np.testing.assert_allclose(null + 2 * (asked - null), expected[slot - result.bucket.width], atol=1e-5)


def test_growing_the_window_changes_nothing(setup, monkeypatch):
    wanted = GenerationSettings(seconds=600, max_tokens=100, seed=1)  # then it moves
    request = Request(wanted, BACH | SAD | SLOWLY)
    whole = setup.generate([request])[0]
    sizes = []
    monkeypatch.setattr(sampler, "SMALLEST_WINDOW", 24)
    monkeypatch.setattr(cache, "grow", lambda held, slots, grow=cache.grow: sizes.append(slots) or grow(held, slots))
    grown = setup.generate([request])[0]
    assert sizes == [48 + 8, 64 + 8]  # the slots before a piece
    np.testing.assert_array_equal(grown.ids, whole.ids)
    assert len(whole.ids) == 100


def test_the_speed_is_what_was_measured_without_compiling(setup):
    wanted = GenerationSettings(seconds=600, max_tokens=200, top_k=0)
    batch = [Request(dataclasses.replace(wanted, seed=seed)) for seed in range(6)]  # two batches
    speeds = []
    for _ in range(2):
        begin = time.perf_counter()
        results = setup.generate(batch)
        taken, speed = time.perf_counter() - begin, setup.sampler.speed
        assert 0 < speed.first_token < speed.seconds / 2
        assert 0.9 * taken < speed.seconds + speed.compiling < taken
        speeds.append(speed)
    assert speeds[0].compiling > speeds[0].seconds
    assert speeds[1].compiling == 0
    assert speed.tokens == sum(len(result.ids) for result in results) == 1200
    scores = [setup.tokenizer.decode(result.ids).to("second") for result in results]
    lengths = [max(note.end for track in score.tracks for note in track.notes) for score in scores]  # not of a last bar
    np.testing.assert_allclose([result.seconds for result in results], lengths, rtol=1e-3)
    np.testing.assert_allclose(speed.music, sum(lengths), rtol=1e-3)
    assert speed.tokens_per_second == 1200 / speed.seconds
    assert speed.real_time_factor == speed.music / speed.seconds


def test_progress_and_order_over_batches(setup):
    shares = []
    wanted = GenerationSettings(seconds=600, max_tokens=5)
    batch = [Request(dataclasses.replace(wanted, seed=seed)) for seed in range(9)]
    results = list(setup.sampler.generate(batch, shares.append))
    assert [result.bucket.rows for result in results] == [4] * 9
    np.testing.assert_allclose(shares, np.array([0.6, 3, 3.6, 6, 6.6, 9]) / 9)  # the first token, then the rest
    alone = list(setup.sampler.generate(batch[6:]))
    for ours, other in zip(results[6:], alone, strict=True):
        np.testing.assert_array_equal(ours.ids, other.ids)
    assert list(setup.sampler.generate([])) == []
