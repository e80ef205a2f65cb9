"""TPU chips and slices: datasheet figures, and devices to compile for where there are none."""

from __future__ import annotations

import dataclasses
import importlib.util
import os

from amt_jax.errors import UserError, near


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip by its datasheet.

    Attributes:
      peak: bfloat16 operations a second.
      memory: bytes of main memory (HBM).
      memory_bandwidth: bytes a second between them.
      interconnect: bytes a second that it sends to its neighbours over all its links (ICI); as many come in.
      shapes: slices of it, chips along each dimension of the torus.
    """

    peak: float
    memory: int
    memory_bandwidth: float
    interconnect: float
    shapes: tuple[str, ...]


FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# The interconnect's bandwidth is given there for both directions together; half of it is what a chip can send.
CHIPS = {
    # https://cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GBps, 400 GBps bidirectional
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9, FLAT),
    # https://cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GiB, 2765 GBps, 1200 GBps bidirectional
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")),
    # https://cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1638 GBps, 800 GBps bidirectional
    "v6e": Chip(918e12, 32 * 2**30, 1638e9, 400e9, FLAT),
}
TOPOLOGIES = [f"{name}:{shape}" for name, chip in CHIPS.items() for shape in chip.shapes]


def chip(topology: str) -> Chip:
    """The chip of "v5e:4x4"; UserError for a topology that there is not."""
    if topology not in TOPOLOGIES:
        raise UserError(f"no topology {near(topology, TOPOLOGIES)}")
    return CHIPS[topology.partition(":")[0]]


def slice_devices(topology: str) -> list:
    """The devices of a slice to compile for. Call it before anything else starts jax; nothing runs on them."""
    chip(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs takes their compiler: pip install 'amt_jax[tpu]'")
    # The compiler asks its surroundings for TPUs, and lets one process at a time have them. Here are none to have.
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE="v5litepod-16",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
