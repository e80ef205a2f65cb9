"""The export command, and what it writes in a process that cannot import amt_jax."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.flax import load_file
from symusic import Score

from amt_jax import export, generate
from amt_jax.errors import run_command
from amt_jax.sampling.portable import named
from amt_jax.tokens.pianoroll import PianoRoll

# A person's own: neither this package nor what only it needs.
ALONE = """
import runpy, sys
for name in ("amt_jax", "flax", "orbax", "optax", "etils", "grain", "ml_collections", "array_record"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(make_run, make_pieces, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made"), make_pieces([20, 30]))


@pytest.fixture
def command(capsys, monkeypatch):
    """A function: module, flags -> exit code and what was printed, in this process."""

    def call(module, *flags):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, flags)])
        with pytest.raises(SystemExit) as exit_:
            run_command(module.main)
        return exit_.value.code, capsys.readouterr()

    return call


def play(folder, *flags):
    """What play.py did, alone."""
    words = [sys.executable, "-I", "-W", "error", "-c", ALONE, folder / "play.py", *flags]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_it_plays_the_same_music_alone(command, run, tmp_path):
    flags = ["--composer=B, C", "--seed=5", "--count=4", "--seconds=300", "--max_tokens=150", "--temperature=1.1"]
    wanted = [f"--run={run.path}", f"--output={tmp_path / 'made'}", "--audio=none", "--no-pictures"]
    assert command(generate, *wanted, *flags)[0] == 0
    code, captured = command(export, f"--run={run.path}", f"--output={tmp_path / 'model'}", "--batch=4")
    assert code == 0, captured.err
    assert "decode.jaxexport, manifest.json, play.py, prefill_1.jaxexport" in captured.out
    moved = shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    done = play(moved, f"--output={tmp_path / 'played'}", *flags)
    assert done.returncode == 0, done.stderr
    for seed in range(5, 9):
        made, played = tmp_path / "made" / f"B_C_seed-{seed}", tmp_path / "played" / f"seed-{seed}"
        ids = np.load(f"{played}.npy")
        assert len(ids) > 64  # so that windows moved on
        np.testing.assert_array_equal(ids, np.load(f"{made}.npy"), strict=True)
        one, other = (Score(f"{path}.mid").tracks for path in (made, played))
        assert [track.notes for track in one] == [track.notes for track in other]
    prompt = tmp_path / "prompt.npy"
    np.save(prompt, ids[:20])
    more = play(moved, f"--output={tmp_path / 'played'}", "--seed=8", f"--prompt={prompt}", "--max_tokens=5")
    assert more.returncode == 0, more.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "played" / "seed-8_.npy")[:20], ids[:20])
    refused = play(moved, f"--output={tmp_path / 'played'}", "--composer=Bahc")
    assert refused.returncode == 2
    assert refused.stderr == "error: unknown composer 'Bahc'; there are A, B, C, OTHER\n"


def test_another_platform_is_exported_for_and_refused_here(command, run, tmp_path):
    flags = ["--platforms=cuda,tpu", "--guidance"]
    assert command(export, f"--run={run.path}", f"--output={tmp_path / 'model'}", *flags)[0] == 0
    about = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert about["platforms"] == ["cuda", "tpu"]
    assert "guidance" in about["settings"]
    refused = play(tmp_path / "model", f"--output={tmp_path / 'played'}")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "('cuda', 'tpu')" in refused.stderr


@pytest.mark.parametrize("weights", ["auto", "bfloat16"])
def test_weights_alone(command, run, tmp_path, weights):
    flags = ["--weights-only", f"--weights={weights}"]
    code, captured = command(export, f"--run={run.path}", f"--output={tmp_path / 'model'}", *flags)
    assert code == 0, captured.err
    (path,) = (tmp_path / "model").iterdir()
    params = named(run.load_model()[1])
    half = {"embedding", "conditioning.tables.composer"} | {name for name in params if name.endswith("kernel")}
    for name, value in load_file(path).items():
        kept = value.dtype == ("bfloat16" if weights == "bfloat16" and name in half else "float32")
        assert kept, name
        np.testing.assert_array_equal(value, params.pop(name).astype(value.dtype))
    assert not params


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--platforms=cpu,cude"], "unknown 'cude' (did you mean 'cuda'?)"),
        (["--platforms="], "unknown ''"),
        (["--batch=0"], "--batch is at least 1"),
        (["--checkpoint=99"], "no checkpoint"),
        (["--run=/nowhere"], "no run in '/nowhere'"),
        ([f"--output={__file__}"], "is not empty"),
        (["--output=/dev/null/in"], "Not a directory"),
    ],
)
def test_refusals_are_one_line(command, run, tmp_path, flags, message):
    code, captured = command(export, f"--run={run.path}", f"--output={tmp_path / 'out'}", *flags)
    assert code == 2
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint_and_a_folder_with_files(command, run, tmp_path):
    bare = shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    code, captured = command(export, f"--run={bare}", f"--output={tmp_path / 'out'}")
    assert (code, captured.err.count("\n")) == (2, 1)
    assert "has no checkpoint yet" in captured.err
    code, captured = command(export, f"--run={run.path}", f"--output={bare}")
    assert (code, captured.err) == (2, f"error: {bare} is not empty; name a new folder with --output\n")


def test_help_is_fast():
    words = [sys.executable, "-m", "amt_jax.export", "--help"]
    subprocess.run(words, capture_output=True, check=True)
    begin = time.perf_counter()
    shown = subprocess.run(words, capture_output=True, check=True, text=True)
    assert time.perf_counter() - begin < 1.5
    assert "--platforms" in shown.stdout


def test_only_midi_tokens_play_alone(command, make_run, tmp_path):
    tokenizer = PianoRoll()
    rolls = make_run(tmp_path, [tokenizer.encode_frames([[60], [62]])], tokenizer)
    code, captured = command(export, f"--run={rolls.path}", f"--output={tmp_path / 'model'}")
    assert code == 2
    assert "has no pianoroll tokens; take --weights-only" in captured.err
    assert not (tmp_path / "model").exists()
    assert command(export, f"--run={rolls.path}", f"--output={tmp_path / 'model'}", "--weights-only")[0] == 0
