"""Datasets and runs in object stores: real clients and commands against servers on this machine that speak the
stores' protocols. They need the extra stores (make test-heavy)."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amt_jax.data.card import Card
from tests.music_files import tune, write

# gcsfs asks for the kind of a bucket, and Google's servers at that, unless this is set when it is imported.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
fsspec = pytest.importorskip("fsspec", reason="no object stores without their packages")

pytestmark = pytest.mark.heavy

FETCH = """
import sys
from amt_jax.data.cache import open_dataset
from amt_jax.errors import run_command
run_command(lambda: print(open_dataset(sys.argv[1], ("train", "valid"))[1]))
"""
STEPS = 30
TINY = {
    **{"context": 32, "batch_size": 4, "accumulation": 1, "epochs": 0, "steps": STEPS},
    **{"validate_every": 15, "save_every": 5, "save_minutes": 0, "log_every": 1, "mesh.data": 1},
    **{"model.num_layers": 1, "model.num_heads": 2, "model.num_kv_heads": 1, "model.d_model": 32, "model.d_ff": 32},
}


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


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = f"http://127.0.0.1:{port}"
    if request.param == "s3":
        for package in ("s3fs", "moto", "flask_cors"):
            pytest.importorskip(package, reason="tests of s3:// need the extras s3 and stores")
        command = ["moto.server", f"--port={port}"]
        options = {"endpoint_url": here, "key": "key", "secret": "secret"}
    else:
        for package in ("gcsfs", "gcp_storage_emulator"):
            pytest.importorskip(package, reason="tests of gs:// need the extras gcs and stores")
        command = ["gcp_storage_emulator", "start", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
        options = {"endpoint_url": here, "token": "anon"}

    def address(port: int) -> dict[str, str]:
        here = f"http://127.0.0.1:{port}"
        if request.param == "s3":
            return {"AWS_ENDPOINT_URL": here, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        return {"STORAGE_EMULATOR_HOST": here, "TENSORSTORE_GCS_HTTP_URL": here}

    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log)
        try:
            wait_until(lambda: server.poll() is not None or answers(port))
            files = fsspec.filesystem(request.param, use_listings_cache=False, **options)
            if request.param == "s3":
                files.mkdir("bucket")
            yield Store(request.param, address, port, files, folder / "log")
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A dataset as people prepare it."""
    folder = tmp_path_factory.mktemp("prepared")
    for index in range(24):
        write(tune(index, 60), folder / f"midi/{('Bach', 'Weill')[index % 2]}/{index}.mid")
    finish(start("data_prep.midi", f"--input={folder}/midi", f"--output={folder}/set", "--workers=1"))
    return folder / "set"


@pytest.fixture(scope="module")
def environment(store, tmp_path_factory) -> dict[str, str]:
    """What every command finds: the store, a cache of its own, one device."""
    return store.address(store.port) | {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def start(module, *flags, **environment):
    words = [sys.executable, "-m", module, *flags] if module != FETCH else [sys.executable, "-c", FETCH, *flags]
    environment = os.environ | environment
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process, expected=0) -> tuple[str, str]:
    """Its output, and its error lines without progress."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == expected, err
    lines = [line.rpartition("\r")[2] for line in err.splitlines()]
    return out, "\n".join(line for line in lines if line.strip() and "%|" not in line)


def training(dataset, run, **changes):
    flags = [f"--config.{name}={value}" for name, value in (TINY | {"dataset": dataset} | changes).items()]
    return ["amt_jax.train", "--config=demo", f"--run={run}", *flags]


def metrics(text: str) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without what depends on the machine's day."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def test_from_preparation_to_evaluation_as_in_a_folder_here(store, dataset, environment, tmp_path):
    store.files.put(f"{dataset}/", f"{store.bucket}/set/", recursive=True)
    run = f"{store.bucket}/runs/first"
    killed = start(*training(f"{store.bucket}/set/", run), **environment)
    here = start(*training(dataset, tmp_path / "run"), **environment)
    # The second checkpoint is being written or is whole.
    wait_until(lambda: killed.poll() is not None or store.files.exists(f"{run}/checkpoints/10"))
    killed.kill()
    finish(killed, -signal.SIGKILL)
    # A run in a store is enough to go on, too.
    out, _ = finish(start("amt_jax.train", f"--run={run}", **environment))
    assert f"resuming {run} from step" in out
    names = {path.rpartition("/")[2] for path in store.files.ls(f"{run}/checkpoints", detail=False)}
    assert {f"{STEPS}", f"{STEPS - 5}"} <= names
    assert all(store.files.exists(f"{run}/checkpoints/{name}/commit_success.txt") for name in names)
    assert len(store.files.ls(f"{run}/tensorboard")) == 2

    finish(here)
    straight = metrics((tmp_path / "run/metrics.jsonl").read_text())
    assert [line["step"] for line in straight if line["split"] == "train"] == list(range(1, STEPS + 1))
    assert metrics(store.files.cat(f"{run}/metrics.jsonl").decode()) == straight

    wish = [f"--run={run}", "--seconds=2", "--count=1"]
    judged = [f"--dataset={store.bucket}/set", f"--output={tmp_path}/report"]
    evaluated = start("amt_jax.evaluate", *wish, *judged, **environment)
    finish(start("amt_jax.generate", *wish, f"--output={tmp_path}/music", "--audio=none", **environment))
    assert list((tmp_path / "music").glob("*.mid"))
    finish(evaluated)
    assert json.loads((tmp_path / "report/report.json").read_text())["about"]["run"] == run


def test_processes_share_one_copy_and_damage_to_it_is_mended(store, dataset, environment, tmp_path):
    there = f"{store.bucket}/shared"
    store.files.put(f"{dataset}/", f"{there}/", recursive=True)
    environment = environment | {"XDG_CACHE_HOME": str(tmp_path)}
    processes = [start(FETCH, there, **environment) for _ in range(3)]
    (copy,) = {Path(finish(process)[0].strip()) for process in processes}
    card = Card.load(dataset)
    card.verify(copy, ("train", "valid"))
    shard = card.splits["train"].shards[0].file

    def fetched():
        asked = [line for line in store.log.read_text().splitlines() if f"shared/{shard}" in line.replace("%2F", "/")]
        return sum("GET" in line and (store.scheme == "s3" or "alt=media" in line) for line in asked)

    assert fetched() == 1
    data = (copy / shard).read_bytes()
    (copy / shard).write_bytes(data[: len(data) // 2])
    (copy / f"{shard}.part").write_bytes(b"of a process that was killed")
    finish(start(FETCH, there, **environment))
    assert (copy / shard).read_bytes() == data
    assert fetched() == 2


def test_a_connection_that_drops_is_taken_up_again(store, dataset, environment, tmp_path):
    store.files.put(f"{dataset}/", f"{store.bucket}/dropped/", recursive=True)
    with proxy(store.port, after=20_000, times=1) as (port, cuts):
        changed = store.address(port) | {"XDG_CACHE_HOME": str(tmp_path)}
        out, _ = finish(start(FETCH, f"{store.bucket}/dropped", **environment | changed))
    assert cuts == [20_000]
    Card.load(dataset).verify(out.strip(), ("train", "valid"))


def test_what_is_wrong_is_one_line_and_code_2(store, dataset, environment, tmp_path):
    store.files.put(f"{dataset}/", f"{store.bucket}/damaged/", recursive=True)
    shard = f"{store.bucket}/damaged/{Card.load(dataset).splits['train'].shards[0].file}"
    data = bytearray(store.files.cat(shard))
    data[len(data) // 2] ^= 255
    store.files.pipe(shard, bytes(data))
    store.files.put(f"{dataset}/", f"{store.bucket}/lacking/", recursive=True)
    store.files.rm(shard.replace("damaged", "lacking"))
    nowhere = f"{store.scheme}://no-such-bucket"
    here = tmp_path / "run"
    cases = [
        (training(f"{store.bucket}/damaged", here), f"shard {shard} is damaged (sha256 differs)", {}),
        ([FETCH, f"{store.bucket}/lacking"], "lacking/train-00000.array_record (", {}),
        ([FETCH, f"{store.bucket}/empty"], f"no dataset.json in '{store.bucket}/empty'", {}),
        ([FETCH, f"{nowhere}/set"], f"there is no bucket {nowhere}", {}),
        (training(dataset, f"{nowhere}/run"), f"there is no bucket {nowhere}", {}),
        (["amt_jax.generate", f"--run={store.bucket}/x", f"--output={here}"], f"no run in '{store.bucket}/x'", {}),
        (["amt_jax.evaluate", f"--run={store.bucket}/x", "--output=gs://b/x"], "is written on this machine", {}),
        (["amt_jax.evaluate", "--run=ftp://host/x", f"--output={here}"], "ftp:// is not known", {}),
    ]
    if store.scheme == "s3":  # Without keys one is anonymous at gs://, and its server here takes everybody.
        keyless = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
        cases.append(([FETCH, f"{store.bucket}/damaged"], "Unable to locate credentials", keyless))
        with proxy(store.port, after=20_000) as (port, _):
            there = store.address(port) | {"XDG_CACHE_HOME": str(tmp_path / "cut")}
            error = finish(start(FETCH, f"{store.bucket}/damaged", **environment | there), 2)[1]
            assert error.startswith(f"error: cannot reach or copy {shard} (")
    for words, expected, changes in cases:
        environment = environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        out, err = finish(start(*words, **environment | changes), 2)
        assert (out, err.count("\n")) == ("", 0), err
        assert err.startswith("error: ")
        assert expected in err
    assert not here.exists()
    # Nothing damaged bears a shard's name.
    assert not list(tmp_path.glob("c*/amt_jax/datasets/*/train*.array_record"))
    assert f"{nowhere}" not in [f"{store.scheme}://{name}" for name in store.files.ls("")]


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

    def serve():
        with contextlib.suppress(OSError):
            while True:
                ends = listener.accept()[0], socket.create_connection(("127.0.0.1", target))
                sockets.extend(ends)
                for source, sink, back in ((*ends, False), (*ends[::-1], True)):
                    threading.Thread(target=pump, args=(source, sink, back), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], cuts
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # ends the thread that accepts
        for each in (listener, *sockets):
            each.close()
