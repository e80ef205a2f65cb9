import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from amt_jax.data.card import Card
from amt_jax.data.pipeline import Records, Rows, batches
from amt_jax.data.plan import TrainPlan
from amt_jax.model.params import abstract_model, init_params, tempered
from amt_jax.training.config import OptimizerConfig, transformer_config
from amt_jax.training.optimizer import decayed, depth_factors, learning_rate_schedule, make_optimizer
from amt_jax.training.step import Regularization, TrainState, eval_step, train_step

OPTIMIZER = OptimizerConfig("adamw", 1e-2, 0.1, 0.1, 0.9, 0.99, 0.1, 1.0, 1.0)
SGD = optax.sgd(1.0)  # unlike Adam it does not blow up rounding
NONE = Regularization(label_smoothing=0.1)


@dataclasses.dataclass
class Setup:
    """A tiny network, its parameters and one batch of eight rows."""

    card: Card
    config: object
    model: object
    params: object
    batch: dict
    compiled: dict = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def static(self):
        return {
            "graph": self.model.graph,
            "type_ids": self.card.spec.type_ids(),
            "num_types": len(self.card.spec.ranges),
        }

    def step(self, *, batch=None, accumulation=1, regularization=NONE, seed=0, params=None):
        params = self.params if params is None else params
        state = TrainState(params, SGD.init(params), jnp.int32(0))
        key = (accumulation, regularization)
        if key not in self.compiled:
            function = functools.partial(
                train_step, optimizer=SGD, accumulation=accumulation, regularization=regularization, **self.static
            )
            self.compiled[key] = jax.jit(function)
        return self.compiled[key](state, self.batch if batch is None else batch, seed=seed)

    def evaluate(self, batch):
        if "evaluate" not in self.compiled:
            self.compiled["evaluate"] = jax.jit(functools.partial(eval_step, **self.static))
        return self.compiled["evaluate"](self.params, batch)

    def logits(self, batch):
        """[B, T, K, V]"""
        if "logits" not in self.compiled:
            self.compiled["logits"] = jax.jit(lambda params, *inputs: nnx.merge(self.model.graph, params)(*inputs))
        names = ("inputs", "positions", "segments", "conditions")
        return self.compiled["logits"](self.params, *(batch[name] for name in names))


@pytest.fixture(scope="module")
def setup(dataset, make_config, told):
    card = Card.load(dataset)
    config = transformer_config(make_config({"model.dropout": 0.0}), card)
    records = Records(dataset, card, "train")
    batch = next(iter(batches(Rows(records, TrainPlan(records.lengths, 32, 0), told(card)), 8)))
    params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
    return Setup(card, config, abstract_model(config), params, batch)


def tree_close(a, b, tolerance):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def test_accumulated_microbatches_equal_one_large_batch(setup):
    # Rows of unequal weight, or a mean of means would pass too.
    batch = dict(setup.batch, weights=setup.batch["weights"] * (np.arange(8) % 4 != 1)[:, None])
    whole, sums = setup.step(batch=batch)
    parts, part_sums = setup.step(batch=batch, accumulation=4)
    tree_close(whole.params, parts.params, 1e-6)
    tree_close(sums, part_sums, 1e-3)
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, whole.params, setup.params))) > 0.1


def test_only_kernels_of_linear_layers_decay(setup):
    found = jax.tree_util.tree_leaves_with_path(decayed(setup.params))
    names = {".".join(str(key.key) for key in path): value for path, value in found}
    yes = {name for name, value in names.items() if value}
    assert yes == {
        f"layers.{i}.{part}.kernel"
        for i in range(2)
        for part in ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.gate", "feed_forward.down")
    }
    assert {"embedding", "conditioning.tables.composer", "norm.scale", "layers.0.attention.query_norm.scale"} <= (
        names.keys() - yes
    )
    # What the mask says is what the optimizer does: without gradients only decay moves a parameter.
    optimizer = make_optimizer(OPTIMIZER, 10)

    @jax.jit
    def without_gradients(params):
        return optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]

    updates = without_gradients(setup.params)
    moved = {
        ".".join(str(key.key) for key in path)
        for path, value in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(value)
    }
    assert moved == yes


def test_lower_layers_move_less_by_the_documented_factors(setup):
    expected = {"embedding": 1 / 8, "conditioning.tables.composer": 1 / 8, "norm.scale": 1}
    expected |= {"layers.0": 1 / 4, "layers.1": 1 / 2}
    plain, slowed = (make_optimizer(dataclasses.replace(OPTIMIZER, layer_decay=decay), 10) for decay in (1.0, 0.5))
    grads = setup.step()[0].params  # any numbers will do

    @jax.jit
    def update(params):
        return [optimizer.update(grads, optimizer.init(params), params)[0] for optimizer in (plain, slowed)]

    before, after = update(setup.params)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        factor = next(factor for start, factor in expected.items() if name.startswith(start))
        assert np.any(x), name
        np.testing.assert_array_equal(y, factor * x, err_msg=name)  # a power of two is exact
    assert set(jax.tree.leaves(depth_factors(setup.params, 1.0))) == {1.0}


def test_the_average_of_weights_is_that_of_the_formula(setup):
    step = jax.jit(
        functools.partial(
            train_step, optimizer=SGD, accumulation=1, regularization=NONE, seed=0, ema=0.25, **setup.static
        )
    )
    state = TrainState(setup.params, SGD.init(setup.params), jnp.int32(0), setup.params)
    expected = jax.tree.map(lambda x: np.asarray(x, np.float64), setup.params)
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25):
        state, _ = step(state, setup.batch)
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * np.asarray(new, np.float64),
            expected, state.params,
        )  # fmt: skip
        tree_close(state.average, expected, 1e-5)
    assert state.eval_params is state.average
    assert state._replace(average=None).eval_params is state.params


def test_learning_rate_warms_up_and_falls_by_fractions_of_the_run():
    schedule = learning_rate_schedule(OPTIMIZER, 200)
    rates = np.asarray(jax.vmap(schedule)(np.arange(201)))
    np.testing.assert_allclose(rates[:20], 1e-2 * np.arange(1, 21) / 20, rtol=1e-5)
    np.testing.assert_allclose(rates[[110, 200]], [1e-2 * 0.55, 1e-3], rtol=1e-4)
    assert (np.diff(rates[20:]) <= 0).all()


def test_smoothed_loss_is_cross_entropy_with_smoothed_targets(setup):
    _, sums = setup.step()
    batch = setup.batch
    logits = np.asarray(setup.logits(batch))
    labels = optax.smooth_labels(jax.nn.one_hot(batch["targets"], setup.config.vocab_size), 0.1)
    expected = optax.softmax_cross_entropy(logits, labels)[..., 0] * batch["weights"]
    np.testing.assert_allclose(sums["smoothed_loss"], expected.sum(), rtol=1e-5)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])[..., 0] * batch["weights"]
    np.testing.assert_allclose(sums["loss"], plain.sum(), rtol=1e-5)
    correct = (np.argmax(logits, -1) == batch["targets"])[..., 0] * batch["weights"]
    assert float(sums["correct"]) == correct.sum()
    kinds = setup.card.spec.type_ids()[batch["targets"][..., 0]]
    for kind in range(len(setup.card.spec.ranges)):
        here = (kinds == kind) * batch["weights"]
        np.testing.assert_allclose(sums["type_count"][kind], here.sum())
        np.testing.assert_allclose(sums["type_loss"][kind], (plain * here).sum(), rtol=1e-4)


def test_padding_and_unscored_targets_change_nothing(setup):
    weights = setup.batch["weights"].copy()
    weights[:, ::3] = 0
    weights[0] = 0
    changed = np.where(weights[..., None] > 0, setup.batch["targets"], 7)
    batch = dict(setup.batch, weights=weights)
    first, second = setup.evaluate(batch), setup.evaluate(dict(batch, targets=changed))
    tree_close(first, second, 0)
    assert float(first["count"]) == weights.sum()


def test_chances_are_drawn_by_seed_and_step_and_leave_segments_alone(setup):
    regularization = Regularization(0.0, 0.5, 0, setup.config.conditions)
    runs = [setup.step(regularization=regularization, seed=seed)[1] for seed in (0, 0, 1)]
    assert float(runs[0]["loss"]) == float(runs[1]["loss"]) != float(runs[2]["loss"])
    assert float(runs[0]["count"]) == setup.batch["weights"].sum()


def test_token_dropout_is_pad_in_the_input(setup):
    everything = Regularization(0.0, 1.0 - 1e-7, 0, ())
    _, sums = setup.step(regularization=everything)
    padded = dict(setup.batch, inputs=np.zeros_like(setup.batch["inputs"]))
    np.testing.assert_allclose(sums["loss"], setup.evaluate(padded)["loss"], rtol=1e-5)


def test_condition_dropout_is_null_a_segment(setup):
    always = tuple(dataclasses.replace(c, dropout=1.0) for c in setup.config.conditions)
    _, sums = setup.step(regularization=Regularization(conditions=always))
    nothing = np.broadcast_to(always[0].null(), setup.batch["conditions"]["composer"].shape)
    null = dict(setup.batch, conditions={"composer": nothing})
    np.testing.assert_allclose(sums["loss"], setup.evaluate(null)["loss"], rtol=1e-6)
    assert abs(float(sums["loss"]) - float(setup.evaluate(setup.batch)["loss"])) > 1e-2


def test_two_pieces_packed_in_a_row_lose_what_they_lose_in_two_rows(setup):
    random = np.random.default_rng(0)
    lengths, composers, context = (13, 11), (1, 2), 32
    pieces = [random.integers(3, 80, length + 1) for length in lengths]

    def rows(layout):
        """Rows of (piece, ...) -> a batch."""
        shape = (len(layout), context)
        batch = {name: np.zeros(shape, np.int32) for name in ("inputs", "targets", "segments", "positions")}
        batch |= {
            "weights": np.zeros(shape, np.float32),
            "lengths": np.zeros((len(layout), 3), np.int32),
            "conditions": {"composer": np.zeros((len(layout), 3, 1, 3), np.float16)},
        }
        for row, indices in enumerate(layout):
            at = 0
            for segment, i in enumerate(indices):
                here = slice(at, at + lengths[i])
                batch["inputs"][row, here], batch["targets"][row, here] = pieces[i][:-1], pieces[i][1:]
                batch["segments"][row, here], batch["weights"][row, here] = segment + 1, 1
                batch["positions"][row, here], batch["lengths"][row, segment] = np.arange(lengths[i]), lengths[i]
                batch["conditions"]["composer"][row, segment, 0, composers[i]] = 1
                at += lengths[i]
        return batch | {"inputs": batch["inputs"][..., None], "targets": batch["targets"][..., None]}

    def losses(batch):
        # One shape for all, so that it is compiled once.
        batch = jax.tree.map(lambda x: np.pad(x, [(0, 8 - len(x))] + [(0, 0)] * (x.ndim - 1)), batch)
        return optax.softmax_cross_entropy_with_integer_labels(setup.logits(batch), batch["targets"])[..., 0]

    packed, apart = losses(rows([(0, 1)])), losses(rows([(0,), (1,)]))
    np.testing.assert_allclose(packed[0, :13], apart[0, :13], rtol=0, atol=2e-5)
    np.testing.assert_allclose(packed[0, 13:24], apart[1, :11], rtol=0, atol=2e-5)
    # The composers matter, and each only to its own piece.
    swapped = rows([(0, 1)])
    swapped["conditions"]["composer"][0, 1, 0] = np.eye(3)[1]
    changed = np.abs(losses(swapped) - packed)[0]
    assert changed[:13].max() == 0
    assert changed[13:24].min() > 0


def test_losses_at_temperatures_are_those_of_divided_logits(setup):
    step = functools.partial(eval_step, **setup.static)
    found = jax.jit(functools.partial(step, temperatures=(1.0, 1.3)))(setup.params, setup.batch)
    expected = jax.jit(step)(tempered(setup.params, 1.3), setup.batch)["loss"]
    np.testing.assert_allclose(found["tempered_loss"], [found["loss"], expected], rtol=1e-6)
    assert abs(found["loss"] - expected) > 1e-2


def test_the_first_loss_has_not_drifted(setup):
    """If you meant to change the network, its initial weights, the plan or the loss, put the new number here."""
    found = setup.evaluate(setup.batch)
    np.testing.assert_allclose(float(found["loss"] / found["count"]), 5.106126, rtol=1e-4)
