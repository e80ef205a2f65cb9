"""Splash attention equals plain attention, alone and shared among devices; the TPU's program is compiled, not run."""

import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amt_jax.model.attention import blockwise_attend, plain_attend
from amt_jax.model.splash import blocks, splash_attend, splash_pairs
from amt_jax.parallel.attention import attention_of, mesh_attend, placement
from amt_jax.parallel.mesh import AXES, one_device, sharding
from launch.chips import slice_devices
from launch.hlo import SPLASH, Program

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler of the tpu extra: make test-heavy"
)
interpreted = functools.partial(splash_attend, interpret=True)


def make_inputs(length, num_heads, num_kv_heads, rows=2, head_dim=8):
    """Queries, keys, values and a weight of each output, float32, and rows of several segments, padded at both ends."""
    random = np.random.default_rng(length)
    heads = (num_heads, num_kv_heads, num_kv_heads, num_heads)
    tensors = [jnp.asarray(random.normal(size=(rows, length, n, head_dim)), jnp.float32) for n in heads]
    segments = 1 + np.cumsum(random.random((rows, length)) < 3 / length, axis=1)
    segments[0, length - length // 4 :] = 0
    segments[-1, : length // 8] = 0
    return tensors, jnp.asarray(segments, jnp.int32)


def value_and_grads(attend, tensors, segments):
    *inputs, weight = tensors

    @jax.jit
    def run(*inputs):
        def loss(*inputs):
            out = attend(*inputs, segments, None).astype(jnp.float32)
            return jnp.sum(out * weight), out

        (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return out, *grads

    return [np.asarray(x, np.float32) for x in run(*inputs)]


@pytest.mark.parametrize(
    ("length", "heads", "head_dim"), [(1, (4, 4), 8), (130, (4, 2), 64), (600, (2, 1), 40), (1100, (2, 2), 8)]
)
def test_splash_is_plain_attention(length, heads, head_dim):
    tensors, segments = make_inputs(length, *heads, head_dim=head_dim)
    plain = value_and_grads(plain_attend, tensors, segments)
    for ours, theirs in zip(value_and_grads(interpreted, tensors, segments), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_half_precision_stays_near():
    tensors, segments = make_inputs(300, 4, 2, head_dim=64)
    exact = value_and_grads(plain_attend, tensors, segments)
    half = value_and_grads(interpreted, [x.astype(jnp.bfloat16) for x in tensors[:3]] + tensors[3:], segments)
    for ours, theirs in zip(half, exact, strict=True):
        assert np.linalg.norm(ours - theirs) < 2e-2 * np.linalg.norm(theirs)


@pytest.mark.parametrize("heads", [(8, 8), (8, 2)])
def test_devices_share_rows_heads_and_time(heads):
    mesh = jax.make_mesh((2, 1, 2, 2), AXES, (jax.sharding.AxisType.Auto,) * len(AXES))
    tensors, segments = make_inputs(256, *heads)
    plain = value_and_grads(plain_attend, tensors, segments)
    for ours, theirs in zip(value_and_grads(mesh_attend(mesh, interpreted), tensors, segments), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("length", [1, 128, 129, 511, 512, 513, 4112, 8192, 8208])
def test_blocks_cover_a_row_with_less_than_one_to_spare(length):
    count, size = blocks(length)
    assert size % 128 == 0
    assert size <= 512
    assert 0 <= count * size - length < 128 * count
    assert splash_pairs(length) >= length * (length + 1) // 2


def test_a_cpu_keeps_blockwise_attention():
    assert attention_of(one_device()) is blockwise_attend


def program_for_tpus(shape, attend_on):
    """The text compiled for a v5e of gradients through the attention that a mesh of it gets, at 8192."""
    axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
    mesh = jax.make_mesh(shape, AXES, axis_types, devices=slice_devices("v5e:2x2")[: math.prod(shape)])
    place = sharding(mesh, "batch", "time", "heads")
    heads = jax.ShapeDtypeStruct((shape[0], 8192, 8, 64), jnp.bfloat16, sharding=place)
    segments = jax.ShapeDtypeStruct((shape[0], 8192), jnp.int32, sharding=sharding(mesh, "batch", "time"))

    def loss(*inputs):
        return jnp.sum(jnp.square(attend_on(mesh)(*inputs, None).astype(jnp.float32)))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(heads, heads, heads, segments).compile().as_text()


@pytest.mark.heavy
@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 1, 1, 1), (1, 1, 2, 2)], ids=str)
def test_tpus_get_splash_attention_without_a_square(shape):
    text = program_for_tpus(shape, lambda mesh: placement(mesh).attend)
    assert set(Program(text).totals().kernels) == {f"splash_mha_{kind}" for kind in SPLASH}
    assert "8192,8192]" not in text


@pytest.mark.heavy
@needs_compiler
def test_plain_attention_has_the_square():
    assert "8192,8192]" in program_for_tpus((1, 1, 1, 1), lambda mesh: plain_attend)
