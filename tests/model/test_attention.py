"""Blockwise attention equals plain attention and holds no [T, T] array; a cached step equals the last row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amt_jax.model.attention import blockwise_attend, cached_attend, plain_attend, rotary_tables, rotate


def make_inputs(length, num_heads, num_kv_heads, dtype=jnp.float32, rows=2, head_dim=8):
    """Queries, keys, values, and rows of several segments that end in padding."""
    random = np.random.default_rng(length)
    heads = (num_heads, num_kv_heads, num_kv_heads)
    tensors = [jnp.asarray(random.normal(size=(rows, length, n, head_dim)), dtype) for n in heads]
    starts = random.random((rows, length)) < 3 / length
    segments = 1 + np.cumsum(starts, axis=1)
    segments[0, length - length // 4 :] = 0
    return *tensors, jnp.asarray(segments, jnp.int32)


@pytest.mark.parametrize(("length", "heads"), [(1, (4, 4)), (7, (4, 1)), (130, (4, 2)), (1100, (2, 1)), (4200, (2, 1))])
def test_blockwise_is_plain_attention(length, heads):
    *tensors, segments = make_inputs(length, *heads, rows=2 if length < 4000 else 1)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=tensors[0].shape))

    def value_and_grads(attend):
        def loss(*tensors):
            out = attend(*tensors, segments)
            return jnp.sum(out * weight), out

        (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*tensors)
        return out, *grads

    for ours, plain in zip(value_and_grads(blockwise_attend), value_and_grads(plain_attend), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_half_precision_stays_near():
    *tensors, segments = make_inputs(150, 4, 2)
    exact = plain_attend(*tensors, segments)
    half = blockwise_attend(*(x.astype(jnp.bfloat16) for x in tensors), segments)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.05)


def test_no_square_array():
    length = 8192
    shapes = [jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)] * 3 + [jax.ShapeDtypeStruct((1, length), jnp.int32)]

    def compiled(attend):
        def loss(*args):
            return jnp.sum(attend(*args))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()

    square = f"{length},{length}]"
    ours, plain = compiled(blockwise_attend), compiled(plain_attend)
    assert square in plain.as_text()
    assert square not in ours.as_text()
    assert square not in jax.jit(blockwise_attend).lower(*shapes).compile().as_text()
    assert plain.memory_analysis().temp_size_in_bytes > 4 * length**2
    assert ours.memory_analysis().temp_size_in_bytes < length**2


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_a_cached_step_is_the_last_row(heads):
    query, key, value, _ = make_inputs(9, *heads)
    segments = jnp.asarray([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9])  # padded on the left, as in the sampler
    last = plain_attend(query, key, value, segments)[:, -1]
    slots = 12
    before = [x.at[:, -1].set(0).transpose(0, 2, 1, 3).reshape(-1, 9, 8) for x in (key, value)]
    noise = 100.0  # what stands in slots that are not attended to
    cache = [jnp.pad(x, ((0, 0), (0, slots - 9), (0, 0)), constant_values=noise) for x in before]
    mask = jnp.pad(segments == 1, ((0, 0), (0, slots - 9)))
    found, filled = cached_attend(query[:, -1], key[:, -1], value[:, -1], cache, 8, mask)
    np.testing.assert_allclose(found, last, atol=1e-5)
    np.testing.assert_array_equal(filled[0][:, 8], key[:, -1].reshape(-1, 8))


def test_rotary_scores_depend_on_distance_only():
    random = np.random.default_rng(0)
    query, key = (jnp.asarray(random.normal(size=(1, 2, 16))) for _ in range(2))

    def score(at, distance):
        rotated = [rotate(x, rotary_tables(jnp.array([p]), 16, 1e4)) for x, p in ((query, at), (key, at - distance))]
        return jnp.sum(rotated[0] * rotated[1], axis=-1)

    for distance in (0, 1, 50):
        np.testing.assert_allclose(score(8000, distance), score(60, distance), atol=5e-3)
    assert np.abs(score(60, 1) - score(60, 2)).max() > 0.05
    np.testing.assert_allclose(score(60, 0), jnp.sum(query * key, axis=-1), atol=1e-4)
