"""The two programs: the cache changes nothing, pieces end where they should, and nothing is compiled twice."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from amt_jax.model.moments import hear_on, told
from amt_jax.model.params import init_params
from amt_jax.sampling import cache, constraints, sampler
from amt_jax.sampling.decode import prefill
from amt_jax.sampling.request import Request
from amt_jax.sampling.settings import GenerationSettings
from tests.condition_values import BACH, HAYDN, LISZT, SAD, SLOWLY, SOFTLY


@pytest.mark.parametrize("guided", [False, True])
def test_cache_and_no_cache_give_the_same_logits(setup, forward, guided):
    """Prefill, then steps, at every position; rows padded on the left, grouped-query attention, two branches."""
    random = np.random.default_rng(0)
    lengths, width, steps, slots = [1, 4, 9], 9, 6, 16
    tokens = [random.integers(3, 419, length + steps) for length in lengths]
    wanted = [BACH | SAD | SLOWLY, {}, LISZT | SOFTLY]
    branches = [[{}] * 3, wanted] if guided else [wanted]
    conditions = {
        each.name: jnp.stack(
            [asked.get(each.name, each.null())[None] for row in zip(*branches, strict=True) for asked in row]
        )
        for each in setup.config.conditions
    }
    first = jnp.array([width - length for length in lengths])
    window = np.zeros((3, width), np.int32)
    for row, length in enumerate(lengths):
        window[row, width - length :] = tokens[row][:length]
    expected = [forward(tokens[row], branch[row]) for row in range(3) for branch in branches]
    held, logits, heard = prefill(
        setup.graph, setup.params, conditions, window, first, slots=slots - 4, mesh=setup.sampler.mesh
    )
    held = cache.grow(held, slots + setup.config.prefix_slots)  # a wider window changes nothing

    @jax.jit
    def step(params, newest, positions, conditions, *args, heard):
        model = nnx.merge(setup.graph, params)
        return model.step(newest, positions, model.remember(conditions), *args, heard=heard)

    for index in range(width, width + steps):
        for row, each in enumerate(logits):
            np.testing.assert_allclose(each, expected[row][index - int(first[row // len(branches)]) - 1], atol=1e-5)
        newest = jnp.array([tokens[row][index - int(first[row])] for row in range(3)])
        heard = hear_on(heard, newest, setup.config)
        mask = (jnp.arange(slots) >= first[:, None]) & (jnp.arange(slots) <= index)
        each = newest[:, None], index - first, mask, told(heard, setup.config)
        newest, positions, mask, known = jax.tree.map(lambda x: jnp.repeat(x, len(branches), axis=0), each)
        logits, held = step(setup.params, newest, positions, conditions, held, index, mask, heard=known)
        logits = logits[:, 0]


def test_pieces_end_as_asked(setup, prompts):
    """By time: no onset past it, sound until 90 % of it. By tokens: exactly. And all of it is music."""
    asked = [(seconds, 512, seed, length) for seconds in (1.0, 6.0) for seed in range(4) for length in (0, 9)]
    asked += [(600.0, tokens, 0, 0) for tokens in (1, 2, 33, 100)]
    batch = [
        Request(
            GenerationSettings(seconds=seconds, max_tokens=tokens, seed=seed, top_k=0, temperature=1.0),
            {},
            prompts(length),
        )
        for seconds, tokens, seed, length in asked
    ]
    by_time = 0
    for request, result in zip(batch, setup.generate(batch), strict=True):
        ids, wanted = np.concatenate([request.prompt, result.ids]), request.settings
        state = setup.grammar.start()
        for token in ids:
            allowed, state = setup.grammar.run(state, token)
            assert allowed
        score = setup.tokenizer.decode(ids).to("second")
        assert score.note_num() == state.notes
        assert len(result.ids) <= wanted.max_tokens
        if len(result.ids) == wanted.max_tokens:
            continue
        by_time += 1
        begin = float(constraints.start(setup.grammar, [request.prompt], 0).seconds[0])
        onsets = [note.start for track in score.tracks for note in track.notes]
        assert max(onsets) <= begin + wanted.seconds
        assert begin + 0.9 * wanted.seconds - 0.01 <= score.end() <= begin + wanted.seconds + 0.01
    assert by_time >= 12
    assert [len(result.ids) for result in setup.generate(batch[-4:])] == [1, 2, 33, 100]


def test_a_second_call_compiles_nothing(setup, prompts, compiled):
    def batch(seed, **fields):
        base = GenerationSettings(
            seconds=500 + seed, max_tokens=100, guidance=2.0, seed=seed, bars=20 + seed, polyphony=1 + seed
        )
        wanted = dataclasses.replace(base, **fields)
        return [Request(wanted, [BACH, HAYDN, LISZT][(seed + row) % 3], prompts(5 + row + seed)) for row in range(3)]

    setup.generate(batch(0))
    compiled.clear()
    setup.generate(batch(1, temperature=1.5, top_k=7, top_p=0.5, min_p=0.1, repetition_penalty=1.2, guidance=5.0))
    assert not compiled
    assert setup.sampler.speed.compiling == 0
    setup.generate(batch(2)[:1])
    assert compiled  # the listener hears


def test_a_bucket_is_compiled_once(setup, compiled, monkeypatch):
    monkeypatch.setattr(sampler, "STEPS_A_DISPATCH", 8)
    shares = []
    request = Request(GenerationSettings(seconds=600, max_tokens=30, top_k=3))
    list(setup.sampler.generate([request] * 2, shares.append))
    assert len(shares) == 5  # 1, 9, 17, 25, 30 tokens
    assert compiled.count("jit(decode)") == 1


def test_fifty_requests_compile_a_program_a_key(setup, prompts, compiled, monkeypatch):
    monkeypatch.setattr(sampler, "SMALLEST_WINDOW", 16)
    params = jax.jit(functools.partial(init_params, config := dataclasses.replace(setup.config, d_ff=16)))(
        jax.random.key(0)
    )
    made = sampler.Sampler(config, params, setup.tokenizer.spec, setup.grammar, max_batch=4)
    random = np.random.default_rng(0)

    def request(kind, longest):
        most = 8 if kind == "few" else 16
        fields = {
            "seconds": 600 if longest else 8, "temperature": random.choice([0.0, 0.7, 1.3]),
            "top_p": random.choice([0.5, 1.0]), "min_p": random.choice([0.0, 0.1]),
            "repetition_penalty": random.choice([1.0, 1.2]),
            "seed": int(random.integers(1000)), "bars": int(random.integers(20, 30)),
            "max_tokens": most if longest else int(random.integers(most // 2 + 1, most + 1)),
        }  # fmt: skip
        if kind == "free":  # windows of 16 and 32
            return Request(GenerationSettings(**fields, top_k=int(random.integers(1, 64))), BACH)
        if kind == "guided":  # a prompt of 32 slots, a window of 64
            wanted = GenerationSettings(**fields, guidance=float(random.uniform(1.5, 5)))
            return Request(wanted, random.choice([BACH | SLOWLY, SAD]), prompts(int(random.integers(1, 60))))
        wanted = GenerationSettings(**fields, polyphony=int(random.integers(1, 9)), top_k=random.choice([0, 65]))
        return Request(wanted)  # a window of 16

    counts = {"free": (3, 4), "guided": (1,), "few": (2,)}
    kinds = [*counts, *random.permutation(["free"] * 7 + ["guided"] * 7 + ["few"] * 6)]
    answered = 0
    for number, kind in enumerate(kinds):
        # The first of each kind go on through all windows.
        count = counts[kind][-1 if number < 3 else random.integers(len(counts[kind]))]
        answered += len(list(made.generate([request(kind, number < 3) for _ in range(count)])))
        if number == 2:
            first = len(compiled)
    assert answered >= 50
    assert (compiled.count("jit(prefill)"), compiled.count("jit(decode)")) == (3, 2 + 1 + 1)
    assert compiled[first:] == []
