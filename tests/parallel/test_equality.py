"""Eight devices compute what one does, however they share the work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from amt_jax.data.card import Card
from amt_jax.data.conditions import Conditions
from amt_jax.data.pipeline import Records, Rows, batches
from amt_jax.data.plan import TrainPlan
from amt_jax.model.conditioning import ConditionConfig
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, init_params
from amt_jax.parallel.attention import placement
from amt_jax.parallel.mesh import MeshConfig, make_mesh, parameter_shardings, put_batch
from amt_jax.training.config import OptimizerConfig
from amt_jax.training.optimizer import make_optimizer
from amt_jax.training.step import Regularization, TrainState, train_step

ONE = MeshConfig(1, 1, 1, 1)
MESHES = [MeshConfig(8, 1, 1, 1), MeshConfig(1, 8, 1, 1), MeshConfig(2, 2, 2, 1), MeshConfig(2, 1, 1, 4)]
ROWS, ACCUMULATION, CONTEXT = 16, 2, 64
# Every way in.
PITCHES, MOMENTS = tuple(max(id - 10, -1) for id in range(80)), tuple(id % 7 == 3 for id in range(80))
CONDITIONS = (
    ConditionConfig("composer", 3, dropout=0.5), ConditionConfig("style", 5, "prefix", scale=1.0, dropout=0.2),
    ConditionConfig("words", 6, "cross", length=3, scale=1.0, dropout=0.2),
)  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory, write_dataset, make_pieces):
    folder = tmp_path_factory.mktemp("data") / "set"
    write_dataset(folder, make_pieces(np.random.default_rng(1).integers(3, 90, 40)))
    return Records(folder, Card.load(folder), "train")


def config(**fields) -> TransformerConfig:
    return TransformerConfig(
        **{
            "vocab_size": 80, "num_streams": 1, "num_layers": 2, "num_heads": 8, "num_kv_heads": 4, "d_model": 64,
            "d_ff": 96, "context_length": CONTEXT, "dropout": 0.1, "norm": "rmsnorm", "activation": "swiglu",
            "qk_norm": True, "bias": False, "rope_theta": 1e4, "clock": "moments", "history": (1, 3),
            "remat": "dots", "dtype": "float32", "conditions": CONDITIONS, "pitches": PITCHES,
            "moments": MOMENTS, **fields,
        }
    )  # fmt: skip


OLD = {
    "norm": "layernorm", "activation": "gelu", "qk_norm": False, "bias": True, "num_kv_heads": 8, "remat": "full",
    "clock": "tokens", "history": (),
}  # fmt: skip


def run(records, model_config, mesh_config, optimizer, steps):
    """Trains a few steps from the same start on the same packed rows -> initial and last parameters, loss a step."""
    mesh = make_mesh(mesh_config, ROWS // ACCUMULATION, model_config)
    model = abstract_model(model_config)
    params = jax.jit(functools.partial(init_params, model_config))(jax.random.key(0))
    params = jax.device_put(params, parameter_shardings(mesh, model.axes))
    initial = jax.device_get(params)
    step = jax.jit(
        functools.partial(
            train_step, graph=model.graph, optimizer=optimizer, type_ids=records.card.spec.type_ids(),
            num_types=len(records.card.spec.ranges), seed=0, accumulation=ACCUMULATION, placement=placement(mesh),
            regularization=Regularization(0.1, 0.05, 0, model_config.conditions, dropout=True),
        )
    )  # fmt: skip
    state, losses = TrainState(params, jax.jit(optimizer.init)(params), jnp.int32(0)), []
    composers = Conditions(records.card.conditions, {"composer": 1})
    rows, random = Rows(records, TrainPlan(records.lengths, CONTEXT, 0), composers), np.random.default_rng(0)
    for batch, _ in zip(batches(rows, ROWS), range(steps), strict=False):
        assert batch["segments"].max() > 2  # packed
        segments = batch["conditions"]["composer"].shape[1]
        for each in CONDITIONS[1:]:
            shape = ROWS, segments, each.length, each.width
            batch["conditions"][each.name] = random.normal(size=shape).astype(np.float16)
        state, sums = step(state, put_batch(batch, mesh, ROWS))
        losses.append(float(sums["loss"] / sums["count"]))
    return initial, jax.device_get(state.params), losses


@pytest.fixture(scope="module")
def one_device(records):
    """A function: (network, optimizer, steps) -> what one device makes of them, computed once."""
    return functools.lru_cache(lambda model, name, steps: run(records, model, ONE, make(name), steps))


def make(name: str) -> optax.GradientTransformation:
    # SGD's update is the gradient, so large that a parameter it is subtracted from does not round it away; AdamW's
    # blows up rounding where a gradient is nearly zero.
    if name == "sgd":
        return optax.sgd(1000.0)
    return make_optimizer(OptimizerConfig(name, 3e-3, 0.1, 0.1, 0.9, 0.99, 0.1, 1.0, 1.0), 50)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("fields", [{}, OLD], ids=["modern", "old"])
def test_loss_gradients_and_parameters_equal_one_device(records, one_device, mesh, fields):
    model = config(**fields)
    initial, expected, losses = one_device(model, "sgd", 1)
    _, found, found_losses = run(records, model, mesh, make("sgd"), 1)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    for (path, start), a, b in zip(
        jax.tree_util.tree_leaves_with_path(initial), jax.tree.leaves(expected), jax.tree.leaves(found), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        gradient, other = start - a, start - b
        assert np.linalg.norm(gradient) > 1e-4, f"{name} has no gradient to compare"
        assert np.linalg.norm(gradient - other) <= 1e-5 * np.linalg.norm(gradient), name
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a), name


@pytest.mark.parametrize("mesh", [MeshConfig(4, 2, 1, 1), MeshConfig(2, 2, 2, 1), MeshConfig(2, 2, 1, 2)], ids=str)
def test_no_activation_goes_to_where_a_table_lies(records, mesh, capfd):
    """The compiler warns where it can only gather an array everywhere to cut it in another way."""
    run(records, config(), mesh, make("sgd"), 1)
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("optimizer", "mesh"), [*(("adamw", mesh) for mesh in MESHES), ("muon", MeshConfig(2, 2, 2, 1))], ids=str
)
def test_fifty_steps_keep_the_loss_curve(records, one_device, optimizer, mesh):
    _, _, expected = one_device(config(), optimizer, 50)
    _, _, found = run(records, config(), mesh, make(optimizer), 50)
    assert expected[-1] < expected[0] - 0.5  # it learns
    np.testing.assert_allclose(found, expected, atol=1e-3)
