"""One run in several real processes: killed, and gone on with by other numbers of processes and devices."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from amt_jax.data.card import Card
from amt_jax.parallel.peers import AGAIN
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.run_folder import RunFolder

STEPS = 40
CONFIG = {
    "batch_size": 8, "accumulation": 2, "steps": STEPS, "save_every": 4, "validate_every": 10, "keep": 100,
    "model.num_heads": 8, "model.num_kv_heads": 4, "augmentation.transpose": 2, "lengths": "16:0.4", "ema": 0.9,
}  # fmt: skip


class Processes:
    """A training of one process a command, `devices` virtual devices each; all are killed at the end."""

    def __init__(self, commands, devices):
        count = len(commands)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)} if count > 1 else {}
        self.all = [
            subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=environment | cluster | ({"JAX_PROCESS_ID": str(number)} if cluster else {}),
            )
            for number, words in enumerate(commands)
        ]  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.communicate()

    def end(self, timeout=120):
        """Waits for all -> their exit codes, and what all of them said."""
        said = [process.communicate(timeout=timeout) for process in self.all]
        return [process.returncode for process in self.all], "\n".join(out + err for out, err in said)


@pytest.fixture(scope="module")
def command(dataset, tiny):
    """A function: run folder, devices -> the command that trains it."""
    fields = {"dataset": dataset} | tiny | CONFIG

    def make(run, devices, *words):
        flags = [f"--config.{name}={value}" for name, value in (fields | {"mesh.data": devices}).items()]
        return [sys.executable, "-m", "amt_jax.train", f"--run={run.path}", "--config=demo", *flags, *words]

    return make


@pytest.fixture(scope="module")
def straight(tmp_path_factory, command):
    """A run that nothing disturbed, on one device."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "straight")
    with Processes([command(run, 1)], 1) as processes:
        codes, said = processes.end()
    assert codes == [0], said
    return run


def losses(run, split):
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["split"] == split]


def wait_for_step(processes, run, step):
    deadline = time.monotonic() + 120
    while not run.metrics_path.exists() or f'"step": {step},' not in run.metrics_path.read_text():
        assert time.monotonic() < deadline
        if any(process.poll() is not None for process in processes.all):
            raise AssertionError(f"never reached step {step}: {processes.end()}")
        time.sleep(0.01)


def latest(run):
    return Checkpoints(run.checkpoints_path).latest


def test_goes_on_whatever_is_killed_and_on_whatever_is_left(straight, tmp_path, command):
    run = RunFolder(tmp_path / "run")
    with Processes([command(run, 8)] * 2, 4) as processes:
        wait_for_step(processes, run, 6)
        processes.all[1].kill()
        begin = time.monotonic()
        codes, said = processes.end(60)
        assert codes == [AGAIN, -signal.SIGKILL], said
        assert time.monotonic() - begin < 60
        assert "error: lost contact with process 1" in said
    assert latest(run) >= 4

    with Processes([command(run, 8)] * 2, 4) as processes:
        wait_for_step(processes, run, 13)
        for process in processes.all:
            process.kill()
        processes.end()
    before = latest(run)
    assert before >= 8

    for count, devices, step in ((1, 8, 20), (2, 2, 25), (1, 2, 30)):
        with Processes([command(run, count * devices)] * count, devices) as processes:
            wait_for_step(processes, run, max(step, before + 2))  # the run before may have come beyond `step`
            processes.all[-1].send_signal(signal.SIGTERM)  # one is told to end, all save
            codes, said = processes.end()
            assert codes == [AGAIN] * count, said
            assert f"from step {before} to {STEPS}" in said
            before = latest(run)
            assert f"stopped after step {before} of {STEPS}, saved" in said
            assert before >= step
    with Processes([command(run, 1)], 1) as processes:
        codes, said = processes.end()
        assert codes == [0], said

    for split in ("train", "valid"):
        found, expected = losses(run, split), losses(straight, split)
        assert [step for step, _ in found] == [step for step, _ in expected]
        np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=1e-4)


def test_two_processes_resume_bit_for_bit(tmp_path, command, final_state):
    straight, run = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "run")
    words = ["--config.mesh.data=4", "--config.mesh.fsdp=2"]
    with Processes([command(straight, 8, *words)] * 2, 4) as processes:
        codes, said = processes.end()
        assert codes == [0, 0], said
    with Processes([command(run, 8, *words)] * 2, 4) as processes:
        wait_for_step(processes, run, 9)
        for process in processes.all:
            process.kill()
        processes.end()
    with Processes([command(run, 8, *words)] * 2, 4) as processes:
        codes, said = processes.end()
        assert codes == [0, 0], said
    a, b = final_state(run), final_state(straight)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_sigterm_is_heard_though_every_step_is_validated(tmp_path, command):
    run = RunFolder(tmp_path / "run")
    with Processes([command(run, 2, "--config.validate_every=1")] * 2, 1) as processes:
        wait_for_step(processes, run, 3)
        processes.all[1].send_signal(signal.SIGTERM)
        codes, said = processes.end()
    assert codes == [AGAIN] * 2, said
    assert f"stopped after step {latest(run)} of {STEPS}, saved" in said


def test_a_shard_that_one_host_lacks_stops_all(tmp_path, command, dataset):
    shutil.copytree(dataset, tmp_path / "other")
    shard = next((tmp_path / "other").glob("train-*.array_record"))
    shard.unlink()
    run = RunFolder(tmp_path / "run")
    commands = [command(run, 2, f"--config.dataset={folder}") for folder in (dataset, tmp_path / "other")]
    with Processes(commands, 1) as processes:
        codes, said = processes.end(60)
    assert codes == [2, 2], said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert all(line.startswith(f"error: process 1: shard {shard} is missing") for line in errors), errors
    assert not run.exists()


def test_processes_that_were_told_different_things_stop(tmp_path, command, dataset):
    shutil.copytree(dataset, tmp_path / "other")
    card = Card.load(dataset)
    dataclasses.replace(card, splits={name: card.splits[name] for name in ("train",)}).save(tmp_path / "other")
    run = RunFolder(tmp_path / "run")
    for word, what in (("--config.seed=1", "config"), (f"--config.dataset={tmp_path / 'other'}", "dataset")):
        with Processes([command(run, 2), command(run, 2, word)], 1) as processes:
            codes, said = processes.end(60)
        assert codes == [2, 2], said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 2
        assert all(line.startswith(f"error: process 1 has another {what} than process 0") for line in errors), errors
        assert not run.exists()
