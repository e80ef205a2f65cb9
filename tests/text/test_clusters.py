import json

import numpy as np
import pytest

from amt_jax.errors import UserError
from amt_jax.text.clusters import Clusters

CLUSTERS = Clusters(np.array([[1, 0, 0], [0, 0.6, 0.6]], np.float32), {2: 0.5, 3: 0.25}, "d")


def test_a_text_goes_to_the_nearest_centroid_whatever_its_length():
    vectors = np.array([[9, 1, 0], [0, 0.1, 0.2], [0, 0, 0], [0.2, 0.1, 0.1]])
    np.testing.assert_array_equal(CLUSTERS.assign(vectors), [0, 1, -1, 0])
    np.testing.assert_array_equal(CLUSTERS.assign(vectors.astype(np.float16)), [0, 1, -1, 0])


def test_clusters_are_equal_after_loading(tmp_path):
    random = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    Clusters(random, {4: 0.1}, "d").save(tmp_path)
    loaded = Clusters.load(tmp_path)
    np.testing.assert_array_equal(loaded.centroids, random)
    assert (loaded.k, loaded.silhouettes, loaded.digest) == (4, {4: 0.1}, "d")


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no clusters\.json"):
        Clusters.load(tmp_path)
    CLUSTERS.save(tmp_path)
    path = tmp_path / "clusters.json"
    data = json.loads(path.read_text())
    for text, reason in (
        (json.dumps(data | {"schema": 2}), "update amt_jax"),
        (json.dumps(data | {"k": 5}), "damaged"),
        ("[]", "damaged"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=reason):
            Clusters.load(tmp_path)
