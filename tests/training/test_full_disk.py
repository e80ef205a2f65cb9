"""A disk that fills while a run saves: a small tmpfs, mounted where nobody else sees it."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

CHECK = """
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.run_folder import RunFolder
run = RunFolder({run!r})
print("steps", sorted(Checkpoints(run.checkpoints_path).steps), len(run.load_model("last")))
"""

# Another program took the room after it was looked for.
UNCHECKED = """
from amt_jax.errors import run_command
from amt_jax.train import main
from amt_jax.training.checkpoint import Checkpoints
Checkpoints._check_room = lambda *_: None
run_command(main)
"""


@pytest.mark.parametrize(
    ("command", "told"),
    [(["-m", "amt_jax.train"], "the disk of {} has "), (["-c", UNCHECKED], "cannot write a checkpoint to {} (")],
    ids=["before", "while it writes"],
)
def test_is_told_in_one_line_and_the_checkpoints_before_are_whole(tmp_path, dataset, tiny, command, told):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own (unshare -rm)")
    disk = tmp_path / "disk"
    disk.mkdir()
    # Checkpoints of 2.0 MB, of which three are kept: the fourth does not fit.
    fields = tiny | {"dataset": dataset, "steps": 40, "save_every": 5, "validate_every": 40, "log_every": 40}
    fields |= {"model.num_heads": 4, "model.num_kv_heads": 4, "model.d_model": 128, "model.d_ff": 256}
    fields |= {"model.num_layers": 1, "optimizer.learning_rate": 1e-4}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    train = [sys.executable, *command, f"--run={disk / 'run'}", "--config=demo", *flags]
    check = [sys.executable, "-c", CHECK.format(run=str(disk / "run"))]
    script = f"mount -t tmpfs -o size=7m tmpfs {disk} && {shlex.join(train)}; echo code $?; {shlex.join(check)}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=environment)
    assert "code 2" in done.stdout, done
    assert "steps [5, 10, 15] 2" in done.stdout, done
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "step/s" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"error: {told.format(disk / 'run' / 'checkpoints')}")
    assert lines[0].endswith("start the same command again, which goes on from step 15")
