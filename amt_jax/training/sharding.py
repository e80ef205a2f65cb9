"""The mesh of devices, and where parameters and batches lie on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from amt_jax.errors import UserError
from amt_jax.training.config import MeshConfig

AXES = ("data", "fsdp", "tensor", "sequence")

# Logical axis of a parameter -> mesh axis. What is not named is whole on every device.
RULES = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor"}


def make_mesh(config: MeshConfig, batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices; UserError if the config does not fit them, or the batch not the mesh."""
    devices = devices or jax.devices()
    rest = config.fsdp * config.tensor * config.sequence
    data = len(devices) // rest if config.data == -1 else config.data
    if data * rest != len(devices):
        raise UserError(
            f"config.mesh data {data} × fsdp {config.fsdp} × tensor {config.tensor} × sequence {config.sequence} "
            f"is not the number of devices, {len(devices)}; set config.mesh"
        )
    if batch_size % (data * config.fsdp):
        raise UserError(
            f"config.batch_size {batch_size} cannot be shared by data {data} × fsdp {config.fsdp} devices; "
            f"make it a multiple of {data * config.fsdp}"
        )
    shape = (data, config.fsdp, config.tensor, config.sequence)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(mesh: Mesh, axes: Any, shapes: Any) -> Any:
    """A sharding a parameter. An axis that its mesh axis does not divide stays whole.

    Args:
      mesh: the mesh.
      axes: tree of tuples of logical axis names, one a dimension.
      shapes: the same tree of arrays or shapes with dtypes.
    """

    def place(shape, names):
        spec = [RULES.get(name) for name in names]
        spec = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, shape.shape, strict=True)]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, shapes, axes)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """This process's share of a global batch -> global arrays, their rows spread over data and fsdp."""
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), dict(batch))
