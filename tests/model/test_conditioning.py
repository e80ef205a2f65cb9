"""Conditions reach the tokens of their own segment, scaled; dropping them makes them null."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from amt_jax.model.conditioning import NULL, ConditionConfig, Conditioning, drop_conditions

CONFIGS = (ConditionConfig("composer", 4, 0.25, 0.6), ConditionConfig("mood", 3, 2.0, 0.0))


@pytest.fixture(scope="module")
def conditioning():
    return jax.jit(lambda: Conditioning(CONFIGS, 8, jnp.float32, rngs=nnx.Rngs(0)))()


def test_values_go_by_segment(conditioning):
    values = {"composer": jnp.array([[3, 1], [2, 0]]), "mood": jnp.array([[0, 2], [1, 1]])}
    segments = jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]])
    tables = {name: np.asarray(table) for name, table in conditioning.tables.items()}
    got = conditioning(values, segments)
    for row in range(2):
        for time in range(4):
            segment = max(int(segments[row, time]) - 1, 0)
            composer, mood = (int(values[name][row, segment]) for name in ("composer", "mood"))
            expected = 0.25 * tables["composer"][composer] + 2 * tables["mood"][mood]
            np.testing.assert_allclose(got[row, time], expected, atol=1e-6)


def test_dropping():
    values = {"composer": jnp.ones((100, 50), jnp.int32), "mood": jnp.full((100, 50), 2), "other": jnp.ones((1, 1))}
    dropped = drop_conditions(CONFIGS, values, jax.random.key(0))
    assert set(np.unique(dropped["composer"])) == {NULL, 1}
    assert abs(float(jnp.mean(dropped["composer"] == NULL)) - 0.6) < 0.03
    assert (dropped["mood"] == 2).all()
    assert dropped["other"] is values["other"]
    again, other = (drop_conditions(CONFIGS, values, jax.random.key(seed))["composer"] for seed in (0, 1))
    assert (again == dropped["composer"]).all()
    assert (other != dropped["composer"]).any()
