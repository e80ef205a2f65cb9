"""Processes of one run: really started, really killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from amt_jax.errors import UserError
from amt_jax.parallel.peers import AGAIN, HELP, connect

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    """A function that starts one worker; whatever still runs at the end is killed."""
    started = []

    def start(what, process, processes, coordinator, timeout=60):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "JAX_COORDINATOR_ADDRESS": coordinator,
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(process),
        }
        words = [sys.executable, "-W", "error", str(WORKER), what, str(timeout)]
        path = tmp_path / f"log.{len(started)}"
        with path.open("w") as log:
            started.append(subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT))
        started[-1].path = path
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def coordinator():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def output(process) -> str:
    return process.path.read_text()


def finish(process, seconds=60):
    """Exit code, last line."""
    code = process.wait(seconds)
    return code, output(process).splitlines()[-1]


def wait_until_computing(processes):
    deadline = time.monotonic() + 60
    while not all("devices" in output(process) for process in processes):
        assert time.monotonic() < deadline, [output(process) for process in processes]
        time.sleep(0.05)


def test_two_processes_compute_together_and_end_together(start, coordinator):
    both = [start("nothing", i, 2, coordinator) for i in range(2)]
    for process in both:
        assert finish(process) == (0, "done")
        assert "devices 2.0" in output(process)


@pytest.mark.parametrize(("what", "victim"), [("loop", 0), ("loop", 1), ("idle", 1), ("barrier", 1)])
def test_when_a_process_is_killed_the_others_say_so_and_stop(start, coordinator, what, victim):
    three = [start(what, i, 3, coordinator) for i in range(3)]
    wait_until_computing(three)
    time.sleep(0.5)
    three[victim].kill()
    killed = time.monotonic()
    for number, process in enumerate(three):
        if number != victim:
            code, last = finish(process)
            assert code == AGAIN, output(process)
            assert last.startswith(f"error: lost contact with process {victim} "), output(process)
            assert last.endswith(f"; {HELP}")
    assert time.monotonic() - killed < 10


def test_a_process_that_freezes_is_found_by_its_heartbeat(start, coordinator):
    both = [start("freeze", i, 2, coordinator) for i in range(2)]  # with a heartbeat of 5 seconds
    wait_until_computing(both)
    both[1].send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    code, last = finish(both[0])
    assert code == AGAIN
    assert last.startswith("error: process 0 of 2"), output(both[0])
    assert "lost contact with another process" in last
    assert time.monotonic() - frozen < 20


@pytest.mark.parametrize(
    ("what", "expected", "told", "exit_code"),
    [
        ("user-error", "error: the disk is full; free some space", "stopped: the disk is full; free some space", 2),
        ("bug", "ValueError: boom", "stopped: ValueError: boom", 1),
        ("agree", "error: process 1: no shard-00002 here; copy it", "no shard-00002 here; copy it", 2),
    ],
)
def test_an_error_in_one_process_stops_all_at_once(start, coordinator, what, expected, told, exit_code):
    first, last = (start(what, i, 2, coordinator) for i in range(2))
    assert finish(last) == (exit_code, expected)
    failed = time.monotonic()
    code, line = finish(first)
    assert code == exit_code
    assert line.startswith("error: process 1")
    assert line.endswith(told)
    assert time.monotonic() - failed < 5


def test_a_wrong_address_is_one_line_within_the_timeout(start):
    begun = time.monotonic()
    cases = {
        "127.0.0.1:1": "could not reach process 0 at 127.0.0.1:1 within 2 s (Connection refused)",
        "nowhere.invalid:4711": "could not reach process 0 at nowhere.invalid:4711 within 2 s (",
    }
    started = {address: start("nothing", 1, 2, address, timeout=2) for address in cases}
    for address, expected in cases.items():
        code, last = finish(started[address])
        assert code == 2
        assert last.startswith("error: process 1 of 2")
        assert expected in last
        assert "check --coordinator (JAX_COORDINATOR_ADDRESS)" in last
    assert time.monotonic() - begun < 30


def hang_up(server):
    """Closes every connection at once, until the server is closed."""
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def test_something_else_on_that_address_is_no_process_0(start):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=hang_up, args=(server,), daemon=True).start()
        code, last = finish(start("nothing", 1, 2, address, timeout=1))
        assert code == 2
        assert "(it does not answer)" in last
        code, last = finish(start("nothing", 0, 2, address, timeout=1))
        assert code == 2
        assert last.endswith("(Address already in use); --coordinator (JAX_COORDINATOR_ADDRESS) must name a free port")


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b'{"process": [1], "processes": 2, "host": "here"}\n'], ids=["web", "list"]
)
def test_a_stranger_who_calls_process_0_is_hung_up_on(start, coordinator, said):
    first, address = start("nothing", 0, 2, coordinator), coordinator.split(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            stranger = socket.create_connection(address)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    for process in (first, start("nothing", 1, 2, coordinator)):
        assert finish(process) == (0, "done"), output(process)


def test_who_did_not_come_is_named_in_all_that_did(start, coordinator):
    here = [start("nothing", i, 4, coordinator, timeout=4) for i in (0, 2)]
    expected = f"error: 2 of 4 processes did not come to {coordinator} within 4 s, these: 1, 3; see whether they run"
    for process in here:
        code, last = finish(process)
        assert code == 2
        assert last.startswith(expected)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([(0, 3), (1, 3), (1, 3)], "error: two processes were given the number 1: process 1 (on "),
        ([(0, 3), (1, 2)], "was told of 2 processes, process 0 of 3"),
    ],
)
def test_processes_that_disagree_all_say_so(start, coordinator, numbers, expected):
    for process in [start("nothing", i, n, coordinator) for i, n in numbers]:
        code, last = finish(process)
        assert code == 2
        assert expected in last


def test_a_process_that_is_started_again_while_others_are_awaited_takes_its_place(start, coordinator):
    first, lost = (start("nothing", i, 3, coordinator) for i in (0, 1))
    wait_until_connected(coordinator)
    lost.kill()
    lost.wait()
    others = [start("nothing", 2, 3, coordinator)]
    wait_until_connected(coordinator)
    time.sleep(0.5)
    others.append(start("nothing", 1, 3, coordinator))
    for process in [first, *others]:
        assert finish(process) == (0, "done"), output(process)


def test_a_process_can_be_alone_in_any_environment(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(UserError, match="which process of a run is this"), connect():
        pass
    with connect(processes=1):
        assert jax.process_count() == 1


def wait_until_connected(coordinator: str) -> None:
    """Returns when somebody has a connection to that port of this host."""
    port, deadline = int(coordinator.rpartition(":")[2]), time.monotonic() + 60
    while True:
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        lines = [line.split() for table in tables for line in table.splitlines()[1:]]
        if any(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines):
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)
