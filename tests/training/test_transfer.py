"""Starting from a run that was told other things: what fits is copied, the rest is new."""

import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import pytest

from amt_jax.data.card import Card, Vocabulary
from amt_jax.errors import UserError
from amt_jax.training.loop import train
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.transfer import transfer
from data_prep import cluster, encode
from tests.captioned import caption, write_captioned
from tests.untrained import fresh_params, save_run

TEXTS = ("a slow waltz", "a fast reel", "a reel for fiddle", "an air", "slow air for harp", "a happy jig")
SMALL = {"model.num_layers": 1, "augmentation.transpose": 0, "steps": 1, "validate_every": 1, "save_every": 1}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A dataset with captions, encoded and clustered."""
    folder = tmp_path_factory.mktemp("words") / "dataset"
    write_captioned(folder, {"train": [[caption(text)] for text in TEXTS], "valid": [[caption(TEXTS[0])]]})
    (folder / "tokenizer.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        for module, flag in ((encode, "--encoder=tfidf"), (cluster, "--k=2")):
            patch.setattr(sys, "argv", ["command", f"--dataset={folder}", flag])
            module.main()
    return folder


@pytest.fixture(scope="module")
def configure(make_config, words):
    """A function: names of conditions, overrides -> a config."""

    def make(names, **overrides):
        config = make_config(SMALL | {"dataset": str(words)} | overrides)
        return dataclasses.replace(config, conditions={name: config.conditions[name] for name in names})

    return make


def leaves(params):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def test_text_comes_to_a_model_without(words, configure, tmp_path):
    """All that both have is copied; attention to words and tables of texts are new."""
    card = Card.load(words)
    source = save_run(tmp_path / "source", configure(()), card)
    config = configure(("text", "semantic"), init=str(source.path))
    fresh = fresh_params(config, card, 1)
    old, made = leaves(source.load_model()[1]), leaves(transfer(source, config, card, fresh))
    assert made.keys() == leaves(fresh).keys() > old.keys()
    for name, leaf in made.items():
        np.testing.assert_array_equal(leaf, old[name] if name in old else leaves(fresh)[name], err_msg=name)
    new = set(made) - set(old)
    assert any("cross" in name for name in new)
    assert {"['conditioning']['tables']['text']", "['conditioning']['tables']['semantic']"} <= new

    run = RunFolder(tmp_path / "run")
    train(config, run)
    assert json.loads(run.metrics_path.read_text().splitlines()[0])["step"] == 1
    # And back: a model without text takes what it has use for.
    bare = configure(())
    lost = leaves(transfer(run, bare, card, fresh_params(bare, card, 2)))
    assert lost.keys() == old.keys()
    trained = leaves(run.load_model()[1])
    for name, leaf in lost.items():
        np.testing.assert_array_equal(leaf, trained[name], err_msg=name)


def test_tables_are_copied_where_they_mean_the_same(words, configure, tmp_path):
    """Of texts by the encoder's digest, of semantic tokens by their clusters', of numbers by their knots."""
    card, names = Card.load(words), ("text", "semantic", "tempo")
    tempo = Vocabulary("scalar", knots=(60.0, 90.0, 120.0))
    card = dataclasses.replace(card, conditions=dict(card.conditions) | {"tempo": tempo})
    source = save_run(tmp_path / "source", configure(names), card)
    config = configure(names, init=str(source.path))
    fresh = fresh_params(config, card, 1)
    old, new = (tree["conditioning"]["tables"] for tree in (source.load_model()[1], fresh))

    def tables(**changed):
        altered = dataclasses.replace(card, conditions=dict(card.conditions) | changed)
        return transfer(source, config, altered, fresh)["conditioning"]["tables"]

    same = tables()
    for name in names:
        np.testing.assert_array_equal(same[name], old[name])
    changed = tables(
        text=dataclasses.replace(card.conditions["text"], digest="f" * 64),
        semantic=dataclasses.replace(card.conditions["semantic"], digest="f" * 64),
        tempo=dataclasses.replace(tempo, knots=(60.0, 91.0, 120.0)),
    )
    for name in names:  # null means the same to all
        np.testing.assert_array_equal(changed[name][0], old[name][0])
        np.testing.assert_array_equal(changed[name][1:], new[name][1:])
        assert not np.array_equal(changed[name], old[name])


def test_a_run_is_not_gone_on_with_after_its_texts_were_encoded_otherwise(words, configure, tmp_path, monkeypatch):
    dataset = tmp_path / "dataset"
    shutil.copytree(words, dataset)
    config, run = configure(("semantic",), dataset=str(dataset)), RunFolder(tmp_path / "run")
    train(config, run)
    monkeypatch.setattr(sys, "argv", ["command", f"--dataset={dataset}", "--k=3"])
    cluster.main()
    with pytest.raises(UserError, match=r"has other tokens or conditions than .*--config.init="):
        train(dataclasses.replace(config, steps=2), run, allow_config_change=True)


@pytest.mark.parametrize("first", [("semantic",), ()])
def test_a_run_does_not_gain_or_lose_conditions(words, configure, tmp_path, first):
    """A dataset whose texts were encoded only after the run began, or whose clusters are gone."""
    card, names = Card.load(words), ("semantic",)
    without = dataclasses.replace(card, conditions={})
    datasets = {}
    for name, each in (("with", card), ("without", without)):
        shutil.copytree(words, tmp_path / name)
        each.save(tmp_path / name)
        datasets[name] = str(tmp_path / name)
    begun, then = ("with", "without") if first else ("without", "with")
    run = save_run(tmp_path / "run", configure(names, dataset=datasets[begun]), Card.load(datasets[begun]))
    with pytest.raises(UserError, match="has other tokens or conditions than"):
        train(configure(names, dataset=datasets[then]), run)
