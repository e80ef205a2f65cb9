import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amt_jax import storage
from amt_jax.data.captions import CARD, CaptionTable
from amt_jax.data.card import Card
from amt_jax.errors import UserError
from amt_jax.text.clusters import Clusters
from amt_jax.text.encoder import load_encoder
from data_prep import cluster, encode
from data_prep.words.encoding import WORK
from tests.captioned import caption, write_captioned

ROOT = Path(__file__).parents[2]
BERT = ROOT / "tests" / "pretrained" / "goldens" / "bert"
TRAIN = [
    [caption("A sad jazz ballad", human=True), caption("a slow waltz in A minor", names_key=True)],
    [],
    [caption("A sad jazz ballad"), caption(" \u200b")],
    [caption("a happy folk tune"), caption("fast folk tune with violin")],
]
TEST = [[caption("a baroque fugue"), caption("a slow waltz in A minor", names_key=True)]]


def run(monkeypatch, module, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *flags])
    module.main()


@pytest.fixture
def dataset(tmp_path):
    write_captioned(tmp_path / "dataset", {"train": TRAIN, "test": TEST})
    return tmp_path / "dataset"


@pytest.fixture(params=["tfidf", str(BERT)], ids=["tfidf", "bert"])
def encoder(request):
    return request.param


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "text").iterdir()}


def test_each_unique_caption_is_encoded_once(dataset, encoder, monkeypatch, capsys):
    run(monkeypatch, encode, f"--dataset={dataset}", f"--encoder={encoder}")
    assert "empty captions, left out: 1" in capsys.readouterr().out
    table = CaptionTable.load(dataset / "text")
    table.verify()
    rows = [(each.text, each.human, each.names_key, each.count, each.train) for each in table.captions]
    assert rows == [
        ("A sad jazz ballad", True, False, 2, 2),
        ("a baroque fugue", False, False, 1, 0),
        ("a happy folk tune", False, False, 1, 1),
        ("a slow waltz in A minor", False, True, 2, 1),
        ("fast folk tune with violin", False, False, 1, 1),
    ]
    assert (len(table), table.card.captions, table.card.human) == (5, 5, 1)
    kept = load_encoder(dataset / "text")
    assert kept.digest == table.card.digest
    states = kept.encode([each.text for each in table.captions])
    for row in range(len(table)):
        exact = states.values[row][states.mask[row]]
        np.testing.assert_allclose(table.states(row), exact, rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(table.pooled(row), kept.pool(states)[row], rtol=2e-3, atol=1e-5)
    np.testing.assert_array_equal(table.lengths, states.mask.sum(1))
    assert not (dataset / WORK).exists()


def test_tfidf_is_fitted_on_train_only(dataset, monkeypatch):
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    terms = set(load_encoder(dataset / "text").terms)
    assert {"waltz", "folk"} <= terms
    assert not {"baroque", "fugue"} & terms
    table = CaptionTable.load(dataset / "text")
    assert not len(table.states(table.index("a baroque fugue")))


def test_any_character_of_a_caption_survives(dataset, monkeypatch):
    """Also those that end a line to Python: U+0085, U+2028 and U+2029."""
    text = "".join(map(chr, [*range(1, 0x300), *range(0x2000, 0x2070), 0xFEFF])) + "a waltz"
    write_captioned(dataset, {"train": [*TRAIN, [caption(text)]], "test": TEST})
    run(monkeypatch, encode, f"--dataset={dataset}")
    assert text in CaptionTable.load(dataset / "text")


def test_running_again_does_nothing(dataset, monkeypatch, capsys):
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    before = content(dataset), (dataset / "text").stat()
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    assert (content(dataset), (dataset / "text").stat()) == before
    assert "nothing new" in capsys.readouterr().out


def test_new_captions_join_those_that_are_there(dataset, encoder, monkeypatch, capsys, tmp_path):
    more = [*TRAIN, [caption("an old blues"), caption("zither in the rain")]]
    run(monkeypatch, encode, f"--dataset={dataset}", f"--encoder={encoder}")
    old, before = CaptionTable.load(dataset / "text"), Card.load(dataset)
    write_captioned(dataset, {"train": more, "test": TEST})
    old.require(before)
    with pytest.raises(UserError, match=r"other pieces are in the dataset than when .*; run python -m data_prep"):
        old.require(Card.load(dataset))
    run(monkeypatch, encode, f"--dataset={dataset}", f"--encoder={encoder}")
    assert "2 captions encoded" in capsys.readouterr().out
    table = CaptionTable.load(dataset / "text")
    table.require(Card.load(dataset))
    assert "an old blues" in table
    assert table.card.digest == old.card.digest
    for row, each in enumerate(old.captions):
        np.testing.assert_array_equal(table.states(table.index(each.text)), old.states(row))
    if encoder != "tfidf":  # TF-IDF stays as it was fitted; a network's table is that of the captions alone.
        write_captioned(tmp_path / "at once", {"train": more, "test": TEST})
        run(monkeypatch, encode, f"--dataset={tmp_path / 'at once'}", f"--encoder={encoder}")
        other = CaptionTable.load(tmp_path / "at once" / "text")
        assert other.captions == table.captions
        np.testing.assert_allclose(other.pooled(slice(None)), table.pooled(slice(None)), atol=1e-3)


def test_clusters_stay_with_their_encoder(dataset, monkeypatch):
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    run(monkeypatch, cluster, f"--dataset={dataset}", "--k=2:3")
    before = Clusters.load(dataset / "text")
    write_captioned(dataset, {"train": [*TRAIN, [caption("happy folk tune, fast")]], "test": TEST})
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    table = CaptionTable.load(dataset / "text")
    table.verify()
    np.testing.assert_array_equal(Clusters.load(dataset / "text").centroids, before.centroids)
    assert table.semantic[table.index("happy folk tune, fast")] == table.semantic[table.index("a happy folk tune")]
    assert table.semantic[table.index("a baroque fugue")] == -1
    run(monkeypatch, encode, f"--dataset={dataset}", f"--encoder={BERT}")
    assert CaptionTable.load(dataset / "text").semantic is None
    assert not (dataset / "text" / "clusters.json").exists()


def test_without_a_name_the_encoder_stays(dataset, monkeypatch, capsys):
    run(monkeypatch, encode, f"--dataset={dataset}", f"--encoder={BERT}", "--pooling=cls", "--max-tokens=16")
    run(monkeypatch, cluster, f"--dataset={dataset}", "--k=2")
    before = content(dataset)
    run(monkeypatch, encode, f"--dataset={dataset}")
    assert content(dataset) == before
    states = dataset / "text" / "states.npy"
    states.write_bytes(states.read_bytes()[:-1])
    capsys.readouterr()
    run(monkeypatch, encode, f"--dataset={dataset}")
    said = capsys.readouterr().out
    assert "made anew" in said
    assert "its clusters go with it" in said
    after = content(dataset)
    assert all(after[name] == before[name] for name in ("encoder.json", "states.npy", "pooled.npy"))
    assert "clusters.json" not in after
    (dataset / "text" / "encoder.json").write_text("{")
    with pytest.raises(UserError, match=r"encoder.json is damaged .* that you name with --encoder"):
        run(monkeypatch, encode, f"--dataset={dataset}")
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    assert CaptionTable.load(dataset / "text").card.encoder == "tfidf"


def test_a_damaged_table_is_named_and_made_anew(dataset, monkeypatch, capsys):
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    whole = content(dataset)
    for name in ("states.npy", "pooled.npy", "offsets.npy", "captions.jsonl", "encoder.json"):
        path = dataset / "text" / name
        data = bytearray(whole[name])
        data[-3] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{name} is damaged|captions in .* are damaged"):
            CaptionTable.load(dataset / "text").verify()
        path.write_bytes(whole[name][:-1])
        with pytest.raises(UserError, match="encode again"):
            CaptionTable.load(dataset / "text").verify()
        path.write_bytes(whole[name])
    path.write_bytes(data)
    capsys.readouterr()
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    assert "made anew" in capsys.readouterr().out
    assert content(dataset) == whole
    (dataset / "text" / CARD).write_text(json.dumps({"schema": 2}))
    with pytest.raises(UserError, match="update amt_jax"):
        CaptionTable.load(dataset / "text")


def test_what_cannot_be_encoded_is_said(dataset, tmp_path, monkeypatch):
    write_captioned(tmp_path / "silent", {"train": [[], []]})
    with pytest.raises(UserError, match=r"no record of .* has a caption"):
        run(monkeypatch, encode, f"--dataset={tmp_path / 'silent'}", "--encoder=tfidf")
    write_captioned(tmp_path / "untrained", {"test": TEST})
    with pytest.raises(UserError, match="train split has a caption"):
        run(monkeypatch, encode, f"--dataset={tmp_path / 'untrained'}", "--encoder=tfidf")
    with pytest.raises(UserError, match=r"no dataset\.json"):
        run(monkeypatch, encode, f"--dataset={tmp_path / 'nothing'}", "--encoder=tfidf")
    for flags in ([], ["--encoder=tfidf"]):
        with pytest.raises(UserError, match="go with a BERT checkpoint; name it with --encoder"):
            run(monkeypatch, encode, f"--dataset={dataset}", *flags, "--pooling=cls")
    with storage.lock(dataset, wait=False), pytest.raises(UserError, match="another process"):
        run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    with pytest.raises(UserError, match="not encoded; run"):
        CaptionTable.load(dataset / "text")


KILLED = """
import os, signal, sys
from data_prep import encode
from data_prep.words import encoding
encoding.CHUNK = 8
kill, steps = sys.argv.pop(), []
def killing(name):
    real = getattr(os, name)
    def call(*args):
        real(*args)
        steps.append(args)
        if len(steps) == int(kill):
            os.kill(os.getpid(), signal.SIGKILL)
    return call
os.replace = killing("replace")
encode.run_command(encode.main)
"""


def test_a_kill_at_any_step_loses_and_breaks_nothing(tmp_path):
    first = [[caption(f"folk tune {i}")] for i in range(3)]
    dataset = tmp_path / "dataset"
    work = dataset / WORK

    def call(kill: int) -> str:
        """Runs the command, killed after the `kill`-th file or folder that got its name; 0 lets it end."""
        command = [sys.executable, "-c", KILLED, f"--dataset={dataset}", "--encoder=tfidf", str(kill)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == (-signal.SIGKILL if kill else 0), done.stderr
        return done.stdout

    write_captioned(dataset, {"train": first})
    call(0)
    write_captioned(dataset, {"train": [*first, *([caption(f"sad waltz {i}")] for i in range(40))]})
    call(4)
    assert len(list(work.glob("*.npz"))) == 4, "of five chunks"
    assert len(CaptionTable.load(dataset / "text")) == 3, "the old table is there until the new one is whole"
    call(2)  # the last chunk and the card of the new table
    assert (work / "draft" / CARD).exists()
    call(2)  # the card again, and the name by which the table counts as whole
    assert len(CaptionTable.load(work / "ready")) == 43
    assert len(CaptionTable.load(dataset / "text")) == 3
    call(1)  # the old table went away
    with pytest.raises(UserError, match=r"run python -m data_prep\.encode"):
        CaptionTable.load(dataset / "text")
    call(1)  # the new one is in its place
    assert "nothing new" in call(0)
    table = CaptionTable.load(dataset / "text")
    table.verify()
    assert len(table) == 43
    assert not work.exists()
