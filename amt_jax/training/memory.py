"""Where a CPU's training step gets its memory from."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes malloc keep what is freed for the next allocation instead of giving it back to the kernel.

    On a CPU each step asks for its whole workspace, a gigabyte for 25 M parameters, and fresh pages cost a tenth of the
    step. Call it before jax starts its threads. It does something under Linux with glibc only.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
