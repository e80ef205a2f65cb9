"""The likelihood of frames: it is one of frames, it is the protocol's, and leaks are found."""

import dataclasses
import itertools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from amt_jax import evaluate
from amt_jax.data.card import Card
from amt_jax.data.conditions import Conditions
from amt_jax.data.pipeline import Held
from amt_jax.data.record import Record
from amt_jax.errors import run_command
from amt_jax.evaluation import frames
from amt_jax.evaluation.metrics import bootstrap
from amt_jax.model.config import TransformerConfig
from amt_jax.model.transformer import Transformer
from amt_jax.tokens.grammar import Grammar
from amt_jax.tokens.pianoroll import PianoRoll

THREE = PianoRoll(pitches=(60, 62))
EIGHT = [list(each) for size in range(4) for each in itertools.combinations((60, 61, 62), size)]
CONTEXT = 16
CONFIG = TransformerConfig(
    vocab_size=THREE.spec.vocab_size, num_streams=1, num_layers=2, num_heads=2, num_kv_heads=2, d_model=16, d_ff=32,
    context_length=CONTEXT, dropout=0.5, norm="layernorm", activation="gelu", qk_norm=False, bias=True,
    rope_theta=10_000.0, clock="tokens", history=(), remat="none", dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return nnx.to_pure_dict(nnx.state(Transformer(CONFIG, rngs=nnx.Rngs(0)), nnx.Param))


def record(piece, name="a", tokenizer=THREE):
    return Record(tokenizer.encode_frames(piece), {}, name, name, name)


def score(params, pieces, **fields):
    records = Held(Card(THREE.spec, {}), [record(piece, str(index)) for index, piece in enumerate(pieces)])
    return frames.evaluate_frames(CONFIG, params, records, Conditions({}, {}), THREE, **fields)


def draw(length, seed):
    random = np.random.default_rng(seed)
    return [EIGHT[index] for index in random.integers(8, size=length)]


def next_frames(params):
    """The probabilities of each of the 8 frames after 1, 2 and 13 others, which are read in several windows. [3, 8]"""
    starts = [draw(length, length) for length in (1, 2, 13)]
    pieces = [[*start, *after] for start in starts for after in ([], *([frame] for frame in EIGHT))]
    nats = np.reshape([each.nats for each in score(params, pieces)[1]], (3, 9))
    return np.exp(nats[:, :1] - nats[:, 1:])


def test_all_next_frames_together_are_certain(params):
    found = next_frames(params)
    assert len(np.unique(found.round(6))) == 24
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_without_the_mask_they_are_not(params, monkeypatch):
    size = THREE.spec.vocab_size
    monkeypatch.setattr(frames, "following", lambda grammar: np.ones((size, size), bool))
    assert (next_frames(params).sum(axis=1) < 0.99).all()


@jax.jit
def log_probabilities(params, window, may):
    """Of the next id after one window [CONTEXT], padded with -1, among those that may come. [V]"""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0))))
    segments = (window >= 0).astype(jnp.int32)[None]
    inputs = jnp.maximum(window, 0)[None, :, None]
    logits = nnx.merge(graph, params)(inputs, jnp.arange(CONTEXT)[None], segments, {})[0, segments.sum() - 1, 0]
    return jax.nn.log_softmax(jnp.where(may, logits, -jnp.inf))


def direct(params, piece):
    """Nats of the frames but the first, token by token, each in a window of its own."""
    ids = THREE.encode_frames(piece).tolist()
    inputs, total, half = [THREE.spec.bos, *ids[:-1]], 0.0, CONTEXT // 2
    for index in range(ids.index(3) + 1, len(ids)):
        start = 0 if index < CONTEXT else (index - half) // half * half
        window = np.array(inputs[start : index + 1])
        last = inputs[index]
        may = np.array([False, False, False, True, *(last < 4 or id > last for id in (4, 5, 6))])
        window = np.pad(window, (0, CONTEXT - len(window)), constant_values=-1)
        total -= float(log_probabilities(params, window, may)[ids[index]])
    return total


def test_the_protocol(params):
    pieces = [draw(length, length) for length in (1, 2, 9, 21)]
    likelihoods, scores = score(params, pieces)
    found = likelihoods["frames"]
    nats = [direct(params, piece) for piece in pieces]
    assert nats[0] == 0
    assert [each.nats for each in scores] == pytest.approx(nats, rel=1e-5)
    assert [each.frames for each in scores] == [0, 1, 8, 20]
    assert found.frames == 29
    assert found.nats_per_frame.value == pytest.approx(sum(nats) / 29, rel=1e-5)
    pairs = np.array([[each, len(piece) - 1] for each, piece in zip(nats, pieces, strict=True)])
    expected = bootstrap(lambda x: x[:, 0].sum() / max(x[:, 1].sum(), 1e-9), [pairs], 0)
    assert dataclasses.astuple(found.nats_per_frame) == pytest.approx(dataclasses.astuple(expected), rel=1e-5)
    heard = [
        sum(len(set(now) - set(before)) for before, now in itertools.pairwise(piece)) for piece in pieces
    ]  # a pitch that sounds on is no new note
    assert [each.notes for each in scores] == heard
    assert found.nats_per_note.value == pytest.approx(sum(nats) / sum(heard), rel=1e-5)
    assert found.bits_per_second.value == pytest.approx(sum(nats) / math.log(2) / (29 * 0.25), rel=1e-5)


def test_what_may_follow_is_what_the_grammar_says():
    tokenizer, random = PianoRoll(), np.random.default_rng(0)
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    table, state, last = frames.following(grammar), grammar.start(), tokenizer.spec.bos
    for _ in range(300):
        allowed = grammar.allowed(state)
        allowed[tokenizer.spec.eos] = False
        np.testing.assert_array_equal(table[last], allowed)
        last = random.choice(np.flatnonzero(allowed)[:: random.choice([1, -1])][:20])
        state = grammar.advance(state, last)


TUNE = [60, 62, 64, 65, 67, 69, 71, 72, 69, 65, 67, 64, 60, 67, 62, 64]


def played(tune, *, up=0, times=1, bass=40):
    return [[bass, pitch + up] for pitch in tune for _ in range(times)]


def test_a_melody_is_found_in_any_key_rhythm_and_harmony():
    full = PianoRoll()

    def melody(piece):
        return frames.melody(full, record(piece, tokenizer=full))

    train = [played(TUNE[::-1]), [[], *played(TUNE[3:], up=-5, times=3, bass=30), [50]]]
    own = [played(TUNE), played([60, 62, 61, 66, 67, 60, 71, 59, 69, 65, 66, 64]), played(TUNE[:8]), [[]]]
    assert frames.leaks([melody(each) for each in own], [melody(each) for each in train]) == [1, None, None, None]


def test_the_score_without_leaks(params):
    random = np.random.default_rng(1)
    tunes = [[[int(pitch)] for pitch in random.integers(60, 63, 60)] for _ in range(4)]
    train = [record(tunes[2], "known")]
    found, scores = score(params, tunes, train=train)
    assert [each.leaked_from for each in scores] == ["", "", "known", ""]
    kept = [each for each in scores if not each.leaked_from]
    without = found["frames, leaks left out"]
    assert without.pieces == 3
    assert without.nats_per_frame.value == pytest.approx(sum(x.nats for x in kept) / sum(x.frames for x in kept))


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    tokenizer, random = PianoRoll(), np.random.default_rng(0)
    pieces = [[[int(pitch)] for pitch in random.integers(50, 70, 30)] for _ in range(4)]
    folder = tmp_path_factory.mktemp("made")
    (folder / "rolls.json").write_text(json.dumps({"test": pieces}))
    made = make_run(folder, [tokenizer.encode_frames(piece) for piece in pieces], tokenizer, conditions={})
    shutil.move(made.path, folder / "moved")
    return folder / "moved"


@pytest.fixture
def command(run, monkeypatch, capsys):
    def call(*flags, run=run):
        monkeypatch.setattr("sys.argv", ["evaluate", f"--run={run}", *flags])
        with pytest.raises(SystemExit) as exit_:
            run_command(evaluate.main)
        return exit_.value.code, capsys.readouterr()

    return call


def test_a_file_of_rolls_is_scored_as_its_dataset_is(run, command, tmp_path):
    (tmp_path / "a").mkdir()
    code, captured = command("--likelihood=frames", f"--output={tmp_path / 'a'}", "--leaks")
    assert code == 0
    assert "frames, leaks left out, 0 pieces" in captured.out
    found = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [each["leaked_from"] for each in found["pieces"]] == ["0.mid", "1.mid", "2.mid", "3.mid"]
    assert found["music"] == {}
    assert "nats a frame" in (tmp_path / "a" / "report.html").read_text()
    assert (tmp_path / "a" / "report.csv").read_text().count("likelihood by piece") == 4

    shutil.move(run.parent / "dataset", run.parent / "elsewhere")
    try:
        code, captured = command("--likelihood=frames", f"--rolls={run.parent / 'rolls.json'}")
    finally:
        shutil.move(run.parent / "elsewhere", run.parent / "dataset")
    assert code == 0
    value = found["likelihood"]["frames"]["nats_per_frame"]["value"]
    assert f"frames, 4 pieces: {value:.3f} [" in captured.out
    assert "rolls.json/test/3, 29 frames: " in captured.out


def test_tokens_alone(command):
    code, captured = command("--likelihood=tokens", "--split=valid")
    assert code == 0
    assert "nats a note" in captured.out
    assert "bits a second" in captured.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "required: --output"),
        (["--rolls=x.json", "--output=x"], "go with --likelihood=frames"),
        (["--likelihood=tokens", "--leaks"], "go with --likelihood=frames"),
        (["--likelihood=frames", "--rolls=/nowhere.json"], "/nowhere.json"),
        (["--likelihood=frames", "--split=nonsense"], "no records in split 'nonsense'"),
        (["--likelihood=frame"], "invalid choice"),
    ],
)
def test_refusals_are_one_line(command, flags, message):
    code, captured = command(*flags)
    assert code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_run_of_other_tokens_has_no_frames(make_run, make_pieces, command, tmp_path):
    other = make_run(tmp_path, make_pieces([20, 30]))
    code, captured = command("--likelihood=frames", run=other.path)
    assert code == 2
    assert "has no frames but remi tokens" in captured.err
