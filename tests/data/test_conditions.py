"""What a network is told of a piece: which caption, in which form, and what is refused."""

import dataclasses
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amt_jax.data.captions import CaptionTable
from amt_jax.data.card import Card, Vocabulary
from amt_jax.data.conditions import Conditions, open_conditions
from amt_jax.data.pipeline import Augmentation, Records, Rows
from amt_jax.data.plan import EvalPlan, TrainPlan
from amt_jax.errors import UserError
from amt_jax.model.conditioning import ConditionConfig
from amt_jax.text.clusters import Clusters
from data_prep import cluster, encode
from data_prep.dataset.captions import register
from tests.captioned import caption, write_captioned

ROOT = Path(__file__).parents[2]
MADE, HUMAN, KEYED = "a slow waltz", "my grandmother danced to this waltz", "a jig in G major"
SILENT = "zzz"  # the test split's, so unknown to a table of words fitted on train
TRAIN = [
    [caption(MADE), caption(HUMAN, human=True), caption(KEYED, names_key=True)],
    [caption(KEYED, names_key=True)],
    [],
    [caption(text) for text in ("a happy reel", "a reel for fiddle", "a fast jig", "a slow air")],
]


@dataclasses.dataclass
class Network:
    """As much of a TransformerConfig as is asked for."""

    conditions: tuple[ConditionConfig, ...]


def network(folder, text="prefix", length=1, semantic=False):
    sizes = Card.load(folder).conditions
    wanted = [ConditionConfig("text", sizes["text"].size, text, length)]
    if semantic:
        wanted.append(ConditionConfig("semantic", sizes["semantic"].size, "prefix"))
    return Network(tuple(wanted))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned") / "dataset"
    write_captioned(folder, {"train": TRAIN, "test": [[caption(SILENT)], [caption(MADE)]]})
    with pytest.MonkeyPatch.context() as patch:
        for module, flag in ((encode, "--encoder=tfidf"), (cluster, "--k=2")):
            patch.setattr(sys, "argv", ["command", f"--dataset={folder}", flag])
            module.main()
    return folder


@pytest.fixture
def conditions(folder):
    return open_conditions(folder, Card.load(folder), network(folder, semantic=True))


def told(conditions, value):
    """Which caption a value is of."""
    return [
        each.text
        for row, each in enumerate(conditions.captions.captions)
        if np.array_equal(value, conditions.text(conditions.captions.states(row), conditions.captions.pooled(row)))
    ]


def random(seed):
    return np.random.default_rng(seed)


def test_a_person_s_caption_first_where_nothing_is_drawn(conditions):
    values = {"text": TRAIN[0]}
    assert told(conditions, conditions.of_piece(values)["text"]) == [HUMAN]
    assert told(conditions, conditions.of_piece({"text": TRAIN[0][::2]})["text"]) == [MADE]
    assert told(conditions, conditions.of_piece({"text": TRAIN[0][::-1]})["text"]) == [HUMAN]


def test_any_caption_is_drawn_and_none_that_names_the_key_of_a_transposed_piece(conditions):
    def drawn(transposed):
        found = [conditions.of_piece({"text": TRAIN[0]}, random(n), transposed=transposed) for n in range(60)]
        return {text for each in found for text in told(conditions, each["text"])}

    assert drawn(False) == {MADE, HUMAN, KEYED}
    assert drawn(True) == {MADE, HUMAN}
    for seed in (None, 0):
        found = conditions.of_piece({"text": TRAIN[1]}, seed and random(seed), transposed=True)
        for name in ("text", "semantic"):
            np.testing.assert_array_equal(found[name], np.eye(found[name].shape[1])[:1])


def test_nothing_known_is_null(conditions):
    for values in ({}, {"text": []}, {"composer": "Bach"}):
        for value in conditions.of_piece(values).values():
            np.testing.assert_array_equal(value, np.eye(value.shape[1])[:1])
            assert value.dtype == np.float16


def test_a_caption_that_says_nothing_to_the_encoder_is_null_and_has_no_token(conditions):
    row = conditions.captions.index(SILENT)
    assert conditions.captions.semantic[row] == -1
    for value in conditions.of_piece({"text": [caption(SILENT)]}).values():
        np.testing.assert_array_equal(value, np.eye(value.shape[1])[:1])


def test_the_semantic_token_is_that_of_the_caption_told(conditions):
    tokens = set()
    for seed in range(40):
        found = conditions.of_piece({"text": TRAIN[3] + TRAIN[0]}, random(seed))
        (text,) = told(conditions, found["text"])
        token = conditions.captions.semantic[conditions.captions.index(text)]
        np.testing.assert_array_equal(found["semantic"], np.eye(3)[[token + 1]])
        tokens.add(int(token))
    assert tokens == {0, 1}


def test_attended_to_or_as_one_vector(conditions):
    """States in their order behind null's for `cross`, cut to its length; the pooled vector for the other ways."""
    states = np.array([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]], np.float16)
    pooled = np.array([1.0, 1.0], np.float16)
    vocabularies = {"text": Vocabulary("text", length=3, width=2)}
    cross, short, one = (Conditions(vocabularies, {"text": length}) for length in (5, 2, 1))
    null = [1, 0, 0]
    rows = [null, [0, 0.6, 0.8], [0, 0, -1], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(cross.text(states, pooled), rows, atol=1e-3)
    np.testing.assert_allclose(short.text(states, pooled), rows[:2], atol=1e-3)
    np.testing.assert_allclose(one.text(states, pooled), [[0, 0.5**0.5, 0.5**0.5]], atol=1e-3)
    empty = states[:0], np.zeros(2, np.float16)
    np.testing.assert_array_equal(cross.text(*empty), [null] + [[0, 0, 0]] * 4)
    np.testing.assert_array_equal(one.text(*empty), [null])


def captions_of(rows, plan, epoch):
    """Record -> the captions told in the rows of an epoch."""
    found = {}
    for index in range(epoch * plan.rows_per_epoch, (epoch + 1) * plan.rows_per_epoch):
        row = rows[index]
        for segment, span in enumerate(plan.row(index)[1]):
            found.setdefault(span.record, set()).add(row["conditions"]["text"][segment].tobytes())
    return found


def test_all_windows_of_a_piece_are_told_one_caption_and_another_in_other_epochs(folder, conditions):
    records = Records(folder, conditions_card := Card.load(folder), "train")
    assert conditions_card.splits["train"].records == 4
    plan = TrainPlan(records.lengths, 3, 0)  # three windows a piece
    rows, again = (Rows(records, plan, conditions, seed=5) for _ in range(2))
    epochs = [captions_of(rows, plan, epoch) for epoch in range(12)]
    assert all(len(captions) == 1 for epoch in epochs for captions in epoch.values())
    assert len({next(iter(epoch[3])) for epoch in epochs}) == 4
    # Whoever reads it, and in whatever order.
    assert [captions_of(again, plan, epoch) for epoch in reversed(range(12))] == epochs[::-1]
    other = Rows(records, plan, conditions, seed=6)
    assert [captions_of(other, plan, epoch) for epoch in range(12)] != epochs


def test_pieces_that_were_transposed_are_told_no_key(folder, conditions):
    """In the epochs in which a piece stays where it was, its caption stays true."""
    records = Records(folder, Card.load(folder), "train")
    plan = TrainPlan(records.lengths, 8, 0)
    rows = Rows(records, plan, conditions, Augmentation(transpose=2), seed=1)
    null = conditions.of_piece({})["text"]
    seen = set()
    for index in range(40 * plan.rows_per_epoch):
        row, (_, spans) = rows[index], plan.row(index)
        for segment, span in enumerate(spans):
            if span.record == 1:
                here = row["segments"] == segment + 1
                plain = np.concatenate([records[1].ids, [2]])[span.start : span.stop]
                moved = bool((row["targets"][here, 0] != plain).any())
                told_nothing = np.array_equal(row["conditions"]["text"][segment], null)
                if (plain != 2).any():
                    assert moved == told_nothing
                    seen.add(moved)
    assert seen == {True, False}


def test_evaluation_draws_nothing(folder, conditions):
    records = Records(folder, Card.load(folder), "train")
    plan = EvalPlan(records.lengths, 8, 8)
    rows = [Rows(records, plan, conditions, seed=seed) for seed in range(3)]
    for index in range(len(plan.rows)):
        first, *others = (row[index]["conditions"]["text"] for row in rows)
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("name", ["tempo", "density", "mood", "text", "semantic", "instruments"])
def test_varied_tempo_would_make_what_is_told_untrue(folder, name, spec):
    records = Records(folder, dataclasses.replace(Card.load(folder), spec=spec), "train")
    kinds = {"tempo": Vocabulary("scalar", knots=(1.0, 2.0)), "text": Vocabulary("text", width=2)}
    kinds["density"], labels = kinds["tempo"], Vocabulary("multi_label", ("a",), (1,))
    conditions, plan = Conditions({name: kinds.get(name, labels)}, {name: 1}), TrainPlan(records.lengths, 8, 0)
    if name == "instruments":
        Rows(records, plan, conditions, Augmentation(tempo=1))
    else:
        with pytest.raises(UserError, match=f"augmentation.tempo would make untrue what the model is told as {name};"):
            Rows(records, plan, conditions, Augmentation(tempo=1))
    Rows(records, plan, conditions, Augmentation(velocity=1))


def test_a_caption_that_is_not_in_the_table_is_named(conditions):
    with pytest.raises(UserError, match=r"caption 'unheard of' is not in .*; run python -m data_prep.encode again"):
        conditions.of_piece({"text": [caption("unheard of")]})


def test_pieces_that_came_after_their_captions_were_encoded_are_told_before_training(tmp_path, folder):
    """Even those whose caption would not be drawn in the first epochs."""
    conditions = open_conditions(folder, Card.load(folder), network(folder))
    write_captioned(tmp_path, {"train": [*TRAIN, [caption("unheard of")]]})
    records = Records(tmp_path, Card.load(tmp_path), "train")
    with pytest.raises(UserError, match=r"other pieces .*; run python -m data_prep.encode again"):
        Rows(records, TrainPlan(records.lengths, 8, 0), conditions)


def test_another_encoder_or_other_clusters_are_refused(folder, conditions):
    card = Card.load(folder)
    text, semantic = card.conditions["text"], card.conditions["semantic"]

    def opened(**changed):
        altered = dataclasses.replace(card, conditions=dict(card.conditions) | changed)
        return open_conditions(folder, altered, network(folder, semantic=True))

    with pytest.raises(UserError, match=r"encoded by tfidf \(.{12}\), the model knows BERT \(ffffffffffff\)"):
        opened(text=dataclasses.replace(text, encoder="BERT", digest="f" * 64))
    with pytest.raises(UserError, match=r"the clusters in .* are not those"):
        opened(semantic=dataclasses.replace(semantic, digest="f" * 64))
    assert semantic.digest == conditions.captions.card.files["clusters.json"]


def test_a_model_of_semantic_tokens_alone_needs_the_clusters(folder, tmp_path):
    """Of a dataset that was encoded by the same encoder, but not clustered."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    table = CaptionTable.load(copy / "text")
    files = {name: each for name, each in table.card.files.items() if name not in ("semantic.npy", "clusters.json")}
    dataclasses.replace(table.card, files=files).save(copy / "text")
    register(copy)
    with pytest.raises(UserError, match=r"the clusters in .* are not those"):
        open_conditions(copy, Card.load(folder), network(folder, semantic=True))
    assert Clusters.load(folder / "text").k == 2
    open_conditions(copy, Card.load(folder), network(folder))


KILLED = """
import os, signal, sys
from data_prep import cluster
left, real = int(sys.argv.pop()), os.replace
def replace(*args):
    global left
    real(*args)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
cluster.main()
"""


@pytest.mark.parametrize("cards", [1, 2])
def test_clustering_that_was_killed_between_its_cards_is_to_be_run_again(folder, tmp_path, monkeypatch, cards):
    copy = shutil.copytree(folder, tmp_path / "copy")
    flags = [f"--dataset={copy}", "--k=3"]
    done = subprocess.run([sys.executable, "-c", KILLED, *flags, str(cards)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(UserError, match=r"was interrupted; run python -m data_prep.cluster --dataset=.*copy again"):
        open_conditions(copy, Card.load(copy), network(copy, semantic=True))
    monkeypatch.setattr(sys, "argv", ["command", *flags])
    cluster.main()
    open_conditions(copy, Card.load(copy), network(copy, semantic=True))


def test_captions_that_were_never_encoded(tmp_path, folder):
    write_captioned(tmp_path, {"train": TRAIN})
    with pytest.raises(UserError, match=r"the captions are not encoded; run python -m data_prep.encode"):
        open_conditions(tmp_path, Card.load(folder), network(folder))
