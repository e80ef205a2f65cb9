"""Starts N processes of one run on this host: python -m launch.local --processes=2 -- python -m amt_jax.train ..."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from amt_jax.errors import Parser, UserError, run_command
from amt_jax.parallel.cluster import FLAGS
from amt_jax.parallel.peers import AGAIN

GRACE = 30  # seconds that processes have to save and end after Ctrl-C or SIGTERM
SETTLE = 10  # seconds that the others have to end after one failed: they notice by themselves within 2
PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command N times, as one; returns the exit code of the one that failed, if any."""
    parser = Parser(
        prog="python -m launch.local",
        description="Starts a command as N processes of one run on this host. The host's GPUs are divided among them.",
        epilog="Ctrl-C stops all; so does one that fails, and its exit code becomes that of this command.",
        allow_abbrev=False,
    )
    parser.add_argument("--processes", metavar="N", type=int, required=True, help="how many")
    parser.add_argument("--devices", metavar="M", type=int, default=0, help="virtual CPU devices each, instead of GPUs")
    parser.add_argument("command", metavar="-- COMMAND ...", nargs=argparse.REMAINDER, help="what each of them runs")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UserError("which command? put it after two dashes: python -m launch.local --processes=2 -- COMMAND ...")
    if not shutil.which(command[0]):
        raise UserError(f"there is no command {command[0]!r}")
    if args.processes < 1:
        raise UserError(f"--processes is {args.processes}; it must be at least 1")
    if args.devices < 0:
        raise UserError(f"--devices is {args.devices}; it must be at least 1, or left out")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    additions = divide(os.environ, args.processes, args.devices, gpus(os.environ), address)
    return supervise(command, [os.environ | addition for addition in additions])


def gpus(environ: Mapping[str, str]) -> list[str]:
    """Names of this host's NVIDIA GPUs as CUDA_VISIBLE_DEVICES takes them."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [name for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    return [str(number) for number in range(len(re.findall("^GPU ", listed, re.MULTILINE)))]


def divide(
    environ: Mapping[str, str], processes: int, devices: int, gpus: Sequence[str], address: str
) -> list[dict[str, str]]:
    """What is added to the environment of each process; UserError if the GPUs cannot be divided evenly."""
    common = {FLAGS["coordinator"]: address, FLAGS["processes"]: str(processes), "PYTHONUNBUFFERED": "1"}
    common["COLUMNS"] = str(shutil.get_terminal_size().columns - len(f"[{processes}] "))  # for progress bars
    if devices:
        flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", environ.get("XLA_FLAGS", ""))
        flags = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
        common |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    elif len(gpus) % processes:
        raise UserError(
            f"{len(gpus)} GPUs cannot be divided among --processes={processes}; take a number that divides them, "
            f"choose GPUs with CUDA_VISIBLE_DEVICES, or --devices=M for virtual CPU devices"
        )
    share = len(gpus) // processes
    return [
        common
        | {FLAGS["process"]: str(number)}
        | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus[number * share : (number + 1) * share])} if share else {})
        for number in range(processes)
    ]


def supervise(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Runs one process an environment until all have ended; none outlives this one."""
    received, parent = [], os.getpid()

    def start(environment: Mapping[str, str]) -> subprocess.Popen:
        # A session of its own: Ctrl-C in the terminal reaches it once, passed on by us.
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: die_with(parent),
        )

    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    processes = []
    try:
        for environment in environments:
            processes.append(start(environment))
        screen = Screen()
        readers = [
            threading.Thread(target=screen.copy, args=(f"[{number}] ".encode(), source, target), daemon=True)
            for number, process in enumerate(processes)
            for source, target in ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer))
        ]
        for reader in readers:
            reader.start()
        codes = wait(processes, received)
        for reader in readers:
            reader.join(2)  # a grandchild may hold the pipe open
    finally:
        for process in processes:
            kill(process)
        for number, handler in before.items():
            signal.signal(number, handler)
    # The others fail because of one, the first: its code says why.
    failed = [number for number, code in codes.items() if code]
    failed.sort(key=lambda number: codes[number] == AGAIN)
    if not failed:
        return 0
    code = codes[failed[0]]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if code != AGAIN:  # then the process itself has said how to go on
        print(f"error: process {failed[0]} of {len(processes)} {how}", file=sys.stderr)
    return code if code > 0 else 128 - code


def wait(processes: Sequence[subprocess.Popen], received: list[int]) -> dict[int, int]:
    """Exit codes of all processes in the order of their ends, `AGAIN` of those that had to be killed.

    Passes on the signals that come into `received`.
    """
    codes, deadline = {}, float("inf")
    while len(codes) < len(processes):
        for number, process in enumerate(processes):
            if number not in codes and process.poll() is not None:
                codes[number] = process.returncode
                if process.returncode:
                    deadline = min(deadline, time.monotonic() + SETTLE)
        if received:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(received[0])
            del received[0]
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            for number, process in enumerate(processes):
                if number not in codes:
                    print(f"\nprocess {number} did not end in time and is killed", file=sys.stderr)
                    kill(process)
                    codes[number] = AGAIN
        time.sleep(0.05)
    return codes


def kill(process: subprocess.Popen) -> None:
    """Ends a process and its children, if there are any left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_with(parent: int) -> None:
    """In a new process: makes Linux kill it when its parent dies, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


class Screen:
    """Where the output of several processes comes together, each line with its process's number in front."""

    def __init__(self):
        self._lock = threading.Lock()
        self._bar = None  # (prefix, target) of the progress bar that the cursor stands on

    def copy(self, prefix: bytes, source: BinaryIO, target: BinaryIO) -> None:
        """Copies whole lines until the end of `source`. A carriage return ends one too: progress bars stay in place."""
        rest = b""
        while data := os.read(source.fileno(), 65536):
            *lines, rest = re.split(rb"(?<=[\r\n])", rest + data)
            self._write(prefix, lines, target)
        self._write(prefix, [rest + b"\n"] if rest else [], target)

    def _write(self, prefix: bytes, lines: Sequence[bytes], target: BinaryIO) -> None:
        with self._lock:
            for line in lines:
                if line == b"\r":
                    continue
                if self._bar not in (None, (prefix, target)):
                    self._bar[1].write(b"\n")
                    self._bar[1].flush()
                target.write(prefix + line)
                self._bar = (prefix, target) if line.endswith(b"\r") else None
            target.flush()


if __name__ == "__main__":
    run_command(main)
