"""The evaluate command from a run folder to a report, and what it refuses."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from symusic import Note, Score, Track

from amt_jax import evaluate
from amt_jax.errors import UserError, run_command
from amt_jax.evaluation.report import NAMES
from amt_jax.model.params import init_params
from amt_jax.music import midi
from amt_jax.tokens.symbolic import SymbolicTokenizer
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.config import TrainConfig, transformer_config
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.step import TrainState, Validated
from configs import demo


def make_score(seed, notes=24):
    random = np.random.default_rng(seed)
    score = Score(480)
    track = Track("", 0, False)
    for beat in range(notes):
        pitch = 60 + int(random.choice([0, 2, 4, 5, 7, 9, 11]))
        track.notes.append(Note(beat * 480, 480, pitch, int(random.integers(50, 90))))
    score.tracks.append(track)
    return score


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, write_dataset):
    folder = tmp_path_factory.mktemp("dataset")
    tokenizer = SymbolicTokenizer.create("remi")
    write_dataset(folder, [tokenizer.encode(make_score(seed)) for seed in range(6)], spec=tokenizer.spec)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    from amt_jax.data.card import Card

    fields = demo.get_config().to_dict() | {"dataset": str(dataset), "context": 64}
    fields["model"] |= {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "d_model": 32, "d_ff": 32}
    config, card = TrainConfig.from_json(fields), Card.load(dataset)
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    run.create(config, card)
    params = jax.jit(lambda key: init_params(transformer_config(config, card), key))(jax.random.key(0))
    checkpoints = Checkpoints(run.checkpoints_path, keep=1)
    checkpoints.save(TrainState(params, {"none": np.zeros(1)}, np.int32(7)), 0, Validated(3.0))
    checkpoints.wait()
    checkpoints.close()
    run.metrics_path.write_text('{"step": 7, "split": "valid", "loss": 3.0}\n{"step": 8, "spl', encoding="utf-8")
    return run


def command(capsys, monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, flags)])
    with pytest.raises(SystemExit) as exit_:
        run_command(evaluate.main)
    return exit_.value.code, capsys.readouterr()


def test_report_from_a_run(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("amt_jax.evaluation.run._SHOWN", 2)
    flags = [f"--run={run.path}", f"--output={tmp_path}", "--count=3", "--seconds=2", "--seed=5"]
    code, captured = command(capsys, monkeypatch, *flags)
    assert code == 0
    assert "nats a token" in captured.out
    data = json.loads((tmp_path / NAMES[0]).read_text(encoding="utf-8"))
    assert list(data["likelihood"]) == ["composer given", "composer not given"]
    assert data["likelihood"]["composer given"]["pieces"] == 6
    assert data["music"]["note_density"]["counted"] == {"samples": 3, "random": 3, "real": 6}
    assert data["music"]["scale_consistency"]["means"]["real"]["value"] == 1
    assert data["about"]["parameters sha256"]
    assert [sample["midi"] for sample in data["samples"]] == ["samples/sample_01.mid", "samples/sample_02.mid"]
    for sample in data["samples"]:
        assert (tmp_path / sample["midi"]).exists()
        assert not sample["audio"] or (tmp_path / sample["audio"]).exists()
    assert (tmp_path / "samples" / "sample_03.mid").exists()  # drawn or not, what was judged is there
    page = (tmp_path / NAMES[2]).read_text(encoding="utf-8")
    assert "<h2>Training</h2>" in page

    again = tmp_path / "again"
    command(capsys, monkeypatch, *flags[:1], f"--output={again}", *flags[2:])
    assert (again / NAMES[0]).read_bytes() == (tmp_path / NAMES[0]).read_bytes()
    # The samples of a report can be judged again where they are.
    command(capsys, monkeypatch, *flags[:2], f"--samples={tmp_path / 'samples'}", *flags[2:])
    assert json.loads((tmp_path / NAMES[0]).read_text(encoding="utf-8"))["music"] == data["music"]


def test_given_samples_are_judged(run, tmp_path, capsys, monkeypatch):
    folder, output = tmp_path / "mine", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    midi.save(make_score(100), folder / "a.MID")
    midi.save(make_score(101), folder / "deep" / "b.mid")
    (folder / "a.mp3").write_bytes(b"sound")
    (folder / "broken.mid").write_bytes(b"MThd nonsense")
    flags = [f"--run={run.path}", f"--output={output}", f"--samples={folder}", "--count=2", "--checkpoint=7"]
    code, captured = command(capsys, monkeypatch, *flags)
    assert code == 0
    assert "left out" in captured.err
    assert "broken.mid" in captured.err
    data = json.loads((output / NAMES[0]).read_text(encoding="utf-8"))
    assert [(sample["name"], sample["midi"]) for sample in data["samples"]] == [
        ("a", "samples/sample_01.mid"),
        ("deep/b", "samples/sample_02.mid"),
    ]
    assert (output / data["samples"][0]["audio"]).read_bytes() == b"sound"
    assert data["music"]["scale_consistency"]["means"]["samples"]["value"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split=nonsense"], "no records in split 'nonsense'"),
        (["--checkpoint=99"], "no checkpoint"),
        (["--count=0"], "at least 1"),
        (["--seconds=-1"], "seconds"),
        (["--dataset=/nowhere"], "no dataset.json"),
        (["--run=/nowhere"], "no run in '/nowhere'"),
        (["--samples=/nowhere"], "no readable .mid"),
    ],
)
def test_refusals_are_one_line(run, tmp_path, capsys, monkeypatch, flags, message):
    code, captured = command(capsys, monkeypatch, f"--run={run.path}", f"--output={tmp_path / 'out'}", *flags)
    assert code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_refused(run, tmp_path, write_dataset, capsys, monkeypatch):
    tokenizer = SymbolicTokenizer.create("tsd")
    write_dataset(tmp_path / "tsd", [np.arange(10, 20)], spec=tokenizer.spec)
    flags = [f"--run={run.path}", f"--output={tmp_path / 'out'}", f"--dataset={tmp_path / 'tsd'}"]
    code, captured = command(capsys, monkeypatch, *flags)
    assert code == 2
    assert "another vocabulary" in captured.err


def test_a_moved_dataset_is_named(run, tmp_path):
    from amt_jax.evaluation.run import open_records

    with pytest.raises(UserError, match="--dataset"):
        open_records(run, tmp_path / "gone", "test", named=False)


def test_a_damaged_shard_is_refused(run, dataset, tmp_path, capsys, monkeypatch):
    shutil.copytree(dataset, tmp_path / "damaged")
    shard = sorted((tmp_path / "damaged").glob("test-*.array_record"))[0]
    data = bytearray(shard.read_bytes())
    data[200] ^= 255
    shard.write_bytes(data)
    flags = [f"--run={run.path}", f"--output={tmp_path / 'out'}", f"--dataset={tmp_path / 'damaged'}"]
    code, captured = command(capsys, monkeypatch, *flags)
    assert code == 2
    assert "is damaged (sha256 differs)" in captured.err


def test_conditions_are_matched_by_name(run, dataset, tmp_path):
    """A dataset that numbers its composers otherwise is told by the run's numbers."""
    from amt_jax.data.card import Card, Vocabulary
    from amt_jax.evaluation.run import evaluate_run

    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    card = Card.load(other)
    dataclasses.replace(card, conditions={"composer": Vocabulary("categorical", ("B", "A"), (1, 1))}).save(other)
    ours, theirs = (
        evaluate_run(run, tmp_path / str(number), dataset=str(folder), count=1, seconds=1.0).likelihoods
        for number, folder in enumerate((dataset, other))
    )
    assert ours == theirs


def test_help_is_fast():
    code = "import sys; from amt_jax.evaluate import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('heavy:', {'jax', 'matplotlib', 'symusic'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--checkpoint" in out
    assert "heavy: set()" in out


def test_two_processes_score_what_one_does(run, tmp_path, capsys, monkeypatch):
    """Six pieces are shared unevenly, and each still counts once."""
    flags = [f"--run={run.path}", "--split=train", "--count=2", "--seconds=3"]
    code, _ = command(capsys, monkeypatch, *flags, f"--output={tmp_path / 'one'}")
    assert code == 0
    words = [sys.executable, "-m", "amt_jax.evaluate", *flags, f"--output={tmp_path / 'two'}", "--mesh=data=2"]
    launcher = [sys.executable, "-m", "launch.local", "--processes=2", "--devices=2", "--"]
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / NAMES[0]).read_text())["likelihood"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert [two[name][each] for each in ("pieces", "tokens", "notes")] == [
            one[name][each] for each in ("pieces", "tokens", "notes")
        ]
        for figure in ("nats_per_token", "nats_per_note", "accuracy"):
            assert two[name][figure] == pytest.approx(one[name][figure], rel=1e-5), figure
    assert done.stdout.count("report: ") == 1  # the first process speaks for both
