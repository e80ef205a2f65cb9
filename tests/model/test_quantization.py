"""Products of 8-bit numbers: what they are, and how little a trained network loses by them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, init_params
from amt_jax.model.quantization import convert, int8_product, quantize

CONFIG = TransformerConfig(
    vocab_size=20, num_streams=1, num_layers=2, num_heads=2, num_kv_heads=2, d_model=64, d_ff=128, context_length=32,
    dropout=0.0, norm="layernorm", activation="gelu", qk_norm=False, bias=True, rope_theta=1e4, clock="tokens",
    history=(), remat="none",
    dtype="float32",
)  # fmt: skip
BOUND = 0.005  # of the nats a token


@pytest.mark.parametrize("shape", [(8,), (1, 8), (5, 8), (2, 3, 8)])
def test_a_product_of_small_whole_numbers_is_exact(shape):
    random = np.random.default_rng(0)
    x, kernel = random.integers(-127, 128, shape), random.integers(-127, 128, (8, 6))
    x[..., 0], scale = 127, np.array([1, 2, 0.5, 4, 1, 1], np.float32)
    found = jax.jit(int8_product)(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.int8), scale)
    np.testing.assert_array_equal(found, (x @ kernel) * scale)


def test_rounding_errs_by_half_a_step_at_most():
    random = np.random.default_rng(1)
    kernel = random.normal(size=(64, 5)) * [1e-3, 1, 50, 0, 1]
    found = quantize({"up": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(5)}})["up"]
    assert found["kernel"].dtype == jnp.int8
    assert np.all(np.abs(found["kernel"] * found["scale"] - kernel) <= 0.501 * np.abs(kernel).max(axis=0) / 127)
    assert not np.any(int8_product(jnp.zeros((2, 64)), found["kernel"], found["scale"]))


@pytest.mark.parametrize("weights", ["auto", "float32", "bfloat16", "int8"])
def test_what_is_converted(weights):
    params = jax.jit(functools.partial(init_params, CONFIG))(jax.random.key(0))
    config, converted = convert(dataclasses.replace(CONFIG, dtype="bfloat16"), params, weights)
    other = "float32" if weights == "float32" else "bfloat16"
    assert (config.dtype, config.quantized) == (other, weights == "int8")
    model = abstract_model(config)
    assert jax.tree.structure(converted) == jax.tree.structure(model.shapes)
    up = converted["layers"][0]["feed_forward"]["up"]
    assert up["kernel"].dtype == ("int8" if weights == "int8" else other)
    assert converted["embedding"].dtype == other
    assert up["bias"].dtype == converted["norm"]["scale"].dtype == "float32"
    assert (
        convert(config, converted, "auto")[1]["layers"][0]["feed_forward"]["up"]["kernel"].dtype == up["kernel"].dtype
    )


def music(seed, rows=32):
    """Each id follows from the one before it, but for one in five. [B, T + 1]"""
    random = np.random.default_rng(seed)
    ids = random.integers(0, 20, (rows, CONFIG.context_length + 1))
    for time in range(1, ids.shape[1]):
        follows = (3 * ids[:, time - 1] + 1) % 20
        ids[:, time] = np.where(random.random(rows) < 0.8, follows, ids[:, time])
    return jnp.asarray(ids)


def nats(config, params, ids):
    """A token."""
    time = jnp.broadcast_to(jnp.arange(ids.shape[1] - 1), ids[:, 1:].shape)
    model = nnx.merge(abstract_model(config).graph, params)
    logits = model(ids[:, :-1, None], time, jnp.ones_like(time), {})[:, :, 0]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]))


@pytest.fixture(scope="module")
def trained():
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(state, ids):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(functools.partial(nats, CONFIG))(params, ids), moments)
        return optax.apply_updates(params, updates), moments

    params = jax.jit(functools.partial(init_params, CONFIG))(jax.random.key(0))
    state = params, jax.jit(optimizer.init)(params)
    for seed in range(80):
        state = step(state, music(seed))
    return state[0]


def loss_of(trained, weights, change=lambda params: params):
    """How many nats more than the trained network's, as a share."""
    config, params = convert(CONFIG, trained, weights)
    unseen = music(10_000, rows=256)
    before = float(jax.jit(functools.partial(nats, CONFIG))(trained, unseen))
    assert before < 1.5  # ln 20 is 3.0: it has learned
    return abs(float(jax.jit(functools.partial(nats, config))(change(params), unseen)) / before - 1)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_trained_network_predicts_as_well(trained, weights):
    assert loss_of(trained, weights) < BOUND


def test_a_wrong_scale_is_noticed(trained):
    def another_columns(path, x):
        return x[::-1] if path[-1].key == "scale" and path[-2].key in ("qkv", "out", "up", "down") else x

    assert loss_of(trained, "int8", functools.partial(jax.tree_util.tree_map_with_path, another_columns)) > BOUND
