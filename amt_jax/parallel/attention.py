"""Attention on a mesh: each device has rows and heads of its own; time is exchanged for heads and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from amt_jax.model.attention import Attend, blockwise_attend, cached_attend, repeat_heads
from amt_jax.model.cudnn import cudnn_attend
from amt_jax.model.layers import ONE_DEVICE, Placement
from amt_jax.model.splash import splash_attend
from amt_jax.parallel.mesh import constrain, spec

HOPPER = 9.0  # the first compute capability whose cuDNN attention takes packed rows
TRAINED = ("batch", "time", "heads")  # queries, keys and values of a whole sequence
DECODED = ("batch", "heads")  # of one token a row
CACHE = ("batch_heads",)  # keys and values of the cache: a device's rows and heads, device by device


@functools.cache
def placement(mesh: Mesh) -> Placement:
    """How a network runs on `mesh`."""
    attend = attention_of(mesh)
    if mesh.size == 1:
        return ONE_DEVICE._replace(attend=attend)
    cache = CACHE, CACHE
    return Placement(
        attend=mesh_attend(mesh, attend),
        cached_attend=by_device(
            mesh, cached_attend, (DECODED, DECODED, DECODED, cache, (), ("batch",)), (DECODED, cache)
        ),
        constrain=functools.partial(constrain, mesh),
    )


def attention_of(mesh: Mesh) -> Attend:
    """The attention of whole sequences that suits a mesh's devices."""
    device = mesh.devices.flat[0]
    if device.platform == "tpu":
        return splash_attend
    cuda = device.platform == "gpu" and "cuda" in device.client.platform_version
    if cuda and float(device.compute_capability) >= HOPPER:
        return cudnn_attend
    return blockwise_attend


def by_device(mesh: Mesh, function: Callable, inputs: Sequence, outputs: Sequence) -> Callable:
    """`function` of what each device has of arrays that lie by these logical axes (trees of tuples of names)."""
    if mesh.size == 1:
        return function

    def specs(axes):
        names = all(axis is None or isinstance(axis, str) for axis in axes)
        return spec(*axes) if names else tuple(map(specs, axes))

    return jax.shard_map(function, mesh=mesh, in_specs=specs(inputs), out_specs=specs(outputs), check_vma=False)


def mesh_attend(mesh: Mesh, attend: Attend) -> Attend:
    """`attend` for arrays that lie on `mesh`, with the same result.

    Rows are independent, and so are heads. Along the mesh axis `sequence` each device holds a stretch of time of all
    its heads; an all-to-all gives it all time of a part of them, and another brings the result back (DeepSpeed-Ulysses,
    Jacobs et al. 2023). What a device holds stays proportional to T / sequence.
    """
    parts = mesh.shape["sequence"]

    def exchanging(query, key, value, segments, lengths):
        if key.shape[2] % parts:
            key, value = (repeat_heads(x, query.shape[2]) for x in (key, value))
        query, key, value = (
            jax.lax.all_to_all(x, "sequence", split_axis=2, concat_axis=1, tiled=True) for x in (query, key, value)
        )
        segments = jax.lax.all_gather(segments, "sequence", axis=1, tiled=True)
        mixed = attend(query, key, value, segments, lengths)
        return jax.lax.all_to_all(mixed, "sequence", split_axis=1, concat_axis=2, tiled=True)

    inputs = TRAINED, TRAINED, TRAINED, ("batch", "time"), ("batch",)
    return by_device(mesh, exchanging if parts > 1 else attend, inputs, TRAINED)
