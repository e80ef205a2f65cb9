"""Guidance is base + Σ scale · (cond − base)."""

import numpy as np

from amt_jax.sampling.guidance import guide

LOGITS = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)  # branches, rows, ids


def test_one_branch_is_the_answer():
    np.testing.assert_array_equal(guide(LOGITS[:1], np.zeros((0, 2))), LOGITS[0])


def test_scales_by_row():
    scales = np.array([[0.0, 1.0]])
    np.testing.assert_allclose(guide(LOGITS[:2], scales), [LOGITS[0, 0], LOGITS[1, 1]], atol=1e-6)


def test_branches_add():
    scales = np.array([[3.0, -1.0], [0.5, 2.0]])
    base, one, two = LOGITS
    expected = base + scales[0][:, None] * (one - base) + scales[1][:, None] * (two - base)
    np.testing.assert_allclose(guide(LOGITS, scales), expected, atol=1e-5)
