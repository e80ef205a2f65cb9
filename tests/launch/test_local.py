"""launch.local with real processes, which are really killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amt_jax.errors import UserError
from launch import local

ROOT = Path(__file__).parents[2]
# Every child writes its pid into the folder of its first argument, and then does what the second says.
CHILD = """
import os, pathlib, signal, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
me = int(os.environ["JAX_PROCESS_ID"])
if what == "save":
    def save(*_):
        (folder / f"saved.{me}").touch()
        sys.exit(0)
    signal.signal(signal.SIGINT, save)
    signal.signal(signal.SIGTERM, save)
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if me == 0:
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")
(folder / f"new.{me}").write_text(str(os.getpid()))
(folder / f"new.{me}").rename(folder / f"pid.{me}")
if what == "fail" and me == 1:
    while len(list(folder.glob("pid.*"))) < 2:
        time.sleep(0.01)
    sys.exit(7)
while what != "end":
    time.sleep(0.05)
"""


@pytest.fixture
def launch(tmp_path):
    """A function that starts two children; all is killed at the end."""
    started = []

    def launch(what, settle=10, grace=30):
        code = (
            "from amt_jax.errors import run_command\nfrom launch import local\n"
            f"local.SETTLE, local.GRACE = {settle}, {grace}\nrun_command(local.main)"
        )
        words = [sys.executable, "-c", code, "--processes=2", "--devices=1", "--", sys.executable, "-c", CHILD]
        process = subprocess.Popen(
            [*words, str(tmp_path), what], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("pid.*"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def alive(tmp_path) -> list[int]:
    """Pids of children that still run, and of their children."""
    groups = {int(path.read_text()) for path in tmp_path.glob("pid.*")}
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) in groups and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_until_gone(tmp_path, seconds):
    deadline = time.monotonic() + seconds
    while alive(tmp_path):
        assert time.monotonic() < deadline, alive(tmp_path)
        time.sleep(0.05)


def test_output_is_prefixed_and_progress_bars_stay_on_their_line():
    code = (
        "import os, sys; rank = os.environ['JAX_PROCESS_ID']\n"
        "if rank == '0': sys.stderr.write('\\r 1%\\r 2%\\n')\n"
        "print('line one\\nline two', os.environ['JAX_NUM_PROCESSES'], os.environ['XLA_FLAGS'], end='')\n"
    )
    words = [sys.executable, "-m", "launch.local", "--processes=2", "--devices=3", "--", sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"[0]  1%\r[0]  2%\n"
    flags = b"--xla_force_host_platform_device_count=3"
    expected = [b"[%d] line %s" % (i, text) for i in range(2) for text in (b"one", b"two 2 " + flags)]
    assert sorted(done.stdout.splitlines()) == sorted(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_reach_all(launch, tmp_path, number):
    process = launch("save")
    process.send_signal(number)
    assert process.wait(20) == 0
    assert (tmp_path / "saved.0").exists()
    assert (tmp_path / "saved.1").exists()
    assert not alive(tmp_path)


def test_one_that_fails_stops_the_others_and_gives_its_exit_code(launch, tmp_path):
    process = launch("fail", settle=0.5)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 7
    assert err.splitlines()[-1] == "error: process 1 of 2 ended with exit code 7"
    assert not alive(tmp_path)


def test_one_that_is_killed_stops_the_others(launch, tmp_path):
    process = launch("loop", settle=0.5)
    os.kill(int((tmp_path / "pid.0").read_text()), signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL
    assert err.splitlines()[-1] == "error: process 0 of 2 was ended by SIGKILL"
    assert not alive(tmp_path)


def test_who_does_not_listen_to_sigterm_is_killed_after_the_grace_with_its_children(launch, tmp_path):
    process = launch("stubborn", grace=1)
    assert len(alive(tmp_path)) == 3
    process.terminate()
    begun = time.monotonic()
    process.communicate(timeout=20)
    assert 0.5 < time.monotonic() - begun < 10
    assert process.returncode != 0
    wait_until_gone(tmp_path, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_no_process_outlives_a_launcher_that_is_killed(launch, tmp_path):
    process = launch("loop")
    process.kill()
    process.wait()
    wait_until_gone(tmp_path, 5)


def test_gpus_are_divided():
    def visible(processes, gpus):
        return [each.get("CUDA_VISIBLE_DEVICES") for each in local.divide({}, processes, 0, gpus, "h:1")]

    assert visible(2, ["0", "1", "2", "3"]) == ["0,1", "2,3"]
    assert visible(2, ["GPU-8c", "GPU-f1"]) == ["GPU-8c", "GPU-f1"]
    assert visible(2, []) == [None, None]
    with pytest.raises(UserError, match="3 GPUs cannot be divided among --processes=2"):
        visible(2, ["0", "1", "2"])
    with pytest.raises(UserError, match="1 GPUs cannot be divided among --processes=2"):
        visible(2, ["0"])
    assert local.gpus({"CUDA_VISIBLE_DEVICES": "2,3"}) == ["2", "3"]
    assert local.gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_virtual_devices_replace_those_of_the_environment():
    environ = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_dump_to=x"}
    first, second = local.divide(environ, 2, 4, [], "h:1")
    assert first["XLA_FLAGS"].split() == ["--xla_dump_to=x", "--xla_force_host_platform_device_count=4"]
    assert (first["JAX_PROCESS_ID"], second["JAX_PROCESS_ID"]) == ("0", "1")
    assert first["JAX_COORDINATOR_ADDRESS"] == second["JAX_COORDINATOR_ADDRESS"] == "h:1"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--processes=2"], "which command?"),
        (["--processes=0", "--", "true"], "--processes is 0"),
        (["--processes=2", "--devices=-1", "--", "true"], "--devices is -1"),
        (["--processes=2", "--devices=1", "--", "no-such-command"], "there is no command 'no-such-command'"),
    ],
)
def test_slips_are_told(words, expected):
    with pytest.raises(UserError, match=expected):
        local.main(words)
