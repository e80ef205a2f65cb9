"""Attention by cuDNN equals plain attention; the rows that it is told of are those that the segments say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.model.attention import blockwise_attend, plain_attend
from amt_jax.model.cudnn import cudnn_attend, packing

on_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 3))
def test_packing_covers_every_token_once(rows, rest):
    time = max(map(sum, rows)) + rest
    counts, starts = (np.asarray(x) for x in packing(jnp.asarray(rows, jnp.int32), time))
    assert counts.shape == (len(rows), 4)
    assert starts.shape == (len(rows), 5)
    for row, lengths in enumerate(rows):
        there = counts[row] > 0
        assert counts[row][there].tolist() == [n for n in [*lengths, time - sum(lengths)] if n]
        assert starts[row][:-1][there].tolist() == (np.cumsum(counts[row][there]) - counts[row][there]).tolist()
        assert (counts[row][~there] == -1).all()
        assert (starts[row][:-1][~there] == -1).all()
        assert starts[row][-1] == -1


def make_inputs(lengths, time, heads, head_dim=64):
    """Standard normal queries, keys, values and a weight of each output, float32; segments."""
    random = np.random.default_rng(time)
    shapes = [(len(lengths), time, n, head_dim) for n in (heads[0], heads[1], heads[1], heads[0])]
    tensors = [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]
    segments = np.zeros((len(lengths), time), np.int32)
    for row, counts in enumerate(lengths):
        ids = np.repeat(np.arange(1, len(counts) + 1), counts)
        segments[row, : len(ids)] = ids
    return tensors, jnp.asarray(segments)


def value_and_grads(attend, tensors, segments, lengths):
    *inputs, weight = tensors
    weight = weight * (segments > 0)[..., None, None]  # what padding gives is nobody's business

    @jax.jit
    def run(*inputs):
        def loss(*inputs):
            out = attend(*inputs, segments, lengths)
            return jnp.sum(out.astype(jnp.float32) * weight), out.astype(jnp.float32) * (weight != 0)

        (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return out, *grads

    return [np.asarray(x, np.float32) for x in run(*inputs)]


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


CASES = [
    ([[300, 0, 700, 24], [0, 0, 512, 0]], 1024, (8, 2)),  # a cut that goes on, padding at the end
    ([[1, 1, 2046], [2000, 40, 8]], 2048, (4, 1)),
    ([[2048], [2048]], 2048, (2, 2)),
    ([[5000, 3192]], 8192, (1, 1)),
]


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("lengths", "time", "heads"), CASES)
def test_cudnn_stays_near_the_reference(lengths, time, heads):
    tensors, segments = make_inputs(lengths, time, heads)
    half = [x.astype(jnp.bfloat16) for x in tensors[:3]]
    lengths = jnp.asarray(lengths, jnp.int32)
    assert "cudnn" in jax.jit(cudnn_attend).lower(*half, segments, lengths).compile().as_text().lower()
    with jax.default_matmul_precision("highest"):
        exact = value_and_grads(plain_attend, tensors, segments, None)
    found = value_and_grads(cudnn_attend, [*half, tensors[3]], segments, lengths)
    assert max(map(error, found, exact)) < 2e-2


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("lengths", "time", "heads"), CASES[:2])
def test_blockwise_in_float32_is_the_reference_on_a_gpu(lengths, time, heads):
    tensors, segments = make_inputs(lengths, time, heads)
    with jax.default_matmul_precision("highest"):
        exact, found = (value_and_grads(f, tensors, segments, None) for f in (plain_attend, blockwise_attend))
    assert max(map(error, found, exact)) < 1e-5
