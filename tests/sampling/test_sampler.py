"""The sampler against a plain one: no cache, no batch, no compiled loop; and what a row may depend on."""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from amt_jax.model.moments import hear_on
from amt_jax.model.params import init_params
from amt_jax.sampling import cache, constraints, sampler
from amt_jax.sampling.decode import prefill
from amt_jax.sampling.request import Bucket, Request
from amt_jax.sampling.settings import GenerationSettings

# Values of the conditions of `setup`.
BACH, HAYDN, LISZT = ({"composer": np.eye(4, dtype=np.float16)[[number]]} for number in (1, 2, 3))
SAD = {"mood": np.eye(3, dtype=np.float16)[[2]]}
SLOWLY = {"words": np.array([[1, 0, 0, 0, 0], [0, 0.6, 0.8, 0, 0], [0, 0, 0, 0, 0]], np.float16)}
SOFTLY = {"words": np.array([[1, 0, 0, 0, 0], [0, -1, 0, 0, 0], [0, 0, 0, 0.6, -0.8]], np.float16)}
MARGIN = 1e-3  # two logits nearer than this may change places between two ways to add up the same numbers


@pytest.fixture(scope="module")
def forward(setup):
    """A function: ids, values of conditions -> logits [T, V] after each id, by one forward pass without a cache."""
    size = setup.config.context_length

    @jax.jit
    def apply(params, tokens, conditions):
        positions, segments = jnp.arange(size)[None], jnp.ones((1, size), jnp.int32)
        return nnx.merge(setup.graph, params)(tokens[None, :, None], positions, segments, conditions)[0, :, 0]

    def run(tokens, conditions):
        padded = np.zeros(size, np.int32)
        padded[: len(tokens)] = tokens
        wanted = {each.name: conditions.get(each.name, each.null())[None, None] for each in setup.config.conditions}
        return np.asarray(apply(setup.params, padded, wanted), np.float64)[: len(tokens)]

    return run


@pytest.fixture(scope="module")
def prompts(setup):
    """A function: length -> ids that the grammar accepts."""

    def make(length):
        random, state, ids = np.random.default_rng(length), setup.grammar.start(), []
        for _ in range(length):
            allowed = setup.grammar.allowed(state)
            allowed[setup.grammar.eos] = False
            ids.append(random.choice(np.flatnonzero(allowed)))
            state = setup.grammar.advance(state, ids[-1])
        return np.array(ids, np.uint16)

    return make


def generate(setup, requests):
    return list(setup.sampler.generate(requests))


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
    for request, result in zip(batch, generate(setup, batch), strict=True):
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
    results = generate(setup, batch)
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
        each = newest[:, None], index - first, mask, heard
        newest, positions, mask, told = jax.tree.map(lambda x: jnp.repeat(x, len(branches), axis=0), each)
        logits, held = step(setup.params, newest, positions, conditions, held, index, mask, heard=told)
        logits = logits[:, 0]


def test_growing_the_window_changes_nothing(setup, monkeypatch):
    wanted = GenerationSettings(seconds=600, max_tokens=100, seed=1)  # then it moves
    request = Request(wanted, BACH | SAD | SLOWLY)
    whole = generate(setup, [request])[0]
    sizes = []
    monkeypatch.setattr(sampler, "SMALLEST_WINDOW", 24)
    monkeypatch.setattr(cache, "grow", lambda held, slots, grow=cache.grow: sizes.append(slots) or grow(held, slots))
    grown = generate(setup, [request])[0]
    assert sizes == [48 + 8, 64 + 8]  # the slots before a piece
    np.testing.assert_array_equal(grown.ids, whole.ids)
    assert len(whole.ids) == 100


def test_a_row_depends_on_its_request_alone(setup, prompts):
    wanted = GenerationSettings(seconds=600, max_tokens=70, guidance=3, seed=7)
    mine = Request(wanted, BACH | SLOWLY, prompts(9))

    def beside(seed, length, temperature):
        other = dataclasses.replace(wanted, seed=seed, temperature=temperature, seconds=3.0)
        return [Request(other, SAD | SOFTLY, prompts(length)) for _ in range(2)]

    one = generate(setup, [mine, *beside(1, 2, 0.5), mine])
    two = generate(setup, [*beside(2, 20, 2.0), mine])
    assert one[0].bucket == two[2].bucket
    for other in (one[3], two[2], setup.sampler.replay(mine, one[0].bucket, 0)):
        np.testing.assert_array_equal(one[0].ids, other.ids)
    assert len(one[0].ids) == 70


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"top_k": 1}, {"temperature": 0.0}),
        ({"temperature": 1e-6}, {"temperature": 0.0}),
        ({"top_p": 0.0}, {"top_k": 1}),
        ({"top_k": 100_000}, {"top_k": 0}),
        ({"guidance": 0.0, "conditions": BACH}, {}),
        # Each group by its own scale, or all in one group; the base is what guidance leads away from.
        ({"guidance": 3.0, "conditions": BACH}, {"guides": [(["composer"], 3.0)], "conditions": BACH}),
        ({"guidance": 1.0, "conditions": BACH, "against": SAD}, {"guidance": 1.0, "conditions": BACH}),
        ({"guidance": 0.0, "conditions": BACH, "against": SAD}, {"guidance": 1.0, "conditions": SAD}),
    ],
)
def test_settings_that_mean_the_same(setup, one, other):
    base = {"seconds": 600, "max_tokens": 40, "top_k": 100, "seed": 5}

    def make(fields):
        fields = base | fields
        more = {name: fields.pop(name) for name in ("conditions", "guides", "against") if name in fields}
        return Request(GenerationSettings(**fields), **more)

    # Two more rows keep both batches in one bucket: all candidates, guided.
    rest = [make({"guidance": 2.0, "conditions": BACH}), make({"top_k": 0})]
    ours, theirs = (generate(setup, [make(fields), *rest])[0] for fields in (one, other))
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    assert len(ours.ids) == 40


def test_conditions_and_guidance_change_the_music(setup):
    wanted = GenerationSettings(seconds=600, max_tokens=40, top_k=0)
    guided = dataclasses.replace(wanted, guidance=4.0)
    batch = [Request(wanted), Request(wanted, BACH), Request(guided, BACH), Request(guided)]
    free, conditioned, strong, nothing_to_follow = generate(setup, batch)
    assert not np.array_equal(free.ids, conditioned.ids)
    assert not np.array_equal(conditioned.ids, strong.ids)
    np.testing.assert_array_equal(free.ids, nothing_to_follow.ids)


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
    for request, result in zip(batch, generate(setup, batch), strict=True):
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
    assert [len(result.ids) for result in generate(setup, batch[-4:])] == [1, 2, 33, 100]


def test_a_second_call_compiles_nothing(setup, prompts, compiled):
    def batch(seed, **fields):
        base = GenerationSettings(
            seconds=500 + seed, max_tokens=100, guidance=2.0, seed=seed, bars=20 + seed, polyphony=1 + seed
        )
        wanted = dataclasses.replace(base, **fields)
        return [Request(wanted, [BACH, HAYDN, LISZT][(seed + row) % 3], prompts(5 + row + seed)) for row in range(3)]

    generate(setup, batch(0))
    compiled.clear()
    generate(setup, batch(1, temperature=1.5, top_k=7, top_p=0.5, min_p=0.1, repetition_penalty=1.2, guidance=5.0))
    assert not compiled
    assert setup.sampler.speed.compiling == 0
    generate(setup, batch(2)[:1])
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


def test_the_speed_is_what_was_measured_without_compiling(setup):
    wanted = GenerationSettings(seconds=600, max_tokens=200, top_k=0)
    batch = [Request(dataclasses.replace(wanted, seed=seed)) for seed in range(6)]  # two batches
    speeds = []
    for _ in range(2):
        begin = time.perf_counter()
        results = generate(setup, batch)
        taken, speed = time.perf_counter() - begin, setup.sampler.speed
        assert 0 < speed.first_token < speed.seconds / 2
        assert 0.9 * taken < speed.seconds + speed.compiling < taken
        speeds.append(speed)
    assert speeds[0].compiling > speeds[0].seconds
    assert speeds[1].compiling == 0
    assert speed.tokens == sum(len(result.ids) for result in results) == 1200
    lengths = [setup.tokenizer.decode(result.ids).to("second").end() for result in results]
    np.testing.assert_allclose([result.seconds for result in results], lengths, rtol=1e-3)
    np.testing.assert_allclose(speed.music, sum(lengths), rtol=1e-3)
    assert speed.tokens_per_second == 1200 / speed.seconds
    assert speed.real_time_factor == speed.music / speed.seconds


def test_buckets(setup, prompts):
    def bucket(*fields, **more):
        return setup.sampler.bucket([Request(GenerationSettings(**each), **more) for each in fields])

    assert bucket({}) == Bucket(rows=1, width=1, branches=1, candidates=64, budget=8192)
    assert bucket({}, {}, {"max_tokens": 9000}).rows == 4
    assert bucket({"max_tokens": 9000}).budget == 16384
    assert bucket({"top_k": 0}, {}).candidates == bucket({"top_k": 65}).candidates == 419
    assert [bucket({}, prompt=prompts(length)).width for length in (1, 31, 32, 500)] == [32, 32, 32, 32]
    assert bucket({"guidance": 3.0}).branches == 1
    assert bucket({"guidance": 1.0}, conditions=BACH).branches == 1
    assert bucket({"guidance": 3.0}, conditions=BACH).branches == 2
    assert bucket({}, conditions=BACH | SAD, guides=[(["composer"], 2.0), (["mood"], 3.0)]).branches == 3
    assert bucket({}, conditions=BACH, against=SAD).branches == 2


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
