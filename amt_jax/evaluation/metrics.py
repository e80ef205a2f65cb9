"""How far a set of pieces is from real music: distances between sets of features, with intervals and a floor.

A metric is one row of `METRICS`. Dims: P pieces, C bins.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from amt_jax.music.features import PITCH_CLASSES, Features

RESAMPLES = 400
_SMOOTHING = 0.01  # share of the uniform distribution that is mixed into velocity histograms before the divergence


@dataclasses.dataclass(frozen=True)
class Metric:
    """One comparison of two sets of pieces.

    Attributes:
      name: its key in the report.
      title: for people, with the unit.
      of: features of a piece -> a number or a histogram [C]; NaN if the piece has none.
      distance: ([P, C], [Q, C]) -> how far the sets are apart; C is 1 for a number.
      most: the largest value that `of` can give.
      similarity: True if `distance` is largest, 1, for equal sets, instead of smallest, 0.
    """

    name: str
    title: str
    of: Callable[[Features], float | np.ndarray]
    distance: Callable[[np.ndarray, np.ndarray], float]
    most: float = math.inf
    similarity: bool = False


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a metric says of sets of pieces.

    Attributes:
      metric: the metric's name.
      counted: set -> pieces that have the feature; a piece without notes has few.
      means: set -> mean over its pieces; empty for a histogram.
      distances: set -> distance to the reference; the interval is by bootstrap over the pieces of both.
      floor: distance of real pieces to other real pieces: median and the range of 95 % of the draws. As many
        as there are samples are drawn at a time, at most half, for a small set is far from any other.
    """

    metric: str
    counted: dict[str, int]
    means: dict[str, Estimate]
    distances: dict[str, Estimate]
    floor: Estimate


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1: mean distance of two sets' values, matched in order. [P, 1], [Q, 1] -> in their unit."""
    a, b = np.sort(a[:, 0]), np.sort(b[:, 0])
    values = np.sort(np.concatenate([a, b]))
    share_a = np.searchsorted(a, values[:-1], side="right") / len(a)
    share_b = np.searchsorted(b, values[:-1], side="right") / len(b)
    return float(np.sum(np.abs(share_a - share_b) * np.diff(values)))


def histogram_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """1 - Jensen-Shannon divergence, base 2 (Lin 1991), of the sets' mean histograms. [P, C], [Q, C] -> 0..1."""
    p, q = _mean_histogram(a), _mean_histogram(b)
    middle = (p + q) / 2
    return 1 - (_divergence(p, middle) + _divergence(q, middle)) / 2 / math.log(2)


def histogram_divergence(a: np.ndarray, b: np.ndarray) -> float:
    """KL(a || b) of the sets' mean histograms, 1 % of uniform mixed into both. [P, C], [Q, C] -> nats"""
    p, q = ((1 - _SMOOTHING) * _mean_histogram(x) + _SMOOTHING / x.shape[1] for x in (a, b))
    return _divergence(p, q)


def _scale_degrees(features: Features) -> np.ndarray:
    """The pitch-class histogram counted from the tonic of the key that fits best."""
    if not features.key:
        return np.full(12, math.nan)
    return np.roll(features.pitch_classes, -PITCH_CLASSES.index(features.key.split()[0]))


METRICS = (
    Metric("note_density", "notes a second", lambda f: f.note_density, wasserstein),
    Metric("polyphony", "notes sounding together", lambda f: f.polyphony, wasserstein),
    Metric("pitch_range", "pitch range, semitones", lambda f: f.pitch_range, wasserstein),
    Metric("scale_consistency", "scale consistency", lambda f: f.scale_consistency, wasserstein, 1),
    Metric("groove_consistency", "groove consistency", lambda f: f.groove_consistency, wasserstein, 1),
    Metric("empty_beats", "share of empty beats", lambda f: f.empty_beats, wasserstein, 1),
    Metric(
        "pitch_class_similarity", "pitch classes, similarity", lambda f: f.pitch_classes, histogram_similarity, 1, True
    ),
    Metric("scale_degree_similarity", "scale degrees, similarity", _scale_degrees, histogram_similarity, 1, True),
    Metric("velocity_divergence", "velocity, KL divergence in nats", lambda f: f.velocities, histogram_divergence),
)


def compare(sets: dict[str, Sequence[Features]], reference: Sequence[Features], *, seed: int = 0) -> list[Comparison]:
    """Compares each of `sets` with the reference by every metric.

    Args:
      sets: name -> features of its pieces; the floor is drawn for the size of the first set.
      reference: features of real pieces.
      seed: of the resampling; the order of the pieces does not matter.
    """
    comparisons = []
    for metric in METRICS:
        real = values_of(metric, reference)
        values = {name: values_of(metric, pieces) for name, pieces in sets.items()}
        everything = {**values, "real": real}
        scalar = real.shape[1] == 1
        comparisons.append(
            Comparison(
                metric=metric.name,
                counted={name: len(x) for name, x in everything.items()},
                means={name: bootstrap(np.mean, [x], seed, metric.most) for name, x in everything.items() if scalar},
                distances={
                    name: bootstrap(metric.distance, [x, real], seed, metric.most) for name, x in values.items()
                },
                floor=floor(metric.distance, real, len(next(iter(values.values()))), seed),
            )
        )
    return comparisons


def bootstrap(
    statistic: Callable[..., float],
    samples: Sequence[np.ndarray],
    seed: int,
    most: float = math.inf,
    least: float = 0.0,
) -> Estimate:
    """A statistic of samples and its 95 % interval: ±1.96 standard errors of the bootstrap over pieces (Efron 1979).

    Not the percentiles: a distance between resampled sets is biased upwards, so they may leave out the figure itself.

    Args:
      statistic: a function of arrays [P, C].
      samples: its arguments; NaN comes out if one of them is empty.
      seed: of the resampling.
      most, least: the interval ends there.
    """
    if not all(len(sample) for sample in samples):
        return Estimate(math.nan, math.nan, math.nan)
    random = np.random.default_rng(seed)
    value = float(statistic(*samples))
    draws = [
        statistic(*(sample[random.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(RESAMPLES)
    ]
    error = 1.96 * float(np.std(draws, ddof=1))
    return Estimate(value, max(least, value - error), min(most, value + error))


def floor(distance: Callable[..., float], real: np.ndarray, size: int, seed: int) -> Estimate:
    """Distance between `size` real pieces (at most half) and the others: median, 2.5 and 97.5 % of the draws."""
    size = min(size, len(real) // 2)
    if not size:
        return Estimate(math.nan, math.nan, math.nan)
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        order = random.permutation(len(real))
        draws.append(distance(real[order[:size]], real[order[size:]]))
    return Estimate(float(np.median(draws)), *(float(q) for q in np.quantile(draws, [0.025, 0.975])))


def values_of(metric: Metric, pieces: Sequence[Features]) -> np.ndarray:
    """A metric's value for each piece that has one, in an order that depends on the values alone. [P, C]"""
    size = np.size(metric.of(pieces[0])) if pieces else 1
    values = np.array([metric.of(piece) for piece in pieces], float).reshape(len(pieces), size)
    values = values[~np.isnan(values).any(axis=1)]
    if size > 1:
        values = values[values.sum(axis=1) > 0]
    return values[np.lexsort(values.T)]


def _mean_histogram(values: np.ndarray) -> np.ndarray:
    mean = values.mean(axis=0)
    return mean / mean.sum()


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats; q is positive wherever p is. [C], [C]"""
    inside = p > 0
    return max(0.0, float(np.sum(p[inside] * np.log(p[inside] / q[inside]))))
