"""The mesh of devices, and where parameters, batches and activations lie on it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from amt_jax.errors import UserError, near
from amt_jax.model.config import TransformerConfig

AXES = ("data", "fsdp", "tensor", "sequence")

# Logical axis of a parameter or an activation -> mesh axes. What is not named is whole on every device.
RULES = {
    "batch": ("data", "fsdp"),
    "time": ("sequence",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "batch_heads": ("data", "fsdp", "tensor"),  # of the decoding cache
    "device": AXES,
}

# Name of an array in a batch -> its leading logical axes.
BATCH = {name: ("batch", "time") for name in ("inputs", "targets", "segments", "positions", "weights")}
BATCH |= {"lengths": ("batch",), "conditions": ("batch",)}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis.

    Attributes:
      data: groups that hold the same parameters and share a batch; -1 takes as many as there are devices for.
      fsdp: parts that parameters and optimizer state are cut into, and each group's share of a batch too.
      tensor: parts that attention heads and feed-forward layers are cut into.
      sequence: parts that the time axis of a batch is cut into.
    """

    data: int
    fsdp: int
    tensor: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> MeshConfig:
        """From "data=2,tensor=4", what is left out being 1; UserError for anything else."""
        sizes = dict.fromkeys(AXES, 1)
        for word in filter(None, text.split(",")):
            axis, _, size = word.partition("=")
            if axis not in AXES:
                raise UserError(f"unknown mesh axis {near(axis, list(AXES))}; a mesh is given as data=2,tensor=4")
            if not size.isdecimal():
                raise UserError(f"mesh axis {axis} has {size!r} devices; a mesh is given as data=2,tensor=4")
            sizes[axis] = int(size)
        return cls(**sizes)

    def __str__(self):
        return " x ".join(f"{axis} {size}" for axis, size in dataclasses.asdict(self).items())


ONE_DEVICE = MeshConfig(1, 1, 1, 1)


def make_mesh(
    config: MeshConfig, batch_size: int, model: TransformerConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of a config; UserError if it does not fit the devices, the batch or the network.

    A single process may use fewer devices than it has, several processes use all.

    Args:
      config: sizes; data -1 is as many as share the batch evenly, of several processes all.
      batch_size: rows that all devices share.
      model: the network.
      devices: all of this program's, if not given.
    """
    devices = list(jax.devices() if devices is None else devices)
    rest = config.fsdp * config.tensor * config.sequence
    if min(rest, config.fsdp, config.tensor, config.sequence) < 1 or config.data < -1 or config.data == 0:
        raise UserError(f"the mesh is {config}; an axis has at least 1 device (or -1 for data: all)")
    processes = len({device.process_index for device in devices})
    data = config.data
    if data == -1:
        data = most = max(len(devices) // rest, 1)
        if processes == 1:
            data = max((n for n in range(1, most + 1) if batch_size % (n * config.fsdp) == 0), default=most)
    config = dataclasses.replace(config, data=data)
    if data * rest > len(devices) or (processes > 1 and data * rest < len(devices)):
        count = f"{len(devices)} device{'s' * (len(devices) > 1)}"
        several = f" of {processes} processes, which take part all or none" if processes > 1 else ""
        raise UserError(f"the mesh is {config} = {data * rest} devices, but there are {count}{several}")
    for axes, parts, field, size in (
        ("data x fsdp", data * config.fsdp, "config.batch_size", batch_size),
        ("fsdp", config.fsdp, "config.model.d_model", model.d_model),
        ("tensor", config.tensor, "config.model.num_kv_heads", model.num_kv_heads),
        ("tensor", config.tensor, "config.model.d_ff", model.d_ff),
        ("tensor x sequence", config.tensor * config.sequence, "config.model.num_heads", model.num_heads),
        ("sequence", config.sequence, "config.context", model.context_length),
    ):
        if size % parts:
            fitting = [n for n in range(1, size + 1) if size % n == 0 and n <= len(devices)]
            raise UserError(
                f"the mesh's {axes} = {parts} does not divide {field} {size}; "
                f"{', '.join(map(str, fitting))} would, or a multiple of {parts} for {field}"
            )
    shape = dataclasses.astuple(config)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[: data * rest])


def one_device() -> Mesh:
    """The mesh of this process's first device."""
    return jax.make_mesh((1,) * len(AXES), AXES, (AxisType.Auto,) * len(AXES), devices=jax.local_devices()[:1])


def local_mesh(config: MeshConfig, model: TransformerConfig) -> Mesh:
    """A mesh of this process's devices, for generation and evaluation; UserError if it does not fit."""
    if config.sequence != 1 or config.data < 1:
        raise UserError(f"the mesh is {config}; here data is a number of devices, and time is not cut")
    return make_mesh(config, config.data * config.fsdp, model, jax.local_devices())


def spec(*axes: str | None) -> PartitionSpec:
    """How an array with these logical axes is cut; trailing ones may be left out. Without any: not at all."""
    return PartitionSpec(*(RULES.get(axis) for axis in axes))


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Where an array with these logical axes lies."""
    return NamedSharding(mesh, spec(*axes))


def constrain(mesh: Mesh, x: jax.Array, *axes: str | None) -> jax.Array:
    """`x`, told to the compiler to lie by its logical axes."""
    return jax.lax.with_sharding_constraint(x, sharding(mesh, *axes))


def parameter_shardings(mesh: Mesh, axes: Any) -> Any:
    """A sharding a parameter, from a tree of tuples of logical axes, one name a dimension."""
    return jax.tree.map(lambda names: sharding(mesh, *names), axes, is_leaf=lambda x: isinstance(x, tuple))


def batch_shardings(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A sharding an array of a batch, see data.pipeline.batches."""
    return {name: jax.tree.map(lambda _, name=name: sharding(mesh, *BATCH[name]), batch[name]) for name in batch}


@functools.lru_cache
def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of each global batch that this process's devices need, in order. [rows]"""
    spans = sharding(mesh, "batch").addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[span] for span in spans]))


def put_batch(batch: Mapping[str, Any], mesh: Mesh, batch_size: int) -> dict[str, Any]:
    """This process's rows (`local_rows`) of a global batch of `batch_size` rows -> global arrays over the mesh."""
    rows = local_rows(mesh, batch_size)

    def put(x, place):
        def part(index):
            first, stop, _ = index[0].indices(batch_size)
            at = int(np.searchsorted(rows, first))
            return x[at : at + stop - first][(slice(None), *index[1:])]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), place, part)

    return jax.tree.map(put, dict(batch), batch_shardings(mesh, batch))
