"""Rows cut to shorter contexts for parts of a run, and that run's average of weights."""

import functools
import json
import os
import signal

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from amt_jax.data.card import Card
from amt_jax.data.pipeline import Records, Rows, batches
from amt_jax.data.plan import EvalPlan, TrainPlan
from amt_jax.errors import UserError
from amt_jax.model.params import abstract_model, init_params
from amt_jax.training import loop
from amt_jax.training.config import transformer_config
from amt_jax.training.lengths import cut, length_at, phases
from amt_jax.training.loop import train
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.step import eval_step

OPTIONS = {"lengths": "8:0.5", "ema": 0.9}  # of 6 steps


@pytest.fixture(scope="module")
def straight(tmp_path_factory, make_config):
    """A run with short rows and an average that nothing disturbed."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "straight")
    train(make_config(OPTIONS), run)
    return run


@pytest.fixture
def watch_steps(monkeypatch):
    """A function: (step, action) -> the length of rows in every step; calls `action` when that step of a run begins."""

    def watch(step=0, action=None):
        lengths = []

        def watched(batch, length):
            lengths.append(length)
            if len(lengths) == step:
                action()
            return cut(batch, length)

        monkeypatch.setattr(loop, "cut", watched)
        return lengths

    return watch


def losses(run, split):
    found = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [line["loss"] for line in found if line["split"] == split]


def test_phases_share_the_steps_and_leave_the_rest_to_the_context():
    assert phases("", 64, 10) == [(64, 10)]
    assert phases("16:0.5,32:0.3", 64, 1000) == [(16, 500), (32, 800), (64, 1000)]
    found = phases("16:0.7,32:0.2,64:0.1", 64, 10)  # their sum is not quite 1 in floating point
    assert found == [(16, 7), (32, 9), (64, 10)]
    assert [length_at(found, step) for step in range(11)] == [16] * 7 + [32] * 2 + [64] * 2


@pytest.mark.parametrize(
    "wrong", ["16", "16:", "x:0.5", "16:0.5;32:0.5", "24:0.5", "0:0.5", "128:0.5", "16:-1", "16:nan", "16:0.6,32:0.6"]
)
def test_lengths_that_cannot_be_are_refused(make_config, wrong):
    with pytest.raises(UserError, match=r"config\.lengths is '.*'; it looks like 512:0\.5,1024:0\.3, each .* 64 with"):
        make_config({"context": 64, "lengths": wrong})


def test_a_length_that_the_mesh_does_not_divide_is_named(make_config, tmp_path):
    config = make_config({"lengths": "1:0.5", "mesh.sequence": 2})
    with pytest.raises(
        UserError, match=r"the mesh's sequence = 2 does not divide 1 of config\.lengths; a multiple of 2"
    ):
        train(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_cut_is_worth_what_its_windows_are_alone(dataset, make_config, told):
    config = transformer_config(make_config({"model.dropout": 0.0}), Card.load(dataset))
    records = Records(dataset, Card.load(dataset), "train")
    batch = next(iter(batches(Rows(records, TrainPlan(records.lengths, 32, 0), told(records.card)), 20)))
    rows = cut(batch, 8)
    for name in ("inputs", "targets", "weights", "segments"):
        np.testing.assert_array_equal(rows[name].reshape(batch[name].shape), batch[name])

    # Each piece of each cut, alone at the beginning of a row of its own.
    alone = jax.tree.map(np.zeros_like, rows)
    alone = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), alone)
    places = []  # (row and first token in the cuts, row in `alone`, tokens)
    for row, segments in enumerate(rows["segments"]):
        for segment in np.unique(segments[segments > 0]):
            here = np.flatnonzero(segments == segment)
            number, count = len(places), len(here)
            places.append((row, here[0], number, count))
            alone["inputs"][number, :count] = rows["inputs"][row, here]
            alone["segments"][number, :count] = 1
            alone["positions"][number, :count] = np.arange(count)
            composer = batch["conditions"]["composer"][row // 4, segment - 1]
            alone["conditions"]["composer"][number, 0] = composer
            np.testing.assert_array_equal(rows["positions"][row, here], np.arange(count))
    assert len(places) > np.sum(rows["segments"][:, 0] > 0)  # some cuts hold several pieces

    params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
    apply = jax.jit(lambda *inputs: nnx.merge(abstract_model(config).graph, params)(*inputs))
    found, expected = (
        apply(*(x[name] for name in ("inputs", "positions", "segments", "conditions"))) for x in (rows, alone)
    )
    for row, first, number, count in places:
        targets = rows["targets"][row, first : first + count]
        np.testing.assert_allclose(
            optax.softmax_cross_entropy_with_integer_labels(found[row, first : first + count], targets),
            optax.softmax_cross_entropy_with_integer_labels(expected[number, :count], targets),
            rtol=0, atol=2e-5,
        )  # fmt: skip


def test_resumed_within_and_between_phases_is_the_same_bit_for_bit(
    straight, tmp_path, make_config, watch_steps, final_state, capsys
):
    run, seen = RunFolder(tmp_path / "run"), []
    for steps in (2, 1, 2):  # within the first phase, at its end, within the last one
        part = watch_steps(steps, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(make_config(OPTIONS), run)
        seen += part
    part = watch_steps()
    train(make_config(OPTIONS), run)
    assert seen + part == [8] * 3 + [32] * 3
    out = capsys.readouterr().out
    assert "rows are cut: 8 tokens up to step 3, then 32 tokens up to step 6" in out
    a, b = final_state(run), final_state(straight)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
    assert losses(run, "train") == losses(straight, "train")


def test_other_devices_train_on_the_same_cuts(straight, tmp_path, make_config):
    run = RunFolder(tmp_path / "run")
    train(make_config(OPTIONS | {"mesh.data": 2, "mesh.sequence": 2}), run)
    np.testing.assert_allclose(losses(run, "train"), losses(straight, "train"), rtol=1e-4)


def test_the_average_is_what_is_validated_and_loaded(straight, dataset, final_state, told):
    state = final_state(straight)
    config, loaded = straight.load_model("last")
    for name, x, y, z in zip(
        jax.tree_util.tree_leaves_with_path(state.params),
        *map(jax.tree.leaves, (loaded, state.average, state.params)), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(x, y, err_msg=str(name))
        assert np.any(x != z), name
    card = Card.load(dataset)
    records, total = Records(dataset, card, "valid"), np.zeros(2)
    model = abstract_model(config)
    step = jax.jit(functools.partial(eval_step, graph=model.graph, type_ids=card.spec.type_ids(), num_types=7))
    for batch in batches(Rows(records, EvalPlan(records.lengths, 32, 32), told(records.card)), 4):
        sums = step(loaded, batch)
        total += float(sums["loss"]), float(sums["count"])
    np.testing.assert_allclose(losses(straight, "valid")[-1], total[0] / total[1], rtol=1e-5)


def test_an_average_cannot_begin_or_end_within_a_run(straight, make_config):
    with pytest.raises(UserError, match=r"begun with config\.ema=0\.9; .* --run=NEW --config\.init="):
        train(make_config(OPTIONS | {"ema": 0.0}), straight, allow_config_change=True)
