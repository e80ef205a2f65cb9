import dataclasses
import gc
import json
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amt_jax.data.card import Card
from amt_jax.errors import UserError
from amt_jax.model.params import fingerprint
from amt_jax.training import loop, program
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.config import TrainConfig, transformer_config
from amt_jax.training.loop import train
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.step import Validated
from amt_jax.training.transfer import transfer
from data_prep.words.encoding import encode
from tests.captioned import caption, write_captioned


@pytest.fixture(scope="module")
def straight(tmp_path_factory, make_config):
    """A run of 6 steps that nothing disturbed."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "straight")
    train(make_config(), run)
    return run


def lines(run, split):
    found = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def stop_after(monkeypatch, step, action):
    """Calls `action` when step `step` is dispatched."""
    put_batch, count = loop.put_batch, 0

    def counting(batch, mesh, batch_size):
        nonlocal count
        if batch_size == 8:  # not a validation batch
            count += 1
            if count == step:
                action()
        return put_batch(batch, mesh, batch_size)

    monkeypatch.setattr(loop, "put_batch", counting)


def equal_checkpoints(one, other, final_state):
    a, b = final_state(one), final_state(other)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_a_run_folder_holds_what_is_documented(straight, dataset, make_config):
    names = {path.name for path in straight.path.iterdir()}
    assert names == {"config.json", "dataset.json", "tokenizer.json", "checkpoints", "metrics.jsonl", "tensorboard"}
    assert straight.config == make_config()
    assert straight.card == Card.load(dataset)
    assert [line["step"] for line in lines(straight, "train")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(straight, "valid")] == [3, 6]
    line = lines(straight, "train")[-1]
    assert {
        "loss",
        "smoothed_loss",
        "accuracy",
        "grad_norm",
        "learning_rate",
        "epoch",
        "tokens_per_second",
    } <= line.keys()
    assert {"Pitch", "Velocity", "EOS"} <= line["type_loss"].keys()
    assert line["learning_rate"] < lines(straight, "train")[1]["learning_rate"]
    assert lines(straight, "valid")[1]["loss"] < lines(straight, "valid")[0]["loss"]
    assert not (straight.checkpoints_path / "6" / "average").exists()  # none is asked for
    checkpoints = Checkpoints(straight.checkpoints_path)
    assert sorted(checkpoints.steps)[-3:] == [3, 4, 6]
    assert checkpoints.validated == {line["step"]: Validated(line["loss"]) for line in lines(straight, "valid")}
    assert (checkpoints.latest, checkpoints.best) == (6, 6)
    checkpoints.close()


def test_a_hundred_steps_are_compiled_once(tmp_path, make_config, compiled):
    run = RunFolder(tmp_path / "run")
    train(make_config({"steps": 100, "validate_every": 50, "save_every": 50, "log_every": 10}), run)
    assert lines(run, "train")[-1]["step"] == 100
    assert compiled.count("jit(step_and_listen)") == 1
    assert compiled.count("jit(evaluate_and_listen)") == 1


def test_load_model_finds_best_last_and_steps(straight, dataset):
    config, params = straight.load_model("best")
    assert config == transformer_config(straight.config, Card.load(dataset))
    assert fingerprint(params) == fingerprint(straight.load_model("last")[1]) == fingerprint(straight.load_model(6)[1])
    assert fingerprint(params) != fingerprint(straight.load_model(4)[1])
    assert fingerprint(params) != fingerprint(jax.tree.map(lambda x: x + 1e-6, params))
    with pytest.raises(UserError, match=r"no checkpoint 5; it has best, last, 3, 4, 6"):
        straight.load_model(5)


# Other reads of the same checkpoint still answer to orbax's event loop, which the first error closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_said(straight, tmp_path):
    shutil.copytree(straight.path, tmp_path / "copy")
    for path in (tmp_path / "copy" / "checkpoints" / "6" / "params").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot read checkpoint 6 .* remove its folder to use another"):
        RunFolder(tmp_path / "copy").load_model("last")
    RunFolder(tmp_path / "copy").load_model(4)
    gc.collect()  # so that what is left of those reads is complained of here


def test_a_profile_changes_nothing_but_tells(straight, tmp_path, make_config, final_state, capsys):
    run = RunFolder(tmp_path / "run")
    train(make_config({"validate_every": 6}), run, profiled=True)  # a validation ends a trace
    equal_checkpoints(run, straight, final_state)
    assert {path.name for path in run.path.iterdir()} == {path.name for path in straight.path.iterdir()} | {"profile"}
    assert any(run.profile_path.glob("**/*.trace.json.gz"))
    said = capsys.readouterr().out
    assert re.search(r"\w+ (attention|layers|moments|optimizer|step|transformer)\.py:\d+", said)
    assert "a step over 4, devices idle" in said  # the first two of six are not traced

    train(make_config({"steps": 2}), RunFolder(tmp_path / "short"), profiled=True)
    assert "nothing was traced" in capsys.readouterr().out


def test_resumed_equals_straight_bit_for_bit(straight, tmp_path, make_config, monkeypatch, final_state, capsys):
    run = RunFolder(tmp_path / "run")
    stop_after(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train(make_config(), run)
    assert (
        f"stopped after step 4 of 6, saved; go on with: python -m amt_jax.train --run={run.path}"
        in capsys.readouterr().out
    )
    with open(run.metrics_path, "a") as file:  # as a run killed later would leave it
        file.write('{"step": 5, "split": "train"}\n{"step": 5, "spl')
    train(make_config(), run)
    out = capsys.readouterr().out
    assert "from step 4 to 6" in out
    assert "conditions: composer (add); not in the dataset: density, genre, " in out
    equal_checkpoints(run, straight, final_state)
    assert [line["step"] for line in lines(run, "train")] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(lines(run, "train"), lines(straight, "train"), strict=True):
        assert a["loss"] == b["loss"]
    # A finished run has nothing left to do.
    train(make_config(), run)
    assert "trained 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("step", [3, 6])
def test_a_stop_in_the_middle_of_validation_is_made_up_for(
    straight, tmp_path, make_config, monkeypatch, final_state, capsys, step
):
    run, put_batch, after = RunFolder(tmp_path / "run"), loop.put_batch, []

    def counting(batch, mesh, batch_size):
        if len(after) >= step or batch_size == 8:  # a training batch, or one of the validation after `step`
            after.append(batch_size)
        if len(after) == step + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return put_batch(batch, mesh, batch_size)

    monkeypatch.setattr(loop, "put_batch", counting)
    assert not train(make_config(), run)
    assert after[step:] == [4] * 3  # the batch that carried the wish is read when the next one is on its way
    assert f"stopped after step {step} of 6, saved" in capsys.readouterr().out
    monkeypatch.undo()
    assert train(make_config(), run)
    equal_checkpoints(run, straight, final_state)
    assert [(x["step"], x["loss"]) for x in lines(run, "valid")] == [
        (x["step"], x["loss"]) for x in lines(straight, "valid")
    ]
    runs = [Checkpoints(each.checkpoints_path) for each in (run, straight)]
    assert runs[0].validated == runs[1].validated
    for each in runs:
        each.close()


def test_resumes_on_other_devices(straight, tmp_path, make_config, monkeypatch, final_state):
    run = RunFolder(tmp_path / "run")
    stop_after(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    train(make_config(), run)
    train(make_config({"mesh.data": 2, "mesh.fsdp": 2}), run)
    a, b = final_state(run).params, final_state(straight).params
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        # AdamW enlarges the rounding of near-zero gradients, hence a norm and not an element.
        assert np.linalg.norm(x - y) < 1e-3 * np.linalg.norm(y) + 1e-3


def test_a_changed_config_is_refused_with_its_differences(straight, make_config, tmp_path, dataset, write_dataset):
    changed = make_config({"seed": 3, "optimizer.learning_rate": 1.0, "log_every": 5, "keep": 2})
    with pytest.raises(UserError) as error:
        train(changed, straight)
    before = straight.config.optimizer.learning_rate
    assert f"config.optimizer.learning_rate: {before} -> 1.0; config.seed: 0 -> 3" in str(error.value)
    assert "log_every" not in str(error.value)
    write_dataset(tmp_path / "other", [np.arange(3, 60)] * 4)
    with pytest.raises(UserError, match="content of the train split: "):
        train(make_config({"dataset": str(tmp_path / "other")}), straight)
    train(make_config({"seed": 3}), straight, allow_config_change=True)
    assert RunFolder(straight.path).config.seed == 3
    straight.write_config(make_config())  # for the other tests


def test_a_loss_that_is_not_a_number_stops_and_is_not_saved(tmp_path, make_config, monkeypatch):
    run = RunFolder(tmp_path / "run")
    step = program.train_step

    def poisoned(state, batch, **static):
        state, sums = step(state, batch, **static)
        bad = jnp.where(state.step == 4, jnp.nan, 0.0)
        return state._replace(params=jax.tree.map(lambda x: x + bad, state.params)), sums | {"loss": sums["loss"] + bad}

    monkeypatch.setattr(program, "train_step", poisoned)
    with pytest.raises(UserError, match=r"loss became nan .* at step 4; the last good checkpoint is that of step 3"):
        train(make_config({"save_every": 1}), run)
    assert max(Checkpoints(run.checkpoints_path).steps) == 3
    _, params = run.load_model("last")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_an_exploding_loss_is_found():
    watch = loop.Watch(guessing=6.0)
    assert [watch.problem(loss, 1.0) for loss in (8.0, 2.0, 20.0)] == ["", "", ""]
    assert "exploded to 25" in watch.problem(25.0, 1.0)
    assert "nan" in watch.problem(float("nan"), 1.0)
    assert "inf" in watch.problem(3.0, float("inf"))


def test_init_copies_weights_and_matches_conditions_by_name(
    straight, tmp_path, make_config, write_dataset, monkeypatch
):
    # OTHER moved from id 2 to 3, "A" from 1 to 2, "New" is new.
    card = write_dataset(tmp_path / "mine", [np.arange(3, 60)] * 4, values=("New", "A", "OTHER"))
    config = make_config({"dataset": str(tmp_path / "mine"), "init": str(straight.path), "model.dropout": 0.0})
    params = straight.load_model()[1]
    fresh = jax.tree.map(np.zeros_like, params)
    fresh["conditioning"]["tables"]["composer"] = np.full((4, 32), 7.0, np.float32)
    found = transfer(straight, config, card, fresh)
    old, new = (tree["conditioning"]["tables"]["composer"] for tree in (params, found))
    np.testing.assert_array_equal(new, np.stack([old[0], np.full(32, 7.0), old[1], old[2]]))
    np.testing.assert_array_equal(found["embedding"], params["embedding"])

    run = RunFolder(tmp_path / "run")
    train(dataclasses.replace(config, steps=1), run)
    state = json.loads(run.metrics_path.read_text().splitlines()[0])
    assert state["loss"] < lines(straight, "train")[0]["loss"]

    # From or to a dataset without composers, such as a flat folder of one's own files.
    flat = write_dataset(tmp_path / "flat", [np.arange(3, 60)] * 4, values=())
    flat = dataclasses.replace(flat, conditions={})
    bare = {name: value for name, value in fresh.items() if name != "conditioning"}
    assert "conditioning" not in transfer(straight, config, flat, bare)
    without = RunFolder(tmp_path / "without")
    flat.save(tmp_path / "flat")
    train(dataclasses.replace(config, dataset=str(tmp_path / "flat"), steps=1), without)
    found = transfer(without, config, card, fresh)
    np.testing.assert_array_equal(found["conditioning"]["tables"]["composer"], np.full((4, 32), 7.0))

    with pytest.raises(UserError, match=r"another network \(config.model.d_ff: 48 -> 64\)"):
        transfer(straight, make_config({"model.d_ff": 64}), card, fresh)
    other = dataclasses.replace(card, spec=dataclasses.replace(card.spec, eos=3))
    with pytest.raises(UserError, match="prepare the dataset with that run's tokenizer"):
        transfer(straight, config, other, fresh)


def test_what_is_missing_is_said(tmp_path, straight, make_config, dataset):
    with pytest.raises(UserError, match="no run in"):
        RunFolder(tmp_path / "none").load_model()
    run = RunFolder(tmp_path / "new")
    run.create(make_config(), Card.load(dataset))
    with pytest.raises(UserError, match="no checkpoint yet"):
        run.load_model()
    (run.path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json; copy it"):
        _ = run.tokenizer
    (run.path / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"has no dataset\.json; copy it"):
        _ = RunFolder(run.path).card
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(config | {"version": 99}))
    with pytest.raises(UserError, match="version 99"):
        _ = RunFolder(run.path).config
    (run.path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        _ = RunFolder(run.path).config
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday.txt").write_text("dear diary")
    with pytest.raises(UserError, match="no run folder"):
        train(make_config(), RunFolder(tmp_path / "diary"))


@pytest.mark.parametrize(("before", "now"), [(True, "full"), (False, "none")])
def test_the_oldest_run_that_can_be_read(tmp_path, make_config, dataset, before, now):
    run = RunFolder(tmp_path)
    run.create(make_config(), Card.load(dataset))
    data = json.loads((run.path / "config.json").read_text())
    data["config"]["model"]["remat"] = before
    for part, field in (
        ("optimizer", "name"),
        ("model", "clock"),
        ("model", "history"),
        ("augmentation", "transposed"),
    ):
        del data["config"][part][field]
    del data["config"]["calibrate"]
    (run.path / "config.json").write_text(json.dumps(data | {"version": 3}))
    assert run.config == make_config({"model.remat": now})


@pytest.mark.parametrize(("before", "now"), [(0, ()), (3, (1, 2, 3))])
def test_a_run_whose_history_is_a_number_can_be_read(tmp_path, make_config, dataset, before, now):
    run = RunFolder(tmp_path)
    run.create(make_config(), Card.load(dataset))
    data = json.loads((run.path / "config.json").read_text())
    data["config"]["model"] |= {"history": before, "relative": 0}
    del data["config"]["calibrate"]
    (run.path / "config.json").write_text(json.dumps(data | {"version": 5}))
    assert run.config == make_config({"model.history": now})


def test_a_calibrated_run_is_used_at_the_temperature_that_suits_best(tmp_path, make_config):
    run = RunFolder(tmp_path / "run")
    train(make_config({"calibrate": True, "optimizer.learning_rate": 0.05}), run)  # too much, it is too sure of itself
    checkpoints = Checkpoints(run.checkpoints_path)
    found = {line["step"]: Validated(line["loss"], line["temperature"]) for line in lines(run, "valid")}
    assert checkpoints.validated == found
    temperature = found[checkpoints.best].temperature
    assert temperature > 1
    params = run.load_model("best")[1]
    raw = checkpoints.load_params(checkpoints.best, params, averaged=False)
    np.testing.assert_allclose(params["norm"]["scale"], raw["norm"]["scale"] / temperature, rtol=1e-6)
    checkpoints.close()
    with pytest.raises(UserError, match=r"was begun with config\.calibrate=True"):
        train(make_config(), run, allow_config_change=True)


def test_a_misspelt_or_impossible_config_is_refused(make_config):
    fields = make_config().to_json()
    with pytest.raises(
        UserError, match=r"unknown field config.optimizer.'lerning_rate' \(did you mean 'learning_rate'"
    ):
        TrainConfig.from_json(fields | {"optimizer": fields["optimizer"] | {"lerning_rate": 1.0}})
    with pytest.raises(UserError, match=r"config.seed is '1'; it must be of type int"):
        TrainConfig.from_json(fields | {"seed": "1"})
    with pytest.raises(UserError, match=r"config.model is 3; it must hold fields"):
        TrainConfig.from_json(fields | {"model": 3})
    with pytest.raises(UserError, match=r"config.seed is missing"):
        TrainConfig.from_json({name: value for name, value in fields.items() if name != "seed"})
    with pytest.raises(UserError, match=r"config.steps or config.epochs"):
        make_config({"epochs": 1.0})
    with pytest.raises(UserError, match=r"config\.label_smoothing is 1\.5"):
        make_config({"label_smoothing": 1.5})
    with pytest.raises(UserError, match=r"config\.model\.dropout is 1\.5; it must be at least 0"):
        make_config({"model.dropout": 1.5})
    with pytest.raises(UserError, match=r"config\.optimizer\.warmup is 5"):
        make_config({"optimizer.warmup": 5.0})
    with pytest.raises(UserError, match=r"config\.model: d_model 32 does not split into 3 heads"):
        transformer_config(make_config({"model.num_heads": 3}), Card.load(make_config().dataset))


def test_a_folder_in_which_a_training_is_at_work_is_refused(make_config, tmp_path):
    run = RunFolder(tmp_path)
    with run.locked(), pytest.raises(UserError, match="another training is at work"):
        train(make_config(), RunFolder(tmp_path))


def test_a_mesh_that_does_not_fit_is_refused_and_leaves_nothing(make_config, tmp_path):
    with pytest.raises(UserError, match=r"data x fsdp = 8 does not divide config\.batch_size 4"):
        train(make_config({"mesh.data": 8}), RunFolder(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_run_led_by_semantic_tokens_wants_clusters_and_one_without_captions_says_so(tmp_path, make_config, capsys):
    dataset = tmp_path / "captioned"
    write_captioned(dataset, {"train": [[caption("sad jazz")], [caption("happy folk")]], "valid": []})
    encode(dataset, encoder="tfidf")
    semantic = {"semantic": {"way": "prefix", "scale": 1.0, "dropout": 0.0}}
    with pytest.raises(UserError, match=f"data_prep.cluster --dataset={dataset}"):
        train(make_config({"dataset": str(dataset), "conditions": semantic}), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    train(make_config({"steps": 1, "conditions": semantic}), RunFolder(tmp_path / "other"))
    assert "words will not be heard" in capsys.readouterr().out
