"""Distances by hand, intervals that cover, floors near zero."""

import dataclasses
import math

import numpy as np
import pytest
from symusic import Note, Score, Track

from amt_jax.evaluation.metrics import (
    METRICS,
    bootstrap,
    compare,
    floor,
    histogram_divergence,
    histogram_similarity,
    wasserstein,
)
from amt_jax.music.features import features


def column(*values):
    return np.array(values, float)[:, None]


def make_piece(random, *, scale=(0, 2, 4, 5, 7, 9, 11), notes=40):
    score = Score(480)
    track = Track("", 0, False)
    for beat in range(notes):
        pitch = 60 + int(random.choice(scale))
        track.notes.append(Note(beat * 240, 240, pitch, int(random.integers(50, 90))))
    score.tracks.append(track)
    return features(score)


@pytest.fixture(scope="module")
def real():
    random = np.random.default_rng(1)
    return [make_piece(random) for _ in range(24)]


@pytest.fixture(scope="module")
def noise():
    random = np.random.default_rng(2)
    return [make_piece(random, scale=range(12)) for _ in range(12)]


def test_wasserstein_by_hand():
    assert wasserstein(column(0, 1, 2), column(2, 0, 1)) == 0
    assert wasserstein(column(0, 1), column(3, 4)) == pytest.approx(3)
    assert wasserstein(column(0, 4), column(1, 3)) == pytest.approx(1)  # equal means, other spread
    assert wasserstein(column(0), column(1, 2, 3)) == pytest.approx(2)  # sets of other sizes


def test_histogram_similarity_by_hand():
    a, b = np.array([[0.5, 0.5, 0, 0]]), np.array([[0, 0, 0.5, 0.5]])
    assert histogram_similarity(a, a) == pytest.approx(1)
    assert histogram_similarity(a, b) == pytest.approx(0)
    # P = (1, 0), Q = (1/2, 1/2): JS = 3/4 ln(4/3) ... in bits 0.311278.
    assert histogram_similarity(np.array([[1.0, 0]]), np.array([[0.5, 0.5]])) == pytest.approx(1 - 0.3112781, abs=1e-6)


def test_velocity_divergence_by_hand():
    a, b = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    assert histogram_divergence(a, a) == 0
    assert histogram_divergence(a, b) == pytest.approx(0.995 * math.log(0.995 / 0.5) + 0.005 * math.log(0.005 / 0.5))
    assert math.isfinite(histogram_divergence(b, a))  # smoothed: a velocity that real music never has


def test_identical_sets_are_at_distance_zero(real):
    for comparison, metric in zip(compare({"samples": real}, real), METRICS, strict=True):
        assert comparison.distances["samples"].value == pytest.approx(1 if metric.similarity else 0, abs=1e-9)
        if comparison.means:
            assert comparison.means["samples"] == comparison.means["real"]


def test_noise_is_beyond_the_floor_and_real_is_within(real, noise):
    random = np.random.default_rng(3)
    more = [make_piece(random) for _ in range(12)]
    by_name = {c.metric: c for c in compare({"more": more, "noise": noise}, real)}
    scale = by_name["scale_consistency"]
    assert scale.distances["noise"].low > scale.floor.high >= scale.distances["more"].low
    degrees = by_name["scale_degree_similarity"]
    assert degrees.distances["noise"].value < degrees.distances["more"].low
    assert scale.means["noise"].high < scale.means["real"].low


def test_order_of_pieces_does_not_matter_and_seeds_repeat(real, noise):
    a = compare({"noise": noise}, real, seed=7)
    assert a == compare({"noise": noise[::-1]}, [*real[5:], *real[:5]], seed=7)
    assert a != compare({"noise": noise}, real, seed=8)


def test_bootstrap_intervals_end_at_their_limits():
    values = np.random.default_rng(0).normal(0, 1, (40, 1))
    assert bootstrap(np.mean, [values], 0).low == 0
    assert bootstrap(np.mean, [values], 0, least=-np.inf).low < -0.1
    assert bootstrap(np.mean, [values], 0, most=0.05).high == 0.05


def test_bootstrap_interval_covers():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        estimate = bootstrap(np.mean, [random.normal(5, 2, (40, 1))], seed)
        covered += estimate.low <= 5 <= estimate.high
    assert 88 <= covered <= 99


def test_floor_shrinks_with_the_number_of_pieces():
    values = np.random.default_rng(0).normal(0, 1, (200, 1))
    assert floor(wasserstein, values, 80, 0).value < floor(wasserstein, values, 8, 0).value
    assert floor(wasserstein, values, 500, 0) == floor(wasserstein, values, 100, 0)  # at most half


def test_pieces_without_notes_and_empty_sets(real):
    empty = features(Score(480))
    by_name = {c.metric: c for c in compare({"samples": [*real[:4], empty], "none": []}, real)}
    assert by_name["note_density"].counted == {"samples": 5, "none": 0, "real": 24}
    assert by_name["groove_consistency"].counted["samples"] == 4
    assert by_name["velocity_divergence"].counted["samples"] == 4
    assert all(math.isnan(c.distances["none"].value) for c in by_name.values())
    assert math.isfinite(by_name["velocity_divergence"].distances["samples"].value)
    alone = compare({"samples": [empty]}, [empty])
    assert all(math.isnan(value) for c in alone for value in dataclasses.astuple(c.floor))
