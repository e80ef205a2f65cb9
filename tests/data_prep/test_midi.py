"""The command as people run it: real processes."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.music_files import tune, write

ROOT = Path(__file__).parents[2]


def start(*flags, **options):
    command = [sys.executable, "-m", "data_prep.midi", *map(str, flags)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, cwd=ROOT, **options)


def run(*flags):
    """(exit code, stdout, the lines of stderr that are not progress)"""
    process = start(*flags)
    out, errors = process.communicate(timeout=120)
    lines = [line.rpartition("\r")[2] for line in errors.splitlines()]
    return (
        process.returncode,
        out,
        [line for line in lines if line.strip() and "%|" not in line],
    )


def content(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dataset.iterdir()}


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for index in range(40):
        write(tune(index, 100), folder / f"{('Bach', 'Ödön')[index % 2]}/{index}.mid")
    # Enough to do that there is a middle to be stopped in: long pieces, all different, of one family.
    long = tune(99, 2500)
    for index in range(500):
        long.tracks[0].notes[index].duration += 120
        write(long, folder / f"Bach/long/{index}.mid")
    (folder / "Ödön/wreck.MID").write_bytes(b"MThd and no more")
    return folder


@pytest.fixture(scope="module")
def straight(music, tmp_path_factory) -> dict[str, bytes]:
    dataset = tmp_path_factory.mktemp("straight") / "ds"
    code, out, errors = run(f"--input={music}", f"--output={dataset}", "--workers=2")
    assert (code, errors) == (0, [])
    assert "541 files: 540 pieces" in out
    assert "1 left out: not a MIDI file" in out
    assert "Bach 520, Ödön 20, OTHER 0" in out
    assert "Bach/long (500)" in out
    assert f"--config.dataset={dataset}" in out
    return content(dataset)


def test_one_worker_makes_the_same_bytes_as_two(music, straight, tmp_path):
    code, *_ = run(f"--input={music}/../{music.name}/", f"--output={tmp_path / 'ds'}", "--workers=1")
    assert code == 0
    assert content(tmp_path / "ds") == straight
    code, out, _ = run(f"--input={music}", f"--output={tmp_path / 'ds'}", "--workers=1")
    assert code == 0
    assert out.startswith("nothing changed")


@contextlib.contextmanager
def in_the_middle(*flags):
    """The command, started, when it has prepared some files but not all."""
    with start(*flags, start_new_session=True) as process:
        said = ""
        while not re.search(r"tokenizing: .*\| [1-9]\d*/", said):
            assert process.poll() is None, said
            said += process.stderr.read(1)
        yield process


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_and_run_again(music, straight, tmp_path, sent):
    flags = (f"--input={music}", f"--output={tmp_path / 'ds'}", "--workers=2")
    with in_the_middle(*flags) as process:
        # As a terminal does it: Ctrl-C goes to the workers too.
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[sent]
    assert "Traceback" not in errors
    assert not (tmp_path / "ds/dataset.json").exists()
    if sent == signal.SIGINT:
        assert re.search(r"interrupted: [1-9]\d* of 541 files are done; run the same command again", errors)
    code, *_ = run(*flags)
    assert code == 0
    assert content(tmp_path / "ds") == straight


def test_no_worker_outlives_a_killed_command(music, tmp_path):
    with in_the_middle(f"--input={music}", f"--output={tmp_path / 'ds'}", "--workers=2") as process:
        process.kill()
        process.communicate(timeout=60)  # Waits until every process that holds its pipes has gone.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("workers are still there")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input={nowhere}", "--output={new}"], "no folder"),
        (["--input={empty}", "--output={new}"], "holds no files"),
        (["--input={pictures}", "--output={new}"], "2 .jpg"),
        (["--input={music}", "--output={music}/ds"], "outside the folder"),
        (["--input={music}", "--output={file}/ds"], "cannot write"),
        (["--input={music}", "--output={pictures}"], "is no dataset"),
        (["--input={music}", "--output={new}", "--tokenizer=rmi"], "did you mean 'remi'"),
        (
            ["--input={music}", "--output={new}", "--metadata={table}", "--composer-column=x"],
            "has no column 'x' (there are path, who)",
        ),
        (["--input={music}", "--output={new}", "--valid=0.7", "--test=0.5"], "some for training"),
        (["--input={music}", "--output={new}", "--bpe=100"], "remi has 419 ids"),
        (["--input={music}", "--output={new}", "--count=notes"], "files or works"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(music, tmp_path, flags, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        (tmp_path / f"pictures/{index}.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "table.csv").write_text("path,who\nBach/0.mid,Bach\n")
    names = {name: tmp_path / name for name in ("nowhere", "empty", "pictures", "file", "new")}
    flags = [flag.format(music=music, table=tmp_path / "table.csv", **names) for flag in flags]
    code, out, errors = run(*flags)
    assert code == 2
    assert out == ""
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert not (tmp_path / "new").exists()


def test_help_is_quick():
    begin = time.monotonic()
    code, out, _ = run("--help")
    assert code == 0
    assert "--tokenizer" in out
    assert time.monotonic() - begin < 1.5


def test_the_home_folder_can_be_meant(music, tmp_path, monkeypatch):
    """No shell expands --input=~/midis."""
    monkeypatch.setenv("HOME", str(music.parent))
    code, out, errors = run(f"--input=~/{music.name}", f"--output={tmp_path / 'out'}", "--workers=1")
    assert code == 0, errors
    assert "pieces (" in out


def test_windows_of_one_file_share_a_split(tmp_path):
    """By what their descriptions say, without any other table."""
    with open(tmp_path / "descriptions.jsonl", "w") as lines:
        for song, window in itertools.product(range(12), range(4)):
            name = f"Pop/{song}_{window:03}.mid"
            write(tune(4 * song + window, 60), tmp_path / "music" / name)
            lines.write(json.dumps({"path": name, "family": f"Pop/{song}.mid", "density": 2.0}) + "\n")
    flags = [f"--input={tmp_path / 'music'}", f"--output={tmp_path / 'ds'}", "--valid=0.2", "--test=0.2"]
    code, _, errors = run(*flags, f"--descriptions={tmp_path / 'descriptions.jsonl'}")
    assert (code, errors) == (0, [])
    rows = [json.loads(line) for line in (tmp_path / "ds/files.jsonl").read_text().splitlines()]
    splits = {(row["source"].partition("_")[0], row["split"]) for row in rows}
    assert len(rows) == 48
    assert len(splits) == 12
    assert len({split for _, split in splits}) == 3
