"""The generate command as a person uses it: from a shell."""

import re
import subprocess
import sys
import time

import mido
import numpy as np
import pytest
from symusic import Note, Score, Track

from amt_jax import generate
from amt_jax.errors import UserError, run_command
from amt_jax.music import midi, render


@pytest.fixture(scope="module")
def run(make_run, make_pieces, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made"), make_pieces([20, 30]))


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    score = Score(480)
    score.tracks.append(Track(notes=[Note(240 * index, 240, 60 + index % 12, 80) for index in range(60)]))
    path = tmp_path_factory.mktemp("music") / "old tune.mid"
    midi.save(score, path)
    return path


@pytest.fixture(scope="module")
def shell(run):
    """A function: flags -> the finished process."""

    def call(*flags, **options):
        command = [sys.executable, "-m", "amt_jax.generate", f"--run={run.path}", *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)

    return call


@pytest.fixture
def command(run, capsys, monkeypatch):
    """A function: flags -> exit code and what was printed, in this process."""

    def call(*flags):
        monkeypatch.setattr("sys.argv", ["generate", f"--run={run.path}", *map(str, flags)])
        with pytest.raises(SystemExit) as exit_:
            run_command(generate.main)
        return exit_.value.code, capsys.readouterr()

    return call


def test_pieces_with_everything_and_their_replay(shell, music, tmp_path):
    """A batch of five with guidance and a prompt longer than the context; one of them made again, byte for byte."""
    flags = [f"--prompt={music}", "--composer=A", "--guidance=3", "--count=5", "--seed=2", "--max_tokens=90"]
    made = shell(*flags, "--top_k=0", "--seconds=300", f"--output={tmp_path / 'out'}", "--audio=mp3")
    assert made.returncode == 0, made.stderr
    assert "note: old tune has" in made.stdout
    assert re.search(
        r"^5 pieces, 448 new tokens in [\d.]+ s: \d+ tokens/s, [\d.]+ x real time, "
        r"the first token after [\d.]+ s; compiling took [\d.]+ s more$",
        made.stdout,
        re.MULTILINE,
    )
    stems = [f"A-after-old-tune_seed-{seed}" for seed in range(2, 7)]
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("mid", "npy", "mp3", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    pieces = [(tmp_path / "out" / f"{stem}.mid").read_bytes() for stem in stems]
    assert len(set(pieces)) == 5

    chosen = tmp_path / "out" / f"{stems[3]}.mid"
    again = shell(f"--replay={chosen}", f"--output={tmp_path / 'again'}", "--audio=none", "--no-pictures")
    assert again.returncode == 0, again.stderr
    assert {path.name for path in (tmp_path / "again").iterdir()} == {f"{stems[3]}.mid", f"{stems[3]}.npy"}
    assert (tmp_path / "again" / chosen.name).read_bytes() == chosen.read_bytes()
    assert "note:" not in again.stdout
    assert mido.MidiFile(chosen).length > 0


def test_interactive_through_a_pipe(shell, music, tmp_path):
    """R7's questions: one piece with answers, one with Enter all through, and the end by end of file."""
    answers = ["0.8", "20", "", "1.1", str(music), "64", "Bahc", "2", "3", "4", "11"]
    text = "\n".join(answers + [""] * 10) + "\n"
    flags = [f"--output={tmp_path}", "--max_tokens=30", "--audio=none", "--no-pictures", "--interactive"]
    made = shell(*flags, input=text)
    assert made.returncode == 0, made.stderr
    assert "composers: 1 A, 2 B, C, 3 OTHER" in made.stdout
    assert "unknown composer 'Bahc'" in made.stdout
    assert "prompt_tokens [128]: " in made.stdout
    assert {path.stem for path in tmp_path.glob("*.mid")} == {f"B_C-after-old-tune_seed-{seed}" for seed in (11, 12)}
    ids = np.load(tmp_path / "B_C-after-old-tune_seed-11.npy")
    assert len(ids) <= 64 + 30


def test_help_is_fast(shell):
    shell("--help")
    begin = time.perf_counter()
    shown = shell("--help")
    assert time.perf_counter() - begin < 1.5
    assert "--prompt_tokens" in shown.stdout
    code = "import sys, amt_jax.generate; print({'jax', 'symusic', 'matplotlib', 'miditok'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--composer=Bahc"], "unknown composer"),
        (["--count=0"], "count is a whole number"),
        (["--seconds=-3"], "seconds is between"),
        (["--prompt=/nowhere.mid"], "cannot continue"),
        (["--checkpoint=99"], "no checkpoint"),
        (["--replay=/nowhere.mid"], "cannot replay /nowhere.mid: unreadable: No such file or directory; name a .mid"),
        ([f"--replay={__file__}"], f"cannot replay {__file__}: not a MIDI file; name a .mid file that amt_jax"),
        (
            ["--replay=/nowhere.mid", "--text=sad", "--style_token=1"],
            "again as it was; leave out --text, --style_token",
        ),
        (["--batch=/nowhere.jsonl"], "cannot read /nowhere.jsonl: No such file or directory"),
        (["--batch=/nowhere.txt", "--text=calm"], "two ways to say what to make"),
        (["--max_batch=0"], "max_batch"),
        (["--profile", "--interactive"], "--profile goes with"),
        (["--run=/nowhere"], "/nowhere"),
        ([f"--output={__file__}"], "is a file"),
        ([f"--output={__file__}/in"], "cannot write"),
    ],
)
def test_refusals_are_one_line(command, tmp_path, flags, message):
    few = [] if flags[0].startswith("--replay") else ["--max_tokens=5"]
    code, captured = command(f"--output={tmp_path / 'out'}", *few, *flags)
    assert code == 2
    *before, line = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert all("composing" in each or not each for each in before)
    assert not (tmp_path / "out").exists()


def test_a_piece_without_a_note_is_made_and_made_again(command, tmp_path):
    code, captured = command("--max_tokens=1", f"--output={tmp_path / 'out'}")
    assert code == 0, captured.err
    assert "0 notes" in captured.out
    (made,) = (tmp_path / "out").glob("*.mid")
    code, captured = command(f"--replay={made}", f"--output={tmp_path / 'again'}")
    assert code == 0, captured.err
    assert (tmp_path / "again" / made.name).read_bytes() == made.read_bytes()


def test_what_is_left_is_told_without_the_time_of_compiling(command, tmp_path):
    code, captured = command("--max_tokens=300", "--seconds=300", f"--output={tmp_path}", "--audio=none")
    assert code == 0, captured.err
    left = re.findall(r"([\d:]+) left", captured.err)
    seconds = [sum(int(part) * 60**place for place, part in enumerate(reversed(each.split(":")))) for each in left]
    assert seconds
    assert max(seconds) < 30


def test_a_batch_file_and_all_composers(command, tmp_path):
    batch = tmp_path / "batch.jsonl"
    batch.write_text(
        '{"composer": "all", "seconds": 1}\n{"temperature": 0, "top_k": 100000, "seed": 9}\n{"temperature": 1e-6}\n'
    )
    flags = ["--max_tokens=12", "--audio=none", "--no-pictures", f"--output={tmp_path / 'out'}"]
    code, captured = command(*flags, f"--batch={batch}", "--profile")
    assert code == 0, captured.err
    assert "ms a step over 1, devices idle" in captured.out
    assert any((tmp_path / "out" / "profile").glob("**/*.xplane.pb"))
    names = {path.stem for path in (tmp_path / "out").glob("*.mid")}
    assert names == {"A_seed-0", "B_C_seed-0", "OTHER_seed-0", "free_seed-9", "free_seed-0"}
    first, second = (np.load(tmp_path / "out" / f"free_seed-{seed}.npy") for seed in (9, 0))
    np.testing.assert_array_equal(first, second)  # both take the likeliest tokens, whatever the seed


def test_music_is_not_lost_where_there_is_no_sound(command, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("audio needs soundfile: pip install 'amt_jax[audio]'")

    monkeypatch.setattr(render, "save_audio", fail)
    code, captured = command("--max_tokens=12", "--count=2", f"--output={tmp_path}")
    assert code == 0
    assert captured.err.count("note: no sound, audio needs soundfile") == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".mid", ".mid", ".npy", ".npy", ".png", ".png"]
