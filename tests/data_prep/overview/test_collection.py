"""Figures of a collection, by hand and by numpy."""

import json

import numpy as np

from data_prep.overview.collection import FEATURES, Collection, correlations

FILES = [
    {"path": "1", "duration": 61.0, "tempo": 102.0, "key": "A minor", "density": 4.9, "polyphony": "homophonic"},
    {"path": "2", "key": "", "polyphony": "polyphonic"},
]
DESCRIPTIONS = {path: {"genre": ["jazz"], "valence": 0.25} for path in "12"}
PAIRS = {"2": [{"text": "By hand.", "genre": "pop, rock"}]}


def test_figures_by_hand():
    found = Collection(FILES, DESCRIPTIONS, PAIRS)
    assert found.genres() == {"jazz": 2}
    assert Collection(FILES, pairs=PAIRS).genres() == {"pop": 1, "rock": 1}
    known, less = (dict(zip(FEATURES, row, strict=True)) for row in found.features())
    assert known == {"tempo": 102, "valence": 0.25, "mode": 0, "density": 4.9, "duration": 61, "polyphony": 1}
    assert np.isnan(less["mode"])
    guessed = Collection(FILES, {path: row | {"mood_from": "music"} for path, row in DESCRIPTIONS.items()})
    assert np.isnan(guessed.features()[:, FEATURES.index("valence")]).all()


def test_of_several_pairs_the_best_is_shown_and_all_genres_count(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"path": "1"}')
    pairs = [{"midi_path": "1", "text": "Best.", "genre": "pop"}, {"midi_path": "1", "text": "Worst.", "genre": "rock"}]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    found = Collection.read(str(tmp_path / "metadata.jsonl"), paired=str(tmp_path / "pairs.json"))
    assert [text for _, text, _ in found.examples()] == ["Best."]
    assert found.genres() == {"pop": 1, "rock": 1}


def test_a_tempo_that_is_not_marked_is_unknown():
    files = [{"path": path, "tempo": tempo} for path, tempo in (("1", 120.0), ("2", 90.0), ("3", 80.0))]
    assert Collection(files).tempos() == [None, 90.0, 80.0]
    assert Collection(files, {"1": {"tempo": None}, "2": {"tempo": None}}).tempos() == [None, None, 80.0]


def test_correlations():
    random = np.random.default_rng(0)
    values = random.normal(size=(50, 3))
    values[:, 1] += values[:, 0]
    expected = np.corrcoef(values, rowvar=False)
    np.testing.assert_allclose(correlations(values), expected, atol=1e-12)
    missing = values.copy()
    missing[10:20, 0] = np.nan
    known = np.r_[0:10, 20:50]
    assert np.isclose(correlations(missing)[0, 1], np.corrcoef(values[known, :2].T)[0, 1])
    assert np.isclose(correlations(missing)[1, 2], expected[1, 2])
    np.testing.assert_allclose(correlations(missing), correlations(missing).T, atol=1e-12)
    assert np.isnan(correlations(np.c_[values[:, 0], np.ones(50)])[0, 1])
