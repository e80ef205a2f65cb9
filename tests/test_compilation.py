"""What is compiled is kept: commands and their processes as a person starts them."""

import os
import subprocess
import sys

import pytest

WORK = """
from amt_jax.compilation import keep_compiled
keep_compiled()
import jax, jax.numpy as jnp
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.eye(8))[0, 0])
"""
HIT, MISS = "Persistent compilation cache hit for 'jit__lambda'", "PERSISTENT COMPILATION CACHE MISS for 'jit__lambda'"


@pytest.fixture
def start(tmp_path):
    """A function: words after `python`, environment -> a process that nobody told where to keep what it compiles."""

    def start(*words, **environment):
        inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        inherited |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_LOGGING_LEVEL": "DEBUG"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, *words], env=inherited | environment, **pipes)

    return start


def said(process):
    """What a process that succeeded wrote."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def test_the_second_process_compiles_nothing(start, tmp_path):
    first, err = said(start("-c", WORK))
    assert MISS in err
    assert any((tmp_path / "amt_jax" / "compiled").glob("jit__lambda-*"))
    both = [start("-c", WORK), start("-c", WORK)]
    for second, err in map(said, both):
        assert HIT in err
        assert second == first


def test_another_folder_or_none(start, tmp_path):
    said(start("-c", WORK, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "other")))
    assert any((tmp_path / "other").glob("jit__lambda-*"))
    said(start("-c", WORK, JAX_COMPILATION_CACHE_DIR=""))
    assert not (tmp_path / "amt_jax").exists()


def test_where_nothing_can_be_kept_it_is_said_once(start):
    _, err = said(start("-c", WORK, XDG_CACHE_HOME="/dev/null"))
    assert err.count("note: compiled programs are not kept, /dev/null/amt_jax/compiled: Not a directory") == 1
    assert "UserWarning" not in err


def test_a_damaged_program_is_compiled_again(start, tmp_path):
    first, _ = said(start("-c", WORK))
    for path in (tmp_path / "amt_jax" / "compiled").glob("jit__lambda-*"):
        path.write_bytes(path.read_bytes()[:100])
    again, err = said(start("-c", WORK))
    assert again == first
    assert "Error reading persistent compilation cache entry for 'jit__lambda'" in err


@pytest.mark.parametrize(
    "words",
    [
        ["amt_jax.train", "--config=demo", "--config.dataset=/nowhere"],
        ["amt_jax.generate", "--output=/nowhere"],
        ["amt_jax.evaluate", "--output=/nowhere"],
    ],
)
def test_every_command_keeps_what_it_compiles(start, tmp_path, words):
    process = start("-m", *words, f"--run={tmp_path / 'run'}")
    assert process.wait(timeout=120) == 2  # for want of a run or a dataset
    assert (tmp_path / "amt_jax" / "compiled").is_dir()
    process.communicate()
