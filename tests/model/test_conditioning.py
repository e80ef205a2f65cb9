"""Conditions reach their own segment, each by its way; dropping them makes them null."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from amt_jax.model.conditioning import (
    ALIGNMENT,
    ConditionConfig,
    Conditioning,
    before_segments,
    drop_conditions,
    of_segments,
    prefix_slots,
)

CONFIGS = (
    ConditionConfig("composer", 4, scale=0.25, dropout=0.6),
    ConditionConfig("mood", 3, scale=2.0, dropout=0.0),
    ConditionConfig("style", 3, "prefix", dropout=0.3),
    ConditionConfig("words", 5, "cross", length=3, scale=0.5, dropout=0.3),
)


@pytest.fixture(scope="module")
def conditioning():
    return jax.jit(lambda: Conditioning(CONFIGS, 8, jnp.float32, rngs=nnx.Rngs(0)))()


def some_values(batch, segments, seed=0):
    random = np.random.default_rng(seed)
    return {c.name: random.normal(size=(batch, segments, c.length, c.width)).astype(np.float16) for c in CONFIGS}


def test_values_go_by_segment(conditioning):
    values = some_values(2, 2)
    values["words"][1, 0, 1:] = 0
    segments = jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]])
    tables = {name: np.asarray(table) for name, table in conditioning.tables.items()}
    asked = conditioning(values)
    added = of_segments(asked.added, segments)
    for row in range(2):
        for time in range(4):
            segment = int(segments[row, time]) - 1
            composer, mood = (values[name][row, segment, 0].astype(np.float32) for name in ("composer", "mood"))
            expected = (segment >= 0) * (0.25 * composer @ tables["composer"] + 2 * mood @ tables["mood"])
            np.testing.assert_allclose(added[row, time], expected, atol=1e-5)
    np.testing.assert_allclose(asked.prefix[:, :, 0], 0.25 * values["style"][:, :, 0] @ tables["style"], atol=1e-5)
    words = 0.5 * values["words"].astype(np.float32) @ tables["words"]
    np.testing.assert_allclose(asked.sources, words.reshape(2, 6, 8), atol=1e-5)
    assert asked.source_segments.tolist() == [[1, 1, 1, 2, 2, 2], [1, 0, 0, 2, 2, 2]]


def test_slots_before_segments():
    prefix = jnp.arange(2 * 3 * 2 * 4, dtype=jnp.float32).reshape(2, 3, 2, 4)
    flat, places, owners = before_segments(prefix)
    assert flat.shape == (2, ALIGNMENT, 4)
    assert places[0].tolist() == [0, 0, 0, 1, 0, 1, 0, 1]
    assert owners[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(flat[:, 2:], prefix.reshape(2, 6, 4))
    assert prefix_slots(CONFIGS, 1) == ALIGNMENT
    assert prefix_slots(CONFIGS, 9) == 2 * ALIGNMENT
    assert prefix_slots(CONFIGS[:1], 9) == 0


def is_null(config, value):
    return np.asarray((value == config.null()).all((-1, -2)))


def test_dropping():
    values = some_values(100, 50) | {"other": np.ones(1)}
    dropped = drop_conditions(CONFIGS, values, jax.random.key(0))
    nulls = {c.name: is_null(c, dropped[c.name]) for c in CONFIGS}
    for config in CONFIGS:
        assert abs(nulls[config.name].mean() - config.dropout) < 0.03
        np.testing.assert_array_equal(
            dropped[config.name][~nulls[config.name]], values[config.name][~nulls[config.name]]
        )
    # Each by its own chance ...
    assert abs((nulls["style"] & nulls["words"]).mean() - 0.09) < 0.02
    assert dropped["other"] is values["other"]
    again, other = (drop_conditions(CONFIGS, values, jax.random.key(seed))["composer"] for seed in (0, 1))
    assert (again == dropped["composer"]).all()
    assert (other != dropped["composer"]).any()
    # ... and, beyond it, all at once.
    dropped = drop_conditions(CONFIGS, values, jax.random.key(0), 0.4)
    nulls = np.stack([is_null(c, dropped[c.name]) for c in CONFIGS])
    assert abs(nulls.all(0).mean() - 0.4) < 0.03
    assert (nulls[1] == nulls.all(0)).all()
