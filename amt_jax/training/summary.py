"""What a run will be, in words, before its first step."""

from __future__ import annotations

import math

import jax

from amt_jax.model.config import TransformerConfig
from amt_jax.training.config import TrainConfig
from amt_jax.training.program import Program


def summary(program: Program, config: TrainConfig, model: TransformerConfig) -> list[str]:
    """A line each on the mesh, on what a device keeps, and on a step."""
    mesh, layout = program.mesh, program.layout
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    processes = len({device.process_index for device in mesh.devices.flat})
    kind = mesh.devices.flat[0].device_kind
    size = sum(x.size for x in jax.tree.leaves(program.model.shapes))
    parts = {"parameters": layout.params, "optimizer": layout.optimizer, "average": layout.average}
    kept = {name: device_bytes(part) for name, part in parts.items() if part is not None}
    tokens = config.rows_per_step * config.context
    rows = config.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    return [
        f"mesh: {axes} = {mesh.size} x {kind} in {count(processes, 'process')}, computing in {model.dtype}",
        f"{size / 1e6:.1f} M parameters; a device keeps {size_of(sum(kept.values()))}: "
        + ", ".join(f"{name} {size_of(part)}" for name, part in kept.items()),
        f"a step: {count(config.rows_per_step, 'row')} of {config.context} = {tokens:,} tokens, "
        f"{count(rows, 'row')} a device in each of {count(config.accumulation, 'microbatch')}",
    ]


def weak_spots(program: Program, config: TrainConfig) -> list[str]:
    """What the mesh leaves unused or makes slow, with the way to better it; a line each."""
    mesh, lines = program.mesh, []
    devices = jax.device_count()
    parts = config.mesh.fsdp * config.mesh.tensor * config.mesh.sequence
    if mesh.size < devices // parts * parts and config.mesh.data == -1:
        lines.append(
            f"note: {mesh.size} of {devices} devices share a batch of {config.batch_size} evenly; "
            f"--config.batch_size={devices // parts * config.mesh.fsdp} (or a multiple) uses "
            f"{devices // parts * parts}"
        )
    elif mesh.size < devices:
        lines.append(f"note: the mesh has {mesh.size} of {devices} devices, the others have nothing to do")
    hosts = jax.process_count()
    here = len(mesh.local_devices)
    for axis in ("tensor", "sequence"):
        inner = math.prod(mesh.shape[name] for name in mesh.axis_names[mesh.axis_names.index(axis) :])
        if hosts > 1 and mesh.shape[axis] > 1 and here % inner:
            lines.append(
                f"note: {axis} {mesh.shape[axis]} lies across hosts of {here} devices, and each layer waits for what "
                f"it exchanges; let tensor x sequence divide {here}"
            )
    kept, limit = device_bytes(program.layout), memory_limit()
    if limit and kept > limit / 2:
        lines.append(
            f"note: parameters and optimizer take {size_of(kept)} of a device's {size_of(limit)}; "
            f"a larger config.mesh.fsdp or config.mesh.tensor divides them"
        )
    return lines


def device_bytes(layout) -> int:
    """Bytes that one device keeps of a tree of arrays, or shapes, with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(layout))


def memory_limit() -> int | None:
    """Bytes of memory of a device, where the backend tells (CPUs do not)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def size_of(size: float) -> str:
    """Bytes for people: 1.2 GB, 35 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.{0 if size >= 1e7 else 1}f} MB"


def count(number: int, noun: str) -> str:
    """2 rows, 1 row, 3 processes."""
    plural = "es" if noun.endswith(("s", "sh", "ch")) else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"
