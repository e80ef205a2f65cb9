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


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """The mesh of a config; UserError if there are too few devices for it, or it does not fit the batch.

    A single process may use fewer devices than it has, several processes use all. Data -1 is as many as share the batch
    evenly.
    """
    devices = jax.devices()
    if config.sequence != 1:
        raise UserError(f"config.mesh.sequence is {config.sequence}; rows cannot be shared yet, it must be 1")
    rest = config.fsdp * config.tensor * config.sequence
    data = config.data
    if data == -1:
        most = len(devices) // rest
        data = max((n for n in range(1, most + 1) if batch_size % (n * config.fsdp) == 0), default=most)
    if not 1 <= data * rest <= len(devices) or (jax.process_count() > 1 and data * rest < len(devices)):
        raise UserError(
            f"config.mesh data {data} x fsdp {config.fsdp} x tensor {config.tensor} x sequence {config.sequence} "
            f"does not fit {len(devices)} devices"
        )
    if batch_size % (data * config.fsdp):
        raise UserError(
            f"config.batch_size {batch_size} cannot be shared by data {data} x fsdp {config.fsdp} devices; "
            f"make it a multiple of {data * config.fsdp}"
        )
    shape = (data, config.fsdp, config.tensor, config.sequence)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[: data * rest])


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
        spec = [
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, shape.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, shapes, axes)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """This process's share of a global batch -> global arrays, their rows spread over data and fsdp."""
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), dict(batch))
