"""A train step and a generated piece on a GPU are the CPU's, within what another order of sums makes of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, init_params
from amt_jax.parallel.mesh import AXES
from amt_jax.sampling.request import Request
from amt_jax.sampling.sampler import Sampler
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.grammar import Grammar
from amt_jax.tokens.symbolic import SymbolicTokenizer
from amt_jax.training.optimizer import make_optimizer
from amt_jax.training.step import Regularization, TrainState, train_step
from bench.models import decoder, optimizer_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]
SIZES = {"vocab_size": 419, "num_layers": 2, "num_heads": 4, "d_model": 256, "d_ff": 512}


@pytest.fixture(scope="module")
def params():
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.device_get(jax.jit(functools.partial(init_params, small()))(jax.random.key(0)))


def small() -> TransformerConfig:
    return decoder(context_length=512, **SIZES)


def test_a_train_step_is_the_cpus(params):
    config, optimizer = small(), make_optimizer(optimizer_config(), 10)
    tokens = np.random.default_rng(0).integers(3, 419, (2, 513, 1)).astype(np.int32)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": np.repeat([[1, 2]], 256, axis=1).repeat(2, axis=0).astype(np.int32),
        "lengths": np.full((2, 2), 256, np.int32),
        "positions": np.tile(np.arange(256, dtype=np.int32), (2, 2)),
        "weights": np.ones((2, 512), np.float32),
        "conditions": {},
    }
    step = functools.partial(
        train_step, graph=abstract_model(config).graph, optimizer=optimizer, type_ids=np.zeros(419, np.int32),
        num_types=1, seed=0, accumulation=1, regularization=Regularization(label_smoothing=0.1),
    )  # fmt: skip

    def run(platform):
        with jax.default_device(jax.devices(platform)[0]), jax.default_matmul_precision("highest"):
            state = TrainState(jax.tree.map(jnp.asarray, params), optimizer.init(params), jnp.int32(5))
            after, sums = jax.jit(step)(state, batch)
            return jax.device_get((sums["loss"], sums["grad_norm"], after.params))

    loss, norm, after = run("gpu")
    expected_loss, expected_norm, expected = run("cpu")
    np.testing.assert_allclose([loss, norm], [expected_loss, expected_norm], rtol=1e-5)
    moved = [np.concatenate([(a - b).ravel() for a, b in zip(*map(jax.tree.leaves, (p, params)), strict=True)])
             for p in (after, expected)]  # fmt: skip
    # AdamW's first steps are signs of gradients: those that are nearly 0 may turn.
    assert np.mean(np.abs(moved[0] - moved[1]) > 1e-5) < 1e-3


def test_a_piece_is_the_cpus(params):
    tokenizer = SymbolicTokenizer.create("remi")
    spec, grammar = tokenizer.spec, Grammar.create(tokenizer.spec, tokenizer.names)
    settings = GenerationSettings(max_tokens=200, seconds=30_000, temperature=0.0)
    requests = [Request(dataclasses.replace(settings, seed=seed)) for seed in range(3)]

    def run(platform):
        device = jax.devices(platform)[0]
        mesh = jax.make_mesh((1,) * len(AXES), AXES, (AxisType.Auto,) * len(AXES), devices=[device])
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            return [each.ids for each in Sampler(small(), params, spec, grammar, mesh=mesh).generate(requests)]

    for found, expected in zip(run("gpu"), run("cpu"), strict=True):
        np.testing.assert_array_equal(found, expected)
