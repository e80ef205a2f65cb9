"""Compiled programs, kept on this machine: a command compiles only what none before it did."""

from __future__ import annotations

import os
import sys

from amt_jax.data.cache import home


def keep_compiled() -> None:
    """Makes jax keep what takes it a second and more to compile in the user's cache folder.

    JAX_COMPILATION_CACHE_DIR names another folder, or none if it is empty. Programs are found by their text, jax's
    version, the flags of its compiler and the kind of device, for a CPU with its instruction set: machines and
    processes can share a folder.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder, reason = home() / "compiled", "not writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    if not os.access(folder, os.W_OK):
        print(
            f"note: compiled programs are not kept, {folder}: {reason}; name a folder with JAX_COMPILATION_CACHE_DIR",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
