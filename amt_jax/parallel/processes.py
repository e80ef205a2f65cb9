"""Several processes that run one program: what they tell each other."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from amt_jax.errors import SharedError, UserError
from amt_jax.parallel.mesh import sharding

_BYTES = 1024  # of a problem that is passed on


def agree(problem: str = "") -> None:
    """Waits for all processes; if any has a problem, raises UserError in all of them."""
    table = gather(np.frombuffer(problem.encode()[:_BYTES].ljust(_BYTES, b"\0"), np.uint8))
    problems = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in table]
    for process, found in enumerate(problems):
        if found:
            raise SharedError(f"process {process}: {found}" if len(problems) > 1 else found)


def check_same(name: str, value: Any) -> None:
    """Raises UserError in all processes if their `value`, which has to be the same, is not."""
    table = gather(np.frombuffer(hashlib.sha256(repr(value).encode()).digest(), np.uint8))
    others = [str(process) for process, row in enumerate(table) if (row != table[0]).any()]
    if others:
        raise SharedError(
            f"process {', '.join(others)} has another {name} than process 0; give all the same command and files"
        )


def gather(x: np.ndarray) -> np.ndarray:
    """An array of the same shape from each process, bit for bit. [...] -> [processes, ...]"""
    if jax.process_count() == 1:
        return x[None]
    data = np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8)  # jax would make float64 float32
    return np.stack([row.view(x.dtype).reshape(x.shape) for row in multihost_utils.process_allgather(data)])


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A stretch that each process goes through by itself; a UserError in one of them is raised in all."""
    problem = ""
    try:
        yield
    except UserError as error:
        problem = str(error)
    agree(problem)


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def put_wishes(wishes: Sequence[bool], mesh: Mesh) -> jax.Array:
    """What this process wishes, [W] bool, beside what the others do: [devices, W] bool.

    A step takes them and tells what any device's process wished: so all agree without waiting for each other.
    """
    mine = np.array(wishes)[None]
    return jax.make_array_from_callback((mesh.size, len(wishes)), sharding(mesh, "device"), lambda _: mine)
