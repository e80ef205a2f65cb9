"""Sweeps as a person runs them: real trainings of a few steps, killed and interrupted."""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from amt_jax.data.card import Card
from amt_jax.errors import UserError, run_command
from amt_jax.train import load_config, override
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.run_folder import RunFolder
from launch.sweep import main, settings_of, shares
from launch.trials import Sweep

FIELDS = {
    "context": 32,
    "batch_size": 4,
    "steps": 60,
    "validate_every": 12,
    "save_every": 20,
    "log_every": 1,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.num_kv_heads": 1,
    "model.d_model": 32,
    "model.d_ff": 32,
}
SEARCH = ("--search=optimizer.learning_rate=log:1e-4:90", "--search=model.d_model=choice:32,33")
GOOD = {"optimizer.learning_rate": 1e-3, "model.d_model": 32}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, write_dataset, make_pieces):
    folder = tmp_path_factory.mktemp("data") / "set"
    write_dataset(folder, make_pieces(np.random.default_rng(1).integers(3, 90, 20)))
    return folder


@pytest.fixture(scope="module")
def words(dataset):
    """The flags that begin a sweep."""
    fields = {"dataset": dataset} | FIELDS
    return ["--config=demo", *[f"--config.{name}={value}" for name, value in fields.items()], *SEARCH]


@pytest.fixture(scope="module", autouse=True)
def environment():
    """One device a training."""
    jax.devices()  # so that this process has read its own flags, for the tests after these
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
        yield


def begin(folder, words):
    """A sweep whose trials are to come."""
    search = [word.removeprefix("--search=") for word in words if word.startswith("--search=")]
    overrides = [word for word in words if word.startswith("--config.")]
    sweep = Sweep(folder)
    sweep.begin(settings_of(argparse.Namespace(config="demo", search=search, trials=3), overrides, None))
    return sweep


@pytest.fixture
def start():
    """A function: sweep folder, flags -> the sweep's process; none is left running, whatever fails."""
    started = []

    def run(folder, *flags, stderr=subprocess.PIPE):
        command = [sys.executable, "-W", "error", "-m", "launch.sweep", f"--output={folder}", *flags]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True))
        return started[-1]

    yield run
    for process in started:
        process.terminate()  # ends its trainings too
        process.communicate(timeout=60)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(happened, process):
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_sweep_from_its_beginning_to_its_table(start, tmp_path, words, capsys):
    folder = tmp_path / "sweep"
    # What the sampler would draw is left to Optuna's own tests; here three trials that end in three ways.
    sweep = begin(folder, words)
    sweep.study.enqueue_trial(GOOD | {"model.d_model": 33})
    sweep.study.enqueue_trial(GOOD | {"optimizer.learning_rate": 90.0})
    # Two workers on one folder: no trial is trained twice, and there are not more than asked for.
    workers = [start(folder, *words, "--trials=3"), start(folder, "--trials=3")]
    for code, _, err in map(finish, workers):
        assert code == 0, err
    first, failed, diverged = sweep.trials()
    assert first.params == {"optimizer.learning_rate": 4e-3, "model.d_model": 32}  # the config as it is
    assert [trial.state for trial in sweep.trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED]
    assert "d_model 33 does not split" in failed.user_attrs["reason"]
    assert diverged.user_attrs["reason"].startswith("the loss ")
    written = [json.loads(line) for line in (sweep.run(0) / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in written if line["split"] == "valid"}
    assert first.intermediate_values == losses
    assert list(losses) == [12, 24, 36, 48, 60]
    assert first.value == min(losses.values())

    # A trial that is worse than the others were at the same step ends early, saved.
    for _ in range(5):
        sweep.study.add_trial(
            optuna.trial.create_trial(
                value=first.value + 0.5,
                params=GOOD,
                distributions=sweep.settings.space,
                intermediate_values=dict.fromkeys(losses, 0.001),
                user_attrs={"steps": 60},
            )
        )
    sweep.study.enqueue_trial(GOOD)
    code, out, err = finish(start(folder, "--trials=9", "--config.save_every=1"))
    assert code == 0, err
    pruned = sweep.trials()[8]
    assert pruned.state == TrialState.PRUNED
    assert 0 < max(pruned.intermediate_values) < 60
    assert Checkpoints(RunFolder(sweep.run(8)).checkpoints_path).latest

    # What it says and leaves.
    assert "9 of 9 trials: 6 complete, 2 pruned, 1 failed, best" in out
    assert re.search(rf"\n +0 +{first.value:.4f} +60 +0\.004 +32 +{re.escape(str(sweep.run(0)))}\n", out)
    assert "trial 1 failed: config.model: d_model 33" in out
    for name in ("history", "fields", "curves"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "sweep.json").read_text())
    assert [trial["state"] for trial in found["trials"][:3]] == ["complete", "failed", "pruned"]
    assert found["trials"][0]["loss"] == first.value
    command = shlex.split(re.search("ten times as long: python -m amt_jax.train (.*) --run=RUN", out)[1])
    longer = override(load_config(command[0].removeprefix("--config=")), command[1:])
    assert longer == override(sweep.settings.fields, ["--config.steps=600"])
    main([f"--output={folder}", "--show"])
    assert capsys.readouterr().out in out


def kill(training):
    with contextlib.suppress(ProcessLookupError):
        os.kill(training, signal.SIGKILL)


def test_interrupted_and_killed_it_goes_on_with_the_same_trial(start, tmp_path, words, request):
    folder = tmp_path / "sweep"
    words = [*words, "--config.save_every=2", "--trials=1"]
    metrics = folder / "trial-0000" / "metrics.jsonl"

    process = start(folder, *words)
    wait_for(lambda: metrics.exists() and metrics.read_text(), process)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 0, err
    assert "the trainings save and stop" in out
    assert f"stopped; go on with: python -m launch.sweep --output={folder}" in out
    sweep = Sweep(folder)
    assert [trial.state for trial in sweep.trials()] == [TrialState.RUNNING]
    reached = Checkpoints(RunFolder(sweep.run(0)).checkpoints_path).latest
    assert reached

    # Its worker killed, a training lives on, and as long as it does nobody else trains in its folder.
    process = start(folder)
    wait_for(lambda: f'"step": {reached + 3},' in metrics.read_text(), process)
    (training,) = map(int, subprocess.check_output(["pgrep", "-P", str(process.pid)]).split())
    request.addfinalizer(lambda: kill(training))
    os.kill(training, signal.SIGSTOP)
    process.kill()
    finish(process)
    progress = tmp_path / "progress"
    with open(progress, "w") as file:
        process = start(folder, stderr=file)
    wait_for(lambda: "waiting for others" in progress.read_text(), process)
    assert sweep.log(0).read_text().count("resuming") == 1
    kill(training)
    assert finish(process)[0] == 0, progress.read_text()
    assert sweep.log(0).read_text().count("resuming") == 2
    assert [trial.state for trial in sweep.trials()] == [TrialState.COMPLETE]
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 61))
    assert set(sweep.trials()[0].intermediate_values) == set(range(12, 61, 12))


def test_a_journal_that_a_full_disk_cut_off_is_read_on(tmp_path):
    folder = tmp_path / "sweep"
    Sweep(folder).study.enqueue_trial(GOOD)
    with open(folder / "study.jsonl", "ab") as file:
        file.write(b'{"op_code":4,"worker')
    Sweep(folder).study.enqueue_trial(GOOD)
    assert len(Sweep(folder).study.trials) == 2


def test_what_a_person_gets_wrong_is_one_line_and_code_2(tmp_path, words, write_dataset, make_pieces, capsys):
    """In one process, through the same entry that the command uses."""
    begun, other, new = tmp_path / "begun", tmp_path / "other", tmp_path / "new"
    begin(begun, words[:-1])
    other.mkdir()
    (other / "file").touch()
    bare = tmp_path / "bare"
    write_dataset(bare, make_pieces([40]))
    card = Card.load(bare)
    dataclasses.replace(card, splits={"train": card.splits["train"]}).save(bare)

    cases = {
        "there is no sweep in": [new],
        "there is no sweep in ": [new, "--show"],
        "is not empty and no sweep": [other, *words],
        "search which fields?": [new, *words[:-2]],
        "which dataset?": [new, "--config=demo", *SEARCH],
        "(did you mean '--trials'": [new, "--trial=3"],
        "--trials is 0; it must be at least 1": [new, *words, "--trials=0"],
        "(did you mean '--config.steps'": [new, *words, "--config.step=3"],
        "(did you mean 'model.dropout'": [new, *words, "--search=model.drop=0:1"],
        "no records in split 'valid'": [new, *words, f"--config.dataset={bare}"],
        "not a dataset folder": [new, *words, f"--config.dataset={tmp_path}"],
        "config.steps: 60 -> 13": [begun, "--config.steps=13"],
        "has another search (--search: optimizer": [begun, *words],
    }
    for expected, (folder, *flags) in cases.items():
        with pytest.raises(SystemExit) as error:
            run_command(functools.partial(main, [f"--output={folder}", *flags]))
        out, err = capsys.readouterr()
        assert error.value.code == 2, expected
        assert out == ""
        assert err.count("\n") == 1, err
        assert expected in err
    assert not new.exists()


def test_folders_are_found_from_anywhere_and_in_a_bucket(tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = argparse.Namespace(config="demo", search=["model.dropout=0:0.3"], trials=None)
    loaded = []
    monkeypatch.setattr(Card, "load", lambda folder: loaded.append(folder) or mock.MagicMock())
    settings = settings_of(args, ["--config.dataset=gs://bucket/set", "--config.init=run"], None)
    assert loaded == [settings.fields["dataset"]] == ["gs://bucket/set"]
    assert f"--config.init={tmp_path / 'run'}" in settings.overrides
    with pytest.raises(UserError, match="this is written on this machine"):
        main(["--output=gs://bucket/sweep", *words])


def test_workers_divide_the_gpus(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,4,5,7")
    assert shares(1) == [{"CUDA_VISIBLE_DEVICES": "0,2,4,5,7"}]
    assert shares(2) == [{"CUDA_VISIBLE_DEVICES": "0,2"}, {"CUDA_VISIBLE_DEVICES": "4,5,7"}]
    with pytest.raises(UserError, match="has 5 GPUs"):
        shares(6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shares(2) == [{}, {}]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert shares(2) == [{}, {}]
