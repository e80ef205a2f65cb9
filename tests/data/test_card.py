"""Vocabularies as vectors, and the card that carries them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amt_jax.data.card import OTHER, Card, Vocabulary
from amt_jax.errors import UserError

names = st.sampled_from("abcdefgh")
listed = st.lists(names, min_size=1, max_size=6, unique=True).map(tuple)
knots = st.lists(st.integers(-3000, 3000), min_size=2, max_size=20, unique=True).map(
    lambda values: tuple(sorted(value / 8 for value in values))
)


@given(listed, st.booleans(), names)
def test_a_name_is_one_hot_and_null_exactly_where_nothing_is_known(values, other, name):
    vocabulary = Vocabulary("categorical", (*values, OTHER) if other else values)
    found = vocabulary.vector(name)
    assert found.dtype == np.float16
    assert found.shape == (vocabulary.size,) == (1 + len(values) + other,)
    expected = values.index(name) + 1 if name in values else len(values) + 1 if other else 0
    np.testing.assert_array_equal(found, np.eye(vocabulary.size)[expected])
    np.testing.assert_array_equal(vocabulary.vector(None), np.eye(vocabulary.size)[0])


@given(listed, st.lists(names, max_size=8))
def test_names_are_multi_hot_of_unit_length(values, asked):
    vocabulary = Vocabulary("multi_label", values)
    found = vocabulary.vector(asked)
    known = {values.index(name) + 1 for name in asked if name in values} or {0}
    assert set(np.flatnonzero(found).tolist()) == known
    assert np.linalg.norm(found.astype(np.float64)) == pytest.approx(1, abs=2e-3)
    assert len(set(found[found > 0].tolist())) == 1  # none of them more than the others
    np.testing.assert_array_equal(found, vocabulary.vector(list(reversed(asked))))


@given(knots, st.floats(-1000, 1000))
def test_a_number_is_shared_between_the_knots_around_it(knots, value):
    vocabulary = Vocabulary("scalar", knots=knots)
    found = vocabulary.vector(value).astype(np.float64)
    assert found[0] == 0
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-3)
    assert len(np.flatnonzero(found)) <= 2
    held = float(np.clip(value, knots[0], knots[-1]))
    assert found[1:] @ np.array(knots) == pytest.approx(held, abs=1e-3 * (knots[-1] - knots[0]) + 1e-9)


@given(knots)
def test_a_number_is_exact_at_knots_and_beyond_the_ends_it_is_the_end(knots):
    vocabulary = Vocabulary("scalar", knots=knots)
    for place, knot in enumerate(knots, 1):
        np.testing.assert_array_equal(vocabulary.vector(knot), np.eye(vocabulary.size)[place])
    for beyond in (1, 1e9, float("inf")):
        np.testing.assert_array_equal(vocabulary.vector(knots[-1] + beyond), vocabulary.vector(knots[-1]))
        np.testing.assert_array_equal(vocabulary.vector(knots[0] - beyond), vocabulary.vector(knots[0]))
    np.testing.assert_array_equal(vocabulary.vector(None), np.eye(vocabulary.size)[0])


@given(knots, st.lists(st.floats(-500, 500), min_size=2, max_size=9).map(sorted))
def test_a_larger_number_never_stands_lower(knots, values):
    vocabulary = Vocabulary("scalar", knots=knots)
    places = [vocabulary.vector(value)[1:].astype(np.float64) @ np.arange(len(knots)) for value in values]
    assert (np.diff(places) >= -2e-3 * len(knots)).all()


def test_labels_are_a_list_and_kinds_are_known():
    with pytest.raises(ValueError, match="condition kind 'txet'"):
        Vocabulary("txet")


FULL = {
    "composer": Vocabulary("categorical", ("Bach", OTHER), (3, 1)),
    "genre": Vocabulary("multi_label", ("folk", "jazz"), (2, 2)),
    "tempo": Vocabulary("scalar", knots=(60.0, 90.5, 120.0)),
    "text": Vocabulary("text", encoder="tfidf", digest="d" * 64, length=1, width=7),
    "semantic": Vocabulary("categorical", ("0", "1"), (4, 2), digest="c" * 64),
}


def test_a_card_comes_back_as_it_was(spec, tmp_path):
    card = Card(spec, {}, FULL)
    card.save(tmp_path)
    assert Card.load(tmp_path) == card
    assert Card.load(tmp_path).conditions["text"].size == 8


def test_a_card_of_the_first_schema_is_read(spec, tmp_path):
    """It knew names and their counts only."""
    card = Card(spec, {}, {"composer": FULL["composer"]})
    card.save(tmp_path)
    data = json.loads((tmp_path / "dataset.json").read_text())
    old = {"kind": "categorical", "values": ["Bach", OTHER], "counts": [3, 1]}
    (tmp_path / "dataset.json").write_text(json.dumps(data | {"schema": 1, "conditions": {"composer": old}}))
    assert Card.load(tmp_path).conditions == card.conditions


@pytest.mark.parametrize("change", [{"kind": "colour"}, {"colour": "red"}])
def test_a_vocabulary_of_an_unknown_kind_is_damage(spec, tmp_path, change):
    Card(spec, {}, FULL).save(tmp_path)
    data = json.loads((tmp_path / "dataset.json").read_text())
    data["conditions"]["genre"] |= change
    (tmp_path / "dataset.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"is damaged .*colour"):
        Card.load(tmp_path)


def test_a_newer_card_is_refused(spec, tmp_path):
    Card(spec, {}, FULL, schema=3).save(tmp_path)
    with pytest.raises(UserError, match="has schema 3, this program knows 2; update"):
        Card.load(tmp_path)
