"""The decoder against one written in numpy, and what a row of packed pieces may not know of itself."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo

from amt_jax.data.card import Card, Vocabulary
from amt_jax.model.attention import blockwise_attend, plain_attend
from amt_jax.model.config import TransformerConfig
from amt_jax.model.cudnn import cudnn_attend
from amt_jax.model.layers import Placement
from amt_jax.model.params import abstract_model, fingerprint, init_params
from amt_jax.model.splash import splash_attend
from amt_jax.model.transformer import Transformer
from amt_jax.tokens.spec import TokenSpec
from amt_jax.training.config import TrainConfig, transformer_config

SEGMENTS = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 3, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]])
POSITIONS = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 0], [0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8]])
TOKENS = np.random.default_rng(0).integers(0, 17, (*SEGMENTS.shape, 1))


def forward(graph, params, tokens, positions, segments, conditions, **options):
    @jax.jit
    def apply(params, tokens, positions, segments, conditions):
        return nnx.merge(graph, params)(tokens, positions, segments, conditions, **options)

    return apply(params, tokens, positions, segments, conditions)


def reference(config: TransformerConfig, params, tokens, positions, segment, conditions):
    """Logits [T, K, V] of one piece in float64. tokens [T, K], positions [T], conditions name -> [L, W]."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    head_dim = config.d_model // config.num_heads

    def norm(x, p):
        if "bias" in p:
            x = x - x.mean(-1, keepdims=True)
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]

    def linear(x, p):
        return x @ p["kernel"] + p.get("bias", 0)

    def rope(x):  # [T, N, H]: pairs (i, i + H / 2) as complex numbers turned by position · θ^(-2i / H)
        half = head_dim // 2
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(
            1j * positions[:, None, None] * config.rope_theta ** (-np.arange(half) * 2 / head_dim)
        )
        return np.concatenate([turned.real, turned.imag], -1)

    x = sum(params["embedding"][k][tokens[:, k]] for k in range(config.num_streams))
    if config.hears:
        chords, clock = [], []  # of each moment the pitches so far
        for t, token in enumerate(tokens[:, 0]):
            chords += [np.zeros(config.num_pitches)] if t == 0 or config.moments[token] else []
            chords[-1] = np.maximum(chords[-1], np.arange(config.num_pitches) == config.pitches[token])
            silence = [np.zeros(config.num_pitches)] * max(config.history)
            known = [*chords[::-1], *silence]
            told = np.concatenate([known[lag] for lag in (0, *config.history)])
            x[t] += linear(told, params["history"]["project"])
            clock.append(len(chords) - 1)
        positions = np.array(clock)
    prefix, sources = [], []
    for each in config.conditions:
        value = conditions[each.name].astype(np.float64)
        asked = each.scale * value @ params["conditioning"]["tables"][each.name]
        if each.way == "add":
            x = x + asked[0]
        elif each.way == "prefix":
            prefix.append(asked[0])
        else:
            sources += [vector for vector, given in zip(asked, value.any(-1), strict=True) if given]
    x = np.concatenate([np.array(prefix).reshape(-1, config.d_model), x])
    positions = np.concatenate([np.arange(len(prefix)), positions + len(prefix)])
    for index in range(config.num_layers):
        p = params["layers"][index]
        heads = linear(norm(x, p["attention_norm"]), p["attention"]["qkv"])
        heads = heads.reshape(len(x), config.num_kv_heads, -1, head_dim)
        q, k, v = heads[:, :, :-2].reshape(len(x), -1, head_dim), heads[:, :, -2], heads[:, :, -1]
        if config.qk_norm:
            q, k = norm(q, p["attention"]["query_norm"]), norm(k, p["attention"]["key_norm"])
        q, k = rope(q), rope(k)
        mixed = np.zeros_like(q)
        for head in range(config.num_heads):
            shared = head // (config.num_heads // config.num_kv_heads)
            for t in range(len(x)):
                weight = np.exp(q[t, head] @ k[: t + 1, shared].T / np.sqrt(head_dim))
                mixed[t, head] = weight / weight.sum() @ v[: t + 1, shared]
        x = x + linear(mixed.reshape(len(x), -1), p["attention"]["out"])
        if sources:
            queries = linear(norm(x, p["cross_norm"]), p["cross"]["query"]).reshape(len(x), -1, head_dim)
            memory = linear(np.array(sources), p["cross"]["memory"]).reshape(len(sources), -1, 2, head_dim)
            taken = np.zeros_like(queries)
            for head in range(config.num_heads):
                k, v = memory[:, head // (config.num_heads // config.num_kv_heads)].transpose(1, 0, 2)
                weight = np.exp(queries[:, head] @ k.T / np.sqrt(head_dim))
                taken[:, head] = weight / weight.sum(-1, keepdims=True) @ v
            x = x + linear(taken.reshape(len(x), -1), p["cross"]["out"])
        y = linear(norm(x, p["feed_forward_norm"]), p["feed_forward"]["up"])
        if config.activation == "swiglu":
            gate = linear(norm(x, p["feed_forward_norm"]), p["feed_forward"]["gate"])
            y = gate / (1 + np.exp(-gate)) * y
        else:
            y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, p["feed_forward"]["down"])
    x = x[len(prefix) :]
    x = norm(x, params["norm"])
    logits = np.einsum("TD,KVD->TKV", x, params["embedding"]) / np.sqrt(config.d_model)
    return logits


@pytest.mark.parametrize("streams", [1, 2])
def test_packed_rows_are_the_reference_piece_by_piece(config, make_params, values, streams):
    config = dataclasses.replace(config, num_streams=streams)
    told = values(config)
    graph, params = make_params(config)
    tokens = np.concatenate([TOKENS, 16 - TOKENS], axis=-1)[..., :streams]
    logits = forward(graph, params, tokens, POSITIONS, SEGMENTS, told)
    assert logits.shape == (*SEGMENTS.shape, streams, 17)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    for row in range(2):
        for segment in range(1, SEGMENTS[row].max() + 1):
            here = SEGMENTS[row] == segment
            conditions = {name: value[row, segment - 1] for name, value in told.items()}
            expected = reference(config, params, tokens[row, here], POSITIONS[row, here], segment, conditions)
            np.testing.assert_allclose(logits[row, here], expected, atol=3e-5)


def test_a_packed_row_is_two_rows(config, make_params, values):
    told = values(config)
    graph, params = make_params(config)
    packed = forward(graph, params, TOKENS[1:], POSITIONS[1:], SEGMENTS[1:], {n: v[1:] for n, v in told.items()})
    for segment, here in ((1, slice(0, 2)), (2, slice(2, 11))):
        conditions = {name: value[1:, segment - 1 : segment] for name, value in told.items()}
        ones = np.ones_like(SEGMENTS[1:, here])
        alone = forward(graph, params, TOKENS[1:, here], POSITIONS[1:, here], ones, conditions)
        np.testing.assert_allclose(packed[:, here], alone, atol=1e-5)


@pytest.mark.parametrize("attend", [plain_attend, blockwise_attend])
def test_a_token_depends_on_its_past_alone(config, make_params, values, attend):
    told = values(config)
    config = dataclasses.replace(config, clock="tokens", history=())  # embeddings have no pitches

    class Soft(Transformer):
        """Takes embeddings for tokens, so that there is a gradient."""

        def embed(self, tokens, placement):
            return tokens

    graph = nnx.graphdef(nnx.eval_shape(lambda: Soft(config, rngs=nnx.Rngs(0))))
    _, params = make_params(config)
    inputs = jax.random.normal(jax.random.key(0), (*SEGMENTS.shape, config.d_model))
    direction = jax.random.normal(jax.random.key(1), (17,))

    @jax.jit
    def influence(params, inputs):
        def outputs(inputs):
            model = nnx.merge(graph, params)
            logits = model(inputs, POSITIONS, SEGMENTS, told, placement=Placement(attend))
            return logits[:, :, 0] @ direction

        return jnp.abs(jax.jacrev(outputs)(inputs)).max(-1)  # [B, T, B, T]

    got = influence(params, inputs)
    row, time = np.indices(SEGMENTS.shape).reshape(2, -1)
    for b, t in zip(row, time, strict=True):
        if SEGMENTS[b, t]:  # nothing reads what padding says
            same = (SEGMENTS[b, t] == SEGMENTS) & (np.arange(SEGMENTS.shape[1]) <= t)
            same &= (np.arange(2) == b)[:, None]
            np.testing.assert_array_equal(got[b, t] > 0, same)


def test_remat_changes_nothing(config, make_params, values):
    told = values(config)
    _, params = make_params(config)

    def loss_and_grads(config):
        graph = abstract_model(config).graph

        def loss(params, key):
            model = nnx.merge(graph, params)
            return jnp.sum(jnp.sin(model(TOKENS, POSITIONS, SEGMENTS, told, dropout_key=key)))

        return jax.jit(jax.value_and_grad(loss))(params, jax.random.key(0))

    config = dataclasses.replace(config, dropout=0.2)
    plain, *others = (loss_and_grads(dataclasses.replace(config, remat=remat)) for remat in ("none", "dots", "full"))
    for other in others:
        for ours, plains in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(ours, plains, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attend", [blockwise_attend, splash_attend, cudnn_attend])
def test_remat_keeps_what_its_policy_says(make_config, monkeypatch, attend):
    # All that is asked of cuDNN is a shape; the library itself and a GPU are not there.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 0)
    monkeypatch.setattr(fused_attention_stablehlo, "check_is_flash_attention", lambda *args, **kwargs: None)
    shape, length = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32), 1024

    def kept(remat):
        """Bytes a layer and token from the forward pass to the backward pass."""
        config = make_config(d_model=256, d_ff=512, dtype="bfloat16", conditions=(), remat=remat)
        model = abstract_model(config)

        def pull_back(params, tokens, times, lengths):
            def loss(params):
                hidden = nnx.merge(model.graph, params).hidden
                return jnp.sum(hidden(tokens, times, times, {}, lengths, jax.random.key(0), Placement(attend))[0])

            return jax.vjp(loss, params)[1]

        arrays = jax.eval_shape(pull_back, model.shapes, shape((1, length, 1)), shape((1, length)), shape((1, 1)))
        sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays) if length in x.shape and x.dtype != bool]
        return sum(sizes) / config.num_layers / length

    none, dots, full = map(kept, ("none", "dots", "full"))
    products, attention = 2 * (3 * 256 + 512 + 256), 2 * 256 + 4 * 4
    assert dots - full == products + attention
    assert none > dots + 2 * 256


def test_dropout_needs_a_key(make_config, make_params, values):
    args = TOKENS, POSITIONS, SEGMENTS, values(make_config())
    with_rate, without = (make_params(make_config(dropout=rate)) for rate in (0.5, 0.0))
    plain = forward(*without, *args)
    np.testing.assert_array_equal(forward(*with_rate, *args), plain)
    np.testing.assert_array_equal(forward(*without, *args, dropout_key=jax.random.key(0)), plain)
    one, again, other = (forward(*with_rate, *args, dropout_key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - plain).max() > 0.1
    assert np.abs(one - other).max() > 0.1


def test_bfloat16_stays_near(make_config, make_params, values):
    args = TOKENS, POSITIONS, SEGMENTS, values(make_config())
    exact = forward(*make_params(make_config()), *args)
    half = forward(abstract_model(make_config(dtype="bfloat16")).graph, make_params(make_config())[1], *args)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, atol=0.1 * np.abs(exact).max())


def test_a_fresh_network_guesses(config, values):
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    assert abs(float(jnp.std(params["embedding"])) - 1) < 0.1
    logits = forward(abstract_model(config).graph, params, TOKENS, POSITIONS, SEGMENTS, values(config))
    assert 0.3 < float(jnp.std(logits)) < 3
    other = jax.jit(lambda key: init_params(config, key))(jax.random.key(1))
    assert fingerprint(params) != fingerprint(other)


@pytest.mark.parametrize("preset", ["remi_composer", "remi_modern"])
def test_full_size_presets(preset):
    spec = TokenSpec("remi", 1, 419, 0, 1, 2, {"all": (0, 419)})
    composers = Vocabulary("categorical", tuple(map(str, range(238))), (1,) * 238)
    fields = importlib.import_module(f"configs.{preset}").get_config().to_dict()
    config = transformer_config(TrainConfig.from_json(fields), Card(spec, {}, {"composer": composers}))
    model = abstract_model(config)
    size = sum(x.size for x in jax.tree.leaves(model.shapes)) - 239 * 512
    # configs/remi_composer.py's 25.4 M: 8 layers of (512 · 4 · 512 + 2 · 512 · 2048) and embeddings.
    assert abs(size / 25.4e6 - 1) < (0.002 if preset == "remi_composer" else 0.05)
    args = [jax.ShapeDtypeStruct((2, 8192, *more), jnp.int32) for more in ((1,), (), ())]
    conditions = {"composer": jax.ShapeDtypeStruct((2, 3, 1, 239), jnp.float16)}
    out = jax.eval_shape(lambda p, *a: nnx.merge(model.graph, p)(*a), model.shapes, *args, conditions)
    assert out.shape == (2, 8192, 1, 419)


@pytest.mark.parametrize(
    "fields",
    [{"d_model": 30}, {"num_heads": 32}, {"num_kv_heads": 3}, {"norm": "x"}, {"activation": "x"}, {"dtype": "x"}],
)
def test_impossible_sizes_are_refused(make_config, fields):
    with pytest.raises(ValueError, match=next(iter(fields)).removeprefix("num_")):
        make_config(**fields)
