"""The MIDI files of a folder, in an order and under names that do not depend on the machine."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from amt_jax import storage
from amt_jax.errors import UserError
from amt_jax.music import midi

SUFFIXES = (".mid", ".midi")


@dataclasses.dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
      path: where it lies, as the operating system spells it.
      name: path relative to the input folder with `/` between its parts, printable UTF-8 in NFC; what datasets store.
      sha256: of its bytes; empty if it could not be read.
      reason: why it could not be read, in a short fixed phrase; empty if it could.
      details: what exactly was wrong.
    """

    path: str
    name: str
    sha256: str
    reason: str = ""
    details: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a folder holds: paths of its MIDI files, other files counted by suffix, folders that cannot be read."""

    paths: tuple[str, ...]
    others: Counter[str]
    unreadable: tuple[str, ...]


def printable(path: str) -> str:
    """A path as text that any file or terminal can hold: NFC, `/`, bytes that are not UTF-8 as `\\xNN`."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text.replace(os.sep, "/"))


def relative(path: str, folder: str) -> str:
    """The name of the file at `path` in `folder`, as datasets store it."""
    if storage.is_remote(folder):
        return printable(path.removeprefix(f"{folder.rstrip('/')}/"))
    return printable(os.path.relpath(path, folder))


def find(folder: str) -> Found:
    """Finds every .mid and .midi file under `folder`, through links but never twice through one folder.

    Raises UserError if there is no such folder or no MIDI file in it, saying what is there instead.
    """
    if storage.is_remote(folder):
        return _find_remote(folder)
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder!r}: --input names the folder that holds the MIDI files")
    paths, others, unreadable, seen = [], Counter(), [], set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: unreadable.append(e.filename)):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort(key=printable)
        for name in sorted(names, key=printable):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                paths.append(os.path.join(here, name))
            else:
                others[printable(suffix) or "no suffix"] += 1
    return _found(folder, paths, others, unreadable)


def _find_remote(folder: str) -> Found:
    storage.open_folder(folder)  # says what is wrong with it
    store = storage.file_system(folder)
    with storage.reaching(folder):
        if store.isfile(folder):
            raise UserError(f"no folder {folder!r}: --input names the folder that holds the MIDI files")
        names = store.find(folder)
    paths, others = [], Counter()
    for name in sorted(names, key=printable):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            paths.append(store.unstrip_protocol(name))
        else:
            others[printable(suffix) or "no suffix"] += 1
    return _found(folder, paths, others)


def _found(folder: str, paths: Sequence[str], others: Counter[str], unreadable: Sequence[str] = ()) -> Found:
    if not paths:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        raise UserError(f"no .mid or .midi file in {folder!r}: it holds {kinds or 'no files'}")
    return Found(tuple(paths), others, tuple(unreadable))


def read(path: str) -> bytes:
    """The bytes of a file that may be MIDI; raises MidiError if it is no plain file, too large or unreadable."""
    if storage.is_remote(path):
        return _read_remote(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise midi.MidiError("unreadable", "not a plain file")
        _check_size(status.st_size)
        return Path(path).read_bytes()
    except OSError as error:
        raise midi.MidiError("unreadable", error.strerror or str(error)) from None


def _read_remote(path: str) -> bytes:
    try:
        with storage.reaching(path):
            store = storage.file_system(path)
            _check_size(store.info(path)["size"])
            return store.cat_file(path)
    except midi.MidiError:
        raise
    except UserError as error:
        raise midi.MidiError("unreadable", str(error)) from None


def _check_size(size: int) -> None:
    if size > midi.MAX_BYTES:
        raise midi.MidiError("file too large", f"{size >> 20} MiB, at most {midi.MAX_BYTES >> 20}")


def identify(path: str, folder: str) -> Source:
    """Reads the file at `path` once to know its content from now on."""
    name = relative(path, folder)
    try:
        return Source(path, name, hashlib.sha256(read(path)).hexdigest())
    except midi.MidiError as error:
        return Source(path, name, "", error.reason, error.details)
