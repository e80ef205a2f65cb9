"""Datasets and runs in object stores: real clients and commands against servers on this machine that speak the stores'
protocols. They need the extra stores (make test-heavy)."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from amt_jax.data.card import Card
from tests.captioned import caption, write_captioned
from tests.music_files import tune, write
from tests.object_stores import content, finish, proxy, start, wait_until

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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A dataset as people prepare it."""
    folder = tmp_path_factory.mktemp("prepared")
    for index in range(24):
        write(tune(index, 60), folder / f"midi/{('Bach', 'Weill')[index % 2]}/{index}.mid")
    finish(start("data_prep.midi", f"--input={folder}/midi", f"--output={folder}/set", "--workers=1"))
    return folder / "set"


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
