"""Training as a person runs it: real processes, killed and interrupted."""

import functools
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from amt_jax.errors import run_command
from amt_jax.parallel.peers import AGAIN
from amt_jax.train import main
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.run_folder import RunFolder

STEPS = 40


@pytest.fixture(scope="module")
def command(dataset, tiny):
    """A function: run folder, more words -> the command that trains it."""
    overrides = {"dataset": dataset} | tiny | {"steps": STEPS, "save_every": 5, "validate_every": 20}

    def make(run, *words):
        flags = [f"--config.{name}={value}" for name, value in overrides.items()]
        return [sys.executable, "-W", "error", "-m", "amt_jax.train", f"--run={run}", "--config=demo", *flags, *words]

    return make


def start(words):
    # One device, so that a resumed run does what the run before did on it.
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_step(process, run, step):
    """Returns when `run` has written metrics of `step`."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if run.metrics_path.exists() and f'"step": {step},' in run.metrics_path.read_text():
            return
        time.sleep(0.002)
    raise AssertionError(f"never reached step {step}: {finish(process)}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, command):
    run = RunFolder(tmp_path_factory.mktemp("runs") / "straight")
    code, _, err = finish(start(command(run.path)))
    assert code == 0, err
    return run


def assert_same_state(run, straight, final_state):
    a, b = final_state(run), final_state(straight)
    assert int(a.step) == int(b.step) == STEPS
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_killed_at_random_steps_and_resumed_is_the_same_bit_for_bit(straight, tmp_path, command, final_state):
    run = RunFolder(tmp_path / "run")
    draw = random.Random(os.urandom(8))
    reached = [draw.randrange(6, 15), draw.randrange(20, 30)]
    for step in reached:
        process = start(command(run.path))
        wait_for_step(process, run, step)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        # A save every 5 steps, of which the newest may have been on its way.
        assert (Checkpoints(run.checkpoints_path).latest or 0) >= step - 11, reached
    code, out, err = finish(start(command(run.path)))
    assert code == 0, err
    assert "resuming" in out
    assert_same_state(run, straight, final_state)
    steps = [line.split(",")[0] for line in run.metrics_path.read_text().splitlines() if '"train"' in line]
    assert steps == [f'{{"step": {step}' for step in range(1, STEPS + 1)]


def test_killed_while_saving_loses_nothing_but_that_checkpoint(straight, tmp_path, command, final_state):
    run = RunFolder(tmp_path / "run")
    process = start(command(run.path, "--config.save_every=1"))
    temporary = None
    deadline = time.monotonic() + 120
    while not temporary and time.monotonic() < deadline and process.poll() is None:
        # A checkpoint that is being written bears a temporary name; wait until one whole checkpoint is there too.
        names = os.listdir(run.checkpoints_path) if run.checkpoints_path.exists() else []
        temporary = [name for name in names if not name.isdigit()] if any(name.isdigit() for name in names) else None
    process.kill()
    finish(process)
    assert temporary
    latest = Checkpoints(run.checkpoints_path).latest
    assert latest >= 1
    # Another interval of saving is no other run, so the same folder goes on and ends as the straight run.
    code, out, err = finish(start(command(run.path)))
    assert code == 0, err
    assert f"from step {latest} to" in out
    assert_same_state(run, straight, final_state)
    assert all(name.isdigit() for name in os.listdir(run.checkpoints_path))


def test_signals_save_and_say_how_to_resume(straight, tmp_path, command, final_state):
    run = RunFolder(tmp_path / "run")
    # A cluster that takes its machine back must see that there is more to do; a person knows.
    for number, step, expected in ((signal.SIGINT, 3, 0), (signal.SIGTERM, 12, AGAIN)):
        process = start(command(run.path))
        wait_for_step(process, run, step)
        process.send_signal(number)
        code, out, err = finish(process)
        assert code == expected, err
        assert f"saved; go on with: python -m amt_jax.train --run={run.path}" in out
        assert "finishing this step and saving" in err
    # As it said, the run folder is enough.
    code, _, err = finish(start([sys.executable, "-m", "amt_jax.train", f"--run={run.path}"]))
    assert code == 0, err
    assert_same_state(run, straight, final_state)


def test_what_a_person_gets_wrong_is_one_line_and_code_2(tmp_path, command, write_dataset, make_pieces, capsys):
    """In one process, through the same entry that the command uses."""
    damaged = tmp_path / "damaged"
    card = write_dataset(damaged, make_pieces([40, 50, 60]))
    shard = damaged / card.splits["train"].shards[0].file
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    bare = tmp_path / "bare"
    write_dataset(bare, make_pieces([40, 50, 60]))
    (bare / "tokenizer.json").unlink()
    run = tmp_path / "run"

    cases = {
        "is damaged (sha256 differs)": command(run, f"--config.dataset={damaged}"),
        "has no tokenizer.json": command(run, f"--config.dataset={bare}"),
        "not a dataset folder": command(run, f"--config.dataset={tmp_path}"),
        "which dataset?": command(run, "--config.dataset="),
        "unknown field --config.'optimizer.lerning_rate' (did you mean 'optimizer.learning_rate'": command(
            run, "--config.optimizer.lerning_rate=1"
        ),
        "unknown field --config.'zzz' (see the config file)": command(run, "--config.zzz=1"),
        "(did you mean '--run'": command(run, "--runs=3"),
        "(did you mean 'demo'": command(run, "--config=demos"),
        "neither a file nor a name": command(run, "--config=nowhere.py"),
        "invalid literal for int()": command(run, "--config.steps=many"),
        "overrides look like": command(run, "surprise"),
        "give --config, for example --config=demo": ["-m", "amt_jax.train", f"--run={run}"],
    }
    for expected, words in cases.items():
        with pytest.raises(SystemExit) as error:
            run_command(functools.partial(main, words[words.index("amt_jax.train") + 1 :]))
        assert error.value.code == 2, expected
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1, err
        assert expected in err
    assert not run.exists()


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys; from amt_jax.train import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('jax' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--config.optimizer.learning_rate" in out
    assert out.splitlines()[-1] == "False"
