"""Object stores for tests: servers on this machine that speak the stores' protocols, and commands that use them."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# gcsfs asks for the kind of a bucket, and Google's servers at that, unless this is set when it is imported.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


@dataclasses.dataclass(frozen=True)
class Store:
    """A server with a bucket, what a process needs to find it, a client of the tests, and what was asked of it."""

    scheme: str
    address: Callable[[int], dict[str, str]]  # port -> environment
    port: int
    files: Any
    log: Path

    @property
    def bucket(self) -> str:
        return f"{self.scheme}://bucket"


@contextlib.contextmanager
def serve(scheme: str, folder: Path) -> Iterator[Store]:
    """A store with an empty bucket; its log is written into `folder`. Skips the test without the packages."""
    fsspec = pytest.importorskip("fsspec", reason="no object stores without their packages")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        for package in ("s3fs", "moto", "flask_cors"):
            pytest.importorskip(package, reason="tests of s3:// need the extras s3 and stores")
        command = ["-m", "moto.server", f"--port={port}"]
        options = {"endpoint_url": here, "key": "key", "secret": "secret"}
    else:
        for package in ("gcsfs", "gcp_storage_emulator"):
            pytest.importorskip(package, reason="tests of gs:// need the extras gcs and stores")
        emulator = str(Path(__file__).with_name("gcs_server.py"))
        command = [emulator, "start", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
        options = {"endpoint_url": here, "token": "anon"}

    def address(port: int) -> dict[str, str]:
        here = f"http://127.0.0.1:{port}"
        if scheme == "s3":
            return {"AWS_ENDPOINT_URL": here, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        return {"STORAGE_EMULATOR_HOST": here, "TENSORSTORE_GCS_HTTP_URL": here}

    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        try:
            wait_until(lambda: server.poll() is not None or answers(port))
            files = fsspec.filesystem(scheme, use_listings_cache=False, **options)
            if scheme == "s3":
                files.mkdir("bucket")
            yield Store(scheme, address, port, files, folder / "log")
        finally:
            server.kill()
            server.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(module, *flags, **environment):
    """A process of a module, or of a program's text."""
    words = [sys.executable, "-c" if "\n" in module else "-m", module, *flags]
    environment = os.environ | environment
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process, expected=0) -> tuple[str, str]:
    """Its output, and its error lines without progress."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == expected, err
    lines = [line.rpartition("\r")[2] for line in err.splitlines()]
    return out, "\n".join(line for line in lines if line.strip() and "%|" not in line)


@contextlib.contextmanager
def proxy(target: int, after: int, times: int = 10**9):
    """A way to `target` that cuts connections when `after` bytes have come back: its port, and the cuts so far."""
    cuts, sockets, listener = [], [], socket.create_server(("127.0.0.1", 0))

    def pump(source, sink, back):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if back and passed + len(data) > after and len(cuts) < times:
                    cuts.append(after)
                    sink.sendall(data[: after - passed])
                    break
                passed += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                ends = listener.accept()[0], socket.create_connection(("127.0.0.1", target))
                sockets.extend(ends)
                for source, sink, back in ((*ends, False), (*ends[::-1], True)):
                    threading.Thread(target=pump, args=(source, sink, back), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], cuts
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # ends the thread that accepts
        for each in (listener, *sockets):
            each.close()


def below(store, folder: str) -> dict[str, bytes]:
    """The objects under a folder, by their names in it."""
    start = folder.partition("://")[2] + "/"
    return {name.removeprefix(start): store.files.cat(name) for name in store.files.find(folder)}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
