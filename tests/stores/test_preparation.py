"""Preparation in object stores: real clients and commands against servers on this machine that speak the stores'
protocols. They need the extra stores (make test-heavy)."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.music_files import tune, write
from tests.object_stores import below, content, finish, start

pytestmark = pytest.mark.heavy


def prepare(source, output, *flags, **environment):
    words = [f"--input={source}", f"--output={output}", "--workers=1", "--valid=0.2", "--licence=CC0", *flags]
    return start("data_prep.midi", *words, **environment)


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
