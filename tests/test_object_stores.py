"""Datasets and runs in object stores: real clients and commands against servers on this machine that speak the
stores' protocols. They need the extra stores (make test-heavy)."""

import contextlib
import dataclasses
import json
import os
import shutil
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
from tests.captioned import caption, write_captioned
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
TEXTS = """
import sys
from amt_jax.errors import run_command
from amt_jax.training.run_folder import RunFolder
run_command(lambda: print(RunFolder(sys.argv[1]).text_path))
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
        if request.param == "s3":
            return {"AWS_ENDPOINT_URL": here, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        return {"STORAGE_EMULATOR_HOST": here, "TENSORSTORE_GCS_HTTP_URL": here}

    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
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
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def start(module, *flags, **environment):
    words = [sys.executable, "-c" if module in (FETCH, TEXTS) else "-m", module, *flags]
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


def test_texts_of_datasets_and_runs_are_copied_and_kept_up(store, environment, tmp_path):
    here, there = tmp_path / "set", f"{store.bucket}/captioned"
    texts = ("a slow waltz", "a fast reel", "a sad song", "a calm air", "a jig", "a loud march")
    write_captioned(here, {"train": [[caption(text)] for text in texts]})
    for command in ("encode", "cluster"):  # the second pass has another file, and another card
        finish(start(f"data_prep.{command}", f"--dataset={here}", **environment))
        store.files.put(f"{here}/", f"{there}/", recursive=True)
        out, _ = finish(start(FETCH, there, **environment))
        assert content(Path(out.strip()) / "text") == content(here / "text")
    kept = {"encoder.json", "clusters.json", "captions.jsonl", "pooled.npy"}
    out, _ = finish(start(TEXTS, there, **environment))
    assert content(Path(out.strip())) == {name: data for name, data in content(here / "text").items() if name in kept}


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
        (training(f"{store.bucket}/damaged", here), f"{shard} is damaged (sha256 differs)", {}),
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


def prepare(source, output, *flags, **environment):
    words = [f"--input={source}", f"--output={output}", "--workers=1", "--valid=0.2", "--licence=CC0", *flags]
    return start("data_prep.midi", *words, **environment)


def below(store, folder: str) -> dict[str, bytes]:
    """The objects under a folder, by their names in it."""
    start = folder.partition("://")[2] + "/"
    return {name.removeprefix(start): store.files.cat(name) for name in store.files.find(folder)}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for index in range(9):
        write(tune(index, 40), folder / f"{('Bach', 'Ödön, 2')[index % 2]}/a #{index}.mid")
    (folder / "Bach/b.MID").write_bytes(b"no music")
    (folder / "Bach/c.mid").touch()
    (folder / "readme.txt").touch()
    return folder


@pytest.mark.parametrize("runner", ["local", "beam"])
def test_preparation_makes_the_bytes_of_a_folder_here(store, music, environment, tmp_path, runner):
    if runner == "beam":
        pytest.importorskip("apache_beam", reason="needs the extra beam")
    some, source, output = tmp_path / "some", f"{store.bucket}/{runner}/midi", f"{store.bucket}/{runner}/set"
    shutil.copytree(music, some, ignore=shutil.ignore_patterns("*#8.mid"))
    for path in (path for path in some.rglob("*") if path.is_file()):
        store.files.put(str(path), f"{source}/{path.relative_to(some)}")
    flags = [f"--runner={runner}"]
    finish(prepare(some, tmp_path / "set"))
    finish(prepare(source, tmp_path / "from a store", *flags, **environment))
    assert content(tmp_path / "from a store") == content(tmp_path / "set")
    out, err = finish(prepare(source, output, *flags, **environment))
    assert (below(store, output), err) == (content(tmp_path / "set"), "")
    assert f"--config.dataset={output}" in out
    # And what is new into what is there.
    assert "8 pieces (8 new)" in out
    assert (runner == "beam") == any("-work" in line and "npz" in line for line in store.log.read_text().splitlines())
    finish(prepare(music, tmp_path / "set"))
    assert "9 pieces (1 new)" in finish(prepare(music, output, *flags, **environment))[0]
    assert below(store, output) == content(tmp_path / "set")
    assert "nothing changed" in finish(prepare(music, output, *flags, **environment))[0]
    assert below(store, output) == content(tmp_path / "set")
    assert not list(Path(environment["XDG_CACHE_HOME"]).glob("amt_jax/preparations/*"))


# Ends the process when the files of a dataset are sent, or when they stand in their places but for the card.
KILLED = """
import os, signal, sys
from amt_jax import storage
from amt_jax.errors import run_command
from data_prep import midi
from data_prep.dataset import remote
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv.pop(1) == "sent":
    remote.RemoteStaging._check = kill
else:
    copy = remote.RemoteStaging._copy
    remote.RemoteStaging._copy = lambda *them: (kill if "dataset.json" in them[2] else copy)(*them)
run_command(midi.main)
"""


@pytest.mark.parametrize("where", ["sent", "copied"])
def test_killed_while_it_sends_it_leaves_a_dataset_and_goes_on_anywhere(store, music, environment, tmp_path, where):
    output, more = f"{store.bucket}/killed {where}", tmp_path / "more"
    shutil.copytree(music, more)
    write(tune(20, 40), more / "Bach/20.mid")
    for source in (music, more):
        finish(prepare(source, tmp_path / "set"))
    finish(prepare(music, output, **environment))
    before = below(store, output)
    # What train reads, the card, the tokenizer and the card's shards, is as it was.
    flags = [where, f"--input={more}", f"--output={output}", "--workers=1", "--valid=0.2", "--licence=CC0"]
    killed = subprocess.Popen([sys.executable, "-c", KILLED, *flags], env=os.environ | environment)
    assert killed.wait(120) == -signal.SIGKILL
    after = below(store, output)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == ({"files.jsonl", "signatures.npy", "composer_mapping.json"} if where == "copied" else set())
    assert any(name.startswith(".prepare/") for name in after)
    elsewhere = environment | {"XDG_CACHE_HOME": str(tmp_path)}
    out, _ = finish(prepare(more, output, **elsewhere if where == "copied" else environment))
    assert ("nothing changed" in out) == (where == "copied")
    assert below(store, output) == content(tmp_path / "set")


# Lets another preparation come in between, from a machine with a cache of its own.
OVERTAKEN = """
import os, subprocess, sys
from amt_jax.errors import run_command
from data_prep import midi
from data_prep.dataset import remote
check = remote.RemoteStaging._check
def late(self):
    environment = os.environ | {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"] + "/other"}
    subprocess.run([sys.executable, "-m", "data_prep.midi", *sys.argv[1:]], env=environment, check=True)
    check(self)
remote.RemoteStaging._check = late
run_command(midi.main)
"""


def test_of_two_preparations_at_once_one_counts(store, music, environment, tmp_path):
    output = f"{store.bucket}/two"
    flags = [f"--input={music}", f"--output={output}", "--workers=1", "--valid=0.2", "--licence=CC0"]
    finish(prepare(music, tmp_path / "set"))
    changed = os.environ | environment | {"XDG_CACHE_HOME": str(tmp_path)}
    late = subprocess.run([sys.executable, "-c", OVERTAKEN, *flags], env=changed, capture_output=True, text=True)
    assert late.returncode == 2
    assert f"error: another preparation wrote to {output} meanwhile; run the same command again" in late.stderr
    assert below(store, output).items() >= content(tmp_path / "set").items()
    assert "nothing changed" in finish(prepare(music, output, **environment))[0]
    assert below(store, output) == content(tmp_path / "set")


IDENTIFY = """
import sys
from data_prep import files
for path in sys.argv[2:]:
    source = files.identify(path, sys.argv[1])
    print(source.name, source.reason, source.details, sep="|")
"""


# Said by the client with which this test puts a large file there.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_file_that_cannot_be_read_is_one_of_the_others(store, environment):
    folder = f"{store.bucket}/some"
    store.files.pipe(f"{folder}/large.mid", bytes(33 << 20))
    words = [folder, f"{folder}/large.mid", f"{folder}/a/gone.mid"]
    done = subprocess.run(
        [sys.executable, "-c", IDENTIFY, *words], env=os.environ | environment, capture_output=True, text=True
    )
    large, gone = done.stdout.splitlines()
    assert large == "large.mid|file too large|33 MiB, at most 32"
    assert gone.startswith(f"a/gone.mid|unreadable|cannot reach or copy {folder}/a/gone.mid (")


def test_a_preparation_that_cannot_be_is_one_line_and_code_2(store, music, environment, tmp_path):
    output, nowhere = f"{store.bucket}/refused", f"{store.scheme}://no-such-bucket"
    finish(prepare(music, output, **environment))
    before = below(store, output)
    store.files.pipe(f"{store.bucket}/thesis/thesis.doc", b"mine")
    write(tune(0), tmp_path / "few/0.mid")
    cases = [
        ([tmp_path / "few", f"{store.bucket}/few"], "1 of 1 MIDI files can be used, at least 3 are needed"),
        ([music, nowhere], f"there is no bucket {nowhere}"),
        ([nowhere, tmp_path / "set"], f"there is no bucket {nowhere}"),
        ([f"{store.bucket}/thesis/thesis.doc", tmp_path / "set"], f"no folder '{store.bucket}/thesis/thesis.doc'"),
        ([f"{store.bucket}/thesis", tmp_path / "set"], f"in '{store.bucket}/thesis': it holds 1 .doc"),
        ([music, f"{store.bucket}/thesis"], "is no dataset but holds 'thesis.doc'"),
        ([music, output, "--seed=1"], f"'{output}' was made with other settings (seed was 0, now 1)"),
        ([output, f"{output}/set"], f"--output={output}/set lies in --input={output}"),
        ([music, "ftp://host/set"], "ftp:// is not known"),
    ]
    for words, expected in cases:
        out, err = finish(prepare(*words, **environment), 2)
        assert (out, err.count("\n")) == ("", 0), err
        assert expected in err
    assert below(store, output) == before
    assert not store.files.find(f"{store.bucket}/few")
    assert not (tmp_path / "set").exists()
