"""Figures of a collection, by hand and by numpy."""

import numpy as np

from data_prep.overview.collection import FEATURES, Collection, correlations

FILES = [
    {
        "path": f"A/{i}.mid",
        "title": f"{i}",
        "artist": "A",
        "duration": 60.0 + i,
        "tempo": 100.0 + 2 * i,
        "key": ["C major", "A minor", ""][i % 3],
        "density": 5.0 - i / 10,
        "polyphony": ["monophonic", "homophonic", "polyphonic"][i % 3],
    }
    for i in range(12)
]
DESCRIPTIONS = [{"path": row["path"], "genre": ["jazz"], "valence": i / 12} for i, row in enumerate(FILES)]
PAIR = {"midi_path": "A/3.mid", "text": "By hand.", "genre": "pop, rock"}


def test_figures_by_hand():
    found = Collection(FILES, {row["path"]: row for row in DESCRIPTIONS}, {"A/3.mid": PAIR})
    assert found.genres() == {"jazz": 12}
    assert Collection(FILES, pairs={"A/3.mid": PAIR}).genres() == {"pop": 1, "rock": 1}
    row = dict(zip(FEATURES, found.features()[1], strict=True))
    assert row == {"tempo": 102, "valence": 1 / 12, "mode": 0, "density": 4.9, "duration": 61, "polyphony": 1}
    assert np.isnan(found.features()[2][FEATURES.index("mode")])
    guessed = Collection(FILES, {row["path"]: {**row, "mood_from": "music"} for row in DESCRIPTIONS})
    assert np.isnan(guessed.features()[:, FEATURES.index("valence")]).all()


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
