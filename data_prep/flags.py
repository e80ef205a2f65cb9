"""Flags: what several commands take, checked alike."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

from amt_jax import storage
from amt_jax.errors import UserError


def positive(kind: type) -> type:
    """An argparse type: a finite number of `kind` above 0."""

    def parse(text: str) -> int | float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def seed(text: str) -> int:
    """An argparse type: what random generators take as a seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"seed is between 0 and {2**32 - 1}, not {value}")
    return value


def check_file(output: str | os.PathLike, example: str, inputs: Iterable[str | None], flag: str = "--output") -> None:
    """Raises UserError if the file to write is a folder, naming a file in it, or one of the files to read."""
    if os.path.isdir(output):
        raise UserError(f"{flag}={output} is a folder; name a file in it, such as {os.path.join(output, example)}")
    if os.path.realpath(output) in (os.path.realpath(each) for each in inputs if each):
        raise UserError(f"{flag}={output} would overwrite what this command reads; name another file")


def check_music(folder: str) -> None:
    """Raises UserError if there is no such folder of MIDI files."""
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder!r}: --input names the folder that holds the MIDI files")


def check_folders(source: str, output: str) -> None:
    """Raises UserError if the output lies in the folder of MIDI files, where it would be taken for music."""
    if storage.is_remote(source) or storage.is_remote(output):
        lies_in = f"{output}/".startswith(f"{source.rstrip('/')}/")
    else:
        inside, outside = os.path.realpath(output), os.path.realpath(source)
        lies_in = os.path.commonpath([inside, outside]) == outside
    if lies_in:
        raise UserError(
            f"--output={output} lies in --input={source}: keep what is made outside the folder of MIDI files"
        )
