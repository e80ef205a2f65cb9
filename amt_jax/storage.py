"""Storage: folders of datasets and runs on this machine or in an object store, gs://… or s3://…."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from amt_jax.errors import UserError

if TYPE_CHECKING:
    from etils import epath
    from fsspec import AbstractFileSystem

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

STORES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # scheme -> the package that speaks it, our extra with it


def is_remote(folder: str | os.PathLike) -> bool:
    return "://" in os.fspath(folder)


def open_folder(folder: str | os.PathLike) -> Path | epath.Path:
    """The path of a folder, whether or not there is one yet.

    UserError if its scheme is unknown, or its bucket cannot be listed: no such bucket, no credentials, no network.
    """
    text = os.fspath(folder)
    if not is_remote(text):
        return Path(text).expanduser()  # shells expand ~ at the beginning of a word, not in --run=~/run
    files = file_system(text)
    with reaching(text):
        try:
            files.ls(text)
        except FileNotFoundError:  # no such folder or no such bucket
            bucket = "/".join(text.split("/")[:3])
            try:
                files.ls(bucket)
            except FileNotFoundError:
                raise UserError(f"there is no bucket {bucket}; make it, or name another") from None
    # TensorFlow, where something else installed it, takes seconds to import and cannot read s3://.
    os.environ.setdefault("EPATH_USE_TF", "false")
    from etils import epath

    return epath.Path(text)


def file_system(folder: str | os.PathLike) -> AbstractFileSystem:
    """fsspec's client for a remote folder; UserError if there is none for its scheme or it is not installed."""
    scheme = os.fspath(folder).partition("://")[0]
    if scheme not in STORES:
        raise UserError(f"{folder}: {scheme}:// is not known; name a folder on this machine, gs://… or s3://…")
    package, extra = STORES[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{folder} needs the package {package}; pip install 'amt_jax[{extra}]'")
    import fsspec

    # Others write to the same folders: TensorStore in this process, and other processes.
    fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    logging.getLogger(package).setLevel(logging.CRITICAL)  # It logs the tracebacks of what it raises.
    with reaching(folder):
        return fsspec.filesystem(scheme)


@contextlib.contextmanager
def reaching(folder: str | os.PathLike) -> Iterator[None]:
    """Turns whatever an object store's client raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot reach or copy {folder} ({reason}); check its name, your credentials and the network"
        ) from error


def absolute(folder: str | os.PathLike) -> str:
    """A folder's name that holds from any working directory; ~ is the home folder."""
    return os.fspath(folder) if is_remote(folder) else os.path.abspath(os.path.expanduser(folder))


def local_path(folder: str) -> Path:
    """The path of a folder that has to be on this machine, ~ the home folder; UserError if it is not."""
    if is_remote(folder):
        raise UserError(f"{folder}: this is written on this machine; name a folder here and copy it there after")
    return Path(folder).expanduser()


def write_text(path: Path | epath.Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    if is_remote(path):  # An object appears when it is complete.
        path.write_text(text, encoding="utf-8")
        return
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def upload(source: Path, target: str | os.PathLike, *, progress: str = "") -> None:
    """Copies everything in a local folder into a remote one, under a bar of that name; what else is there stays."""
    files = file_system(target)
    from fsspec.callbacks import NoOpCallback, TqdmCallback

    bar = TqdmCallback(tqdm_kwargs={"desc": progress, "unit": "file", "delay": 2}) if progress else NoOpCallback()
    with reaching(target), bar:
        files.put(f"{source}/", f"{target}/", recursive=True, callback=bar)


@contextlib.contextmanager
def sending(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder on this machine; at the end of the block what was written to it is in `folder`."""
    if not is_remote(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as here:
        yield Path(here)
        upload(Path(here), folder)


def open_bytes(path: str | os.PathLike) -> BinaryIO:
    """An open file to be read in any order; a remote one is fetched whole."""
    if not is_remote(path):
        return open(path, "rb")
    with reaching(path):
        return io.BytesIO(file_system(path).cat_file(os.fspath(path)))


@contextlib.contextmanager
def lock(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock of a local file or folder until the end of the block or of the process.

    BlockingIOError if another process holds it and not `wait`. Where there are no such locks (Windows), none is held.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
