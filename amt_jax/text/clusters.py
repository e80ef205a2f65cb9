"""Clusters: the semantic token, which of a few groups of captions a text belongs to.

N texts   K clusters   D width
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from amt_jax.errors import UserError

FILE = "clusters.json"
SCHEMA = 1
STARTS = 10  # K-means begins anew so often and keeps the best
SAMPLE = 5000  # vectors that a silhouette is made of: it takes time by their square


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Centroids of captions on the unit sphere, the largest cluster first.

    Attributes:
      centroids: [K, D] float32
      silhouettes: K tried -> mean silhouette (Rousseeuw 1987), by which K was chosen.
      digest: of the encoder whose vectors they divide.
    """

    centroids: np.ndarray
    silhouettes: Mapping[int, float]
    digest: str

    @property
    def k(self) -> int:
        return len(self.centroids)

    @classmethod
    def fit(cls, pooled: np.ndarray, ks: Sequence[int], *, seed: int, digest: str) -> Clusters:
        """K-means for the K of `ks` with the best silhouette; UserError if vectors are too few to divide. [N, D]"""
        try:
            from sklearn.cluster import KMeans
            from sklearn.metrics import silhouette_score
            from threadpoolctl import threadpool_limits
        except ImportError as error:
            raise UserError(f"clustering needs {error.name}: pip install 'amt_jax[words]'") from None
        unit = normalise(pooled)
        different = len(np.unique(unit, axis=0))
        tried = [k for k in ks if k < different]
        if not tried:
            raise UserError(
                f"{different} different captions cannot be divided into {ks[0]} clusters; encode more captions"
            )
        found = {}
        # On one thread: the same sums on any machine, and where others are at work, many times faster than on all.
        with threadpool_limits(1):
            for k in tqdm(tried, desc="K-means", unit="K", delay=2):
                means = KMeans(k, n_init=STARTS, random_state=seed).fit(unit)
                sample = SAMPLE if len(unit) > SAMPLE else None
                found[k] = silhouette_score(unit, means.labels_, sample_size=sample, random_state=seed), means
        best = max(found, key=lambda k: found[k][0])
        means = found[best][1]
        sizes = np.bincount(means.labels_, minlength=best)
        order = sorted(range(best), key=lambda each: (-sizes[each], *means.cluster_centers_[each]))
        centroids = means.cluster_centers_[order].astype(np.float32)
        return cls(centroids, {k: float(score) for k, (score, _) in found.items()}, digest)

    def assign(self, pooled: np.ndarray) -> np.ndarray:
        """The nearest centroid of each vector, −1 for zeros: such a text says nothing. [N, D] -> [N] int32"""
        unit = normalise(pooled)
        # |x − c|² without |x|², which is the same for all c.
        distances = np.square(self.centroids).sum(1) - 2 * (unit @ self.centroids.T)
        return np.where(unit.any(1), distances.argmin(1), -1).astype(np.int32)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes clusters.json into `folder`."""
        data = {
            "schema": SCHEMA,
            "k": self.k,
            "silhouettes": self.silhouettes,
            "digest": self.digest,
            "centroids": self.centroids.astype(np.float64).tolist(),
        }
        (Path(folder) / FILE).write_text(json.dumps(data) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Clusters:
        """Reads `folder`/clusters.json; UserError if there is none, or it is damaged or newer."""
        path = Path(folder) / FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] > SCHEMA:
                raise UserError(f"{path} has schema {data['schema']}, this program knows {SCHEMA}; update amt_jax")
            silhouettes = {int(k): value for k, value in data["silhouettes"].items()}
            centroids = np.array(data["centroids"], np.float32).reshape(data["k"], -1)
            return cls(centroids, silhouettes, data["digest"])
        except FileNotFoundError:
            raise UserError(f"no {FILE} in {str(folder)!r}; make it with python -m data_prep.cluster") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); run python -m data_prep.cluster again") from None


def normalise(pooled: np.ndarray) -> np.ndarray:
    """Vectors of length 1; zeros stay. [N, D] -> [N, D] float32"""
    pooled = pooled.astype(np.float32)
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    return pooled / np.where(norms, norms, 1)
