"""The command as people run it: real processes."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from symusic import Note, Score, Tempo, Track

from amt_jax.music import midi
from data_prep.dataset.outcome import read
from tests.music_files import tune, write

ROOT = Path(__file__).parents[2]


def start(*flags, module="data_prep.collect"):
    command = [sys.executable, "-m", module, *map(str, flags)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def run(*flags, module="data_prep.collect"):
    """(exit code, stdout, the lines of stderr that are not progress)"""
    process = start(*flags, module=module)
    out, errors = process.communicate(timeout=120)
    lines = [line.rpartition("\r")[2] for line in errors.splitlines()]
    return process.returncode, out, [line for line in lines if line.strip() and "%|" not in line]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    """Every file that a person is meant to see."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".collect" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def scale() -> Score:
    """30 seconds of D major on a violin over drums at 90 quarter notes a minute, one note at a time, in 3/4."""
    score = tune(0, 1, tempo=90.0)
    score.time_signatures[0].numerator = 3
    violin, drums = Track(program=40), Track(is_drum=True)
    for index in range(45):
        violin.notes.append(Note(index * 480, 480, 62 + (0, 2, 4, 5, 7, 9, 11, 12, 7, 0)[index % 10], 80))
        drums.notes.append(Note(index * 480, 60, 36, 80))
    score.tracks = [violin, drums]
    return score


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    write(scale(), folder / "ABBA/Dancing Queen.mid")
    write(scale(), folder / "ABBA/Dancing Queen.1.mid")
    write(tune(2, 200), folder / "Ödön/Ének.midi")
    (folder / "Ödön/wreck.MID").write_bytes(b"MThd and no more")
    write(Score(480), folder / "Ödön/silence.mid")
    os.mkfifo(folder / "Ödön/pipe.mid")
    return folder


def test_a_folder_becomes_a_table(music, tmp_path):
    code, out, errors = run(f"--input={music}", f"--output={tmp_path / 'out'}", "--licence=CC0")
    assert (code, errors) == (0, [])
    assert "titles and artists: Artist/Title.mid (2 artists)" in out
    assert "6 files: 3 in " in out
    assert re.search(r"1 have the bytes of another file", out)
    assert re.search(r"1 left out: not a MIDI file", out)
    first, second, third = lines(tmp_path / "out/midi_metadata.jsonl")
    data = (music / "ABBA/Dancing Queen.mid").read_bytes()
    assert first == {
        "path": "ABBA/Dancing Queen.1.mid", "sha256": hashlib.sha256(data).hexdigest(), "title": "Dancing Queen",
        "artist": "ABBA", "licence": "CC0", "source": "", "duration": 30.0, "tempo": 90.0, "key": "D major",
        "time_signature": "3/4", "instruments": ["violin", "drums"], "notes": 90, "density": 3.0,
        "polyphony": "monophonic",
    }  # fmt: skip
    assert second == first | {"path": "ABBA/Dancing Queen.mid"}
    assert (third["path"], third["title"], third["artist"]) == ("Ödön/Ének.midi", "Ének", "Ödön")
    skipped = {line["path"]: line["reason"] for line in lines(tmp_path / "out/collect_skipped.jsonl")}
    assert skipped == {
        "Ödön/pipe.mid": "unreadable", "Ödön/silence.mid": "no notes", "Ödön/wreck.MID": "not a MIDI file"
    }  # fmt: skip
    assert not (tmp_path / "out/midi").exists()


def test_music_is_brought_to_one_key_and_tempo(music, tmp_path):
    flags = (f"--input={music}", f"--output={tmp_path}", "--standardise-key", "--standardise-tempo=120")
    assert run(*flags)[0] == 0
    line = lines(tmp_path / "midi_metadata.jsonl")[1]
    assert (line["path"], line["family"]) == ("ABBA/Dancing Queen.mid", "ABBA/Dancing Queen.mid")
    assert (line["key"], line["transposed"], line["tempo"], line["original_tempo"]) == ("C major", -2, 120.0, 90.0)
    assert (line["duration"], line["start"]) == (22.5, 0.0)
    path = tmp_path / "midi" / line["path"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]
    before = midi.load(music / "ABBA/Dancing Queen.mid").tracks
    for old, new in zip(before, midi.load(path).tracks, strict=True):
        down = 0 if old.is_drum else 2
        assert [(note.start, note.pitch - down) for note in old.notes] == [(n.start, n.pitch) for n in new.notes]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Path:
    """Enough to do that there is a middle to be stopped in."""
    folder = tmp_path_factory.mktemp("pieces")
    long = tune(99, 1500)
    for index in range(150):
        long.tracks[0].notes[index].duration += 120
        long.tempos = [Tempo(0, 100 + index / 10)]
        write(long, folder / f"Bach/{index}.mid")
    for seed in range(12):
        write(tune(seed, 200), folder / f"Ödön/{seed}.mid")
    return folder


@pytest.fixture(scope="module")
def straight(pieces, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("straight") / "out"
    code, out, errors = run(f"--input={pieces}", f"--output={output}", "--window-seconds=30", "--workers=2")
    assert (code, errors) == (0, [])
    assert "162 files: 162 in " in out
    return output


def test_windows_of_a_piece_stay_in_one_split(straight, tmp_path):
    table = lines(straight / "midi_metadata.jsonl")
    assert {line["path"] for line in table} == set(content(straight / "midi"))
    few = [line["path"] for line in table if line["family"].startswith("Ödön/")]
    assert len(few) > 24
    for path in few:
        write(midi.load(straight / "midi" / path), tmp_path / "in" / path)
    flags = (f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'ds'}", "--valid=0.3", "--test=0.3", "--min-count=1")
    flags += (f"--metadata={straight / 'midi_metadata.jsonl'}", "--composer-column=artist", "--family-column=family")
    code, _, errors = run(*flags, module="data_prep.midi")
    assert code == 0, errors
    splits, of = {}, {line["path"]: line["family"] for line in table}
    for each in read(tmp_path / "ds"):
        assert each.composer == "Ödön"
        splits.setdefault(of[each.source], set()).add(each.split)
    assert len(splits) == 12
    assert all(len(each) == 1 for each in splits.values()), splits
    assert len(set.union(*splits.values())) == 3


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_and_run_again(pieces, straight, tmp_path, sent):
    flags = (f"--input={pieces}", f"--output={tmp_path / 'out'}", "--window-seconds=30", "--workers=2")
    with start(*flags) as process:
        said = ""
        while not re.search(r"collecting: .*\| [1-9]\d*/", said):
            assert process.poll() is None, said
            said += process.stderr.read(1)
        # As a terminal does it: Ctrl-C goes to the workers too.
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[sent]
    assert "Traceback" not in errors
    assert not (tmp_path / "out/midi_metadata.jsonl").exists()
    if sent == signal.SIGINT:
        done = int(re.search(r"interrupted: (\d+) of 162 files are done; run the same command again", errors)[1])
    process = start(*flags)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    if sent == signal.SIGINT:
        assert int(re.search(r"\| (\d+)/162", errors)[1]) == done > 0  # It went on from there.
    assert content(tmp_path / "out") == content(straight)


def test_a_later_run_does_what_is_new_and_forgets_what_is_gone(tmp_path):
    music, output = tmp_path / "music", tmp_path / "out"
    for seed in range(3):
        write(tune(seed, 100), music / f"{seed}.mid")
    flags = (f"--input={music}", f"--output={output}", "--window-seconds=20")
    assert run(*flags)[0] == 0
    before = content(output)
    stamps = {path: path.stat().st_mtime_ns for path in (output / "midi").iterdir()}
    assert run(*flags)[0] == 0
    assert content(output) == before
    assert stamps == {path: path.stat().st_mtime_ns for path in (output / "midi").iterdir()}

    (music / "0.mid").unlink()
    write(tune(7, 30), music / "1.mid")  # shorter
    write(tune(8, 100), music / "3.mid")
    code, out, _ = run(*flags)
    assert code == 0
    assert "1 files of earlier runs are gone; what was made of them is removed" in out
    assert run(f"--input={music}", f"--output={tmp_path / 'fresh'}", "--window-seconds=20")[0] == 0
    assert content(output) == content(tmp_path / "fresh")

    write(tune(9, 100), tmp_path / "others/9.mid")
    code, _, errors = run(f"--input={tmp_path / 'others'}", *flags[1:])
    assert code == 2
    assert f"holds what was made of {str(music)!r}: name another --output" in errors[0]
    assert content(output) == content(tmp_path / "fresh")

    code, _, errors = run(*flags, "--standardise-key")
    assert code == 2
    assert "made with other settings" in errors[0]
    assert content(output) == content(tmp_path / "fresh")
    for path in (output / "midi").iterdir():
        path.unlink()
    (output / "midi").rmdir()
    assert run(*flags)[0] == 0
    assert content(output) == content(tmp_path / "fresh")


def test_a_name_that_leaves_no_room_for_a_number_is_listed(tmp_path):
    long = "x" * 250 + ".mid"
    for name in (long, "short.mid"):
        write(tune(1, 100), tmp_path / "in" / name)
    code, _, errors = run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--window-seconds=20")
    assert (code, errors) == (0, [])
    assert {line["family"] for line in lines(tmp_path / "out/midi_metadata.jsonl")} == {"short.mid"}
    (skipped,) = lines(tmp_path / "out/collect_skipped.jsonl")
    assert (skipped["path"], skipped["reason"]) == (long, "its name is too long for that of music made of it")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input={nowhere}", "--output={new}"], "no folder"),
        (["--input={empty}", "--output={new}"], "holds no files"),
        (["--input={music}", "--output={music}/out"], "outside the folder"),
        (["--input={music}", "--output={file}/out"], "cannot write"),
        (["--input=gs://bucket/music", "--output={new}"], "this machine"),
        (["--input={music}", "--output={new}", "--standardise-tempo=2000"], "4 to 1000"),
        (["--input={music}", "--output={new}", "--window-seconds=0.1"], "a second or more"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(music, tmp_path, flags, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    names = {name: tmp_path / name for name in ("nowhere", "empty", "file", "new")}
    code, out, errors = run(*(flag.format(music=music, **names) for flag in flags))
    assert (code, out) == (2, "")
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_nothing_but_wrecks(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mid").write_bytes(b"no music")
    code, out, errors = run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    assert code == 2
    assert "1 left out: not a MIDI file" in out
    assert "no music is left" in errors[0]


def test_help_is_quick():
    begin = time.monotonic()
    code, out, _ = run("--help")
    assert code == 0
    assert "--window-seconds=30" in out
    assert time.monotonic() - begin < 1.5
