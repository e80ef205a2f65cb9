"""Collector: a folder of MIDI files into midi_metadata.jsonl, going on where an interrupted one stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amt_jax.errors import UserError
from data_prep import files, pool
from data_prep.collecting import portrait
from data_prep.collecting.layouts import Layout
from data_prep.collecting.portrait import Making, Portrait
from data_prep.table import Table

METADATA, SKIPPED, MIDI = "midi_metadata.jsonl", "collect_skipped.jsonl", "midi"
FOLDER = ".collect"
TOO_LONG = "its name is too long for that of music made of it"
# A row of the journal: name and stamp of a file, what was found in it as JSON.
_COLUMNS = "name TEXT, stamp TEXT, found TEXT"


@dataclasses.dataclass(frozen=True)
class Collected:
    """What became of a folder's files.

    Attributes:
      files: MIDI files found.
      lines: written to the metadata, one a file or one a window.
      identical: files with the very bytes of one before them.
      dropped: windows with too few notes.
      gone: files of an earlier run that are not in the folder any more.
      skipped: files without a line, by reason.
      layout: where titles and artists come from.
      unreadable: folders that could not be looked into.
    """

    files: int
    lines: int
    identical: int
    dropped: int
    gone: int
    skipped: Counter[str]
    layout: str
    unreadable: tuple[str, ...]


def collect(
    folder: str, output: Path, making: Making, *, workers: int = 1, timeout: float = 60.0, licence: str = ""
) -> Collected:
    """Looks at every MIDI file under `folder`; writes midi_metadata.jsonl and collect_skipped.jsonl into `output`.

    Music that `making` changes is written under `output`/midi. A second run looks only at what is new or has changed.
    `licence` takes the place of what the collection's own table says.

    Raises UserError for what the person can put right, pool.Interrupted on Ctrl-C.
    """
    found = files.find(folder)
    paths: dict[str, str] = {}
    skipped = []
    for path in found.paths:
        name = files.relative(path, folder)
        if paths.setdefault(name, path) != path:
            skipped.append({"path": name, "reason": "spelled as another file", "details": repr(path)})
    layout = Layout(folder, list(paths))
    # What the tables of the collection and --licence say is looked up at the end, and is not part of this.
    configuration = json.dumps([portrait.VERSION, dataclasses.asdict(making)])
    _claim(output, configuration, os.path.abspath(folder))
    journal = Table(output / FOLDER / "journal.sqlite", _COLUMNS, configuration)
    try:
        stamps = {name: _stamp(path) for name, path in paths.items()}
        gone = sum(name not in stamps for name in journal)
        # Without the music that was made, what the journal keeps of it is worth nothing.
        _forget(output, journal, stamps if (output / MIDI).exists() or not making.changes else {})
        todo = {path: name for name, path in paths.items() if name not in journal}
        tasks = ((path, making) for path in todo)
        runs = pool.run_all(
            portrait.from_file, tasks, min(workers, len(todo)), timeout, ["data_prep.collecting.portrait"]
        )
        done = len(paths) - len(todo)
        try:
            with pool.progress("collecting", "file", len(paths), done) as bar, contextlib.closing(runs):
                for (path, _), result in runs if todo else ():
                    name = todo[path]
                    if isinstance(result, Portrait) and result.sha256:
                        try:
                            kept = _keep(name, result, output)
                        except OSError as error:
                            if error.errno != errno.ENAMETOOLONG:
                                raise
                            skipped.append({"path": name, "reason": TOO_LONG, "details": os.path.basename(name)})
                        else:
                            journal.put(name, stamps[name], json.dumps(kept, ensure_ascii=False))
                    else:  # Another time it might go well.
                        skipped.append({"path": name, "reason": result.reason, "details": result.details})
                    bar.update()
        finally:
            journal.commit()
        return _write(output, journal, sorted(paths), layout, licence, skipped, found, gone)
    finally:
        journal.close()


def _stamp(path: str) -> str:
    """Differs when a file has changed."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _claim(output: Path, configuration: str, folder: str) -> None:
    """Makes the output folder for this input `folder` and `configuration`.

    Raises UserError if it holds what was made of another folder, or music made with another configuration, or cannot
    be written.
    """
    mark = output / FOLDER / "making.json"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        was = _made(mark)
        if was and was["input"] != folder:
            # Its music would be removed as that of files that are gone.
            raise UserError(f"{str(output)!r} holds what was made of {was['input']!r}: name another --output")
        if (output / MIDI).exists() and (not was or was["configuration"] != configuration):
            raise UserError(
                f"{str(output / MIDI)!r} holds music made with other settings: delete it, or name another --output"
            )
        mark.write_text(json.dumps({"input": folder, "configuration": configuration}), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {str(output)!r}: {error.strerror}") from None


def _made(mark: Path) -> dict[str, str] | None:
    """Of what and how an output folder's content was made; None if that is not known."""
    try:
        made = json.loads(mark.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: half written
        return None
    return made if isinstance(made, dict) else None


def _forget(output: Path, journal: Table, stamps: Mapping[str, str]) -> None:
    """Removes what was made of files that are gone or have changed."""
    for name in journal:
        stamp, found = journal.get(name, "stamp, found")
        if stamps.get(name) != stamp:
            for part in json.loads(found)["parts"]:
                if "path" in part:
                    (output / MIDI / part["path"]).unlink(missing_ok=True)
            journal.remove(name)


def _keep(name: str, result: Portrait, output: Path) -> dict[str, Any]:
    """Writes the music that was made of a file; returns what the journal keeps of it."""
    parts = []
    for part in result.parts:
        made = {}
        if part.midi:
            # Any other suffix stays, so that no two files write to one path.
            stem, number = name.removesuffix(".mid"), "" if part.number is None else f"_{part.number:03}"
            made = {"path": f"{stem}{number}.mid", "family": name}
            path = output / MIDI / made["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part.midi)
        parts.append(part.facts | made)
    return {
        "sha256": result.sha256,
        "parts": parts,
        "dropped": result.dropped,
        "reason": result.reason,
        "details": result.details,
    }


def _write(
    output: Path,
    journal: Table,
    names: Iterable[str],
    layout: Layout,
    licence: str,
    skipped: list[dict[str, str]],
    found: files.Found,
    gone: int,
) -> Collected:
    """Writes both tables from the journal, and counts."""
    lines, dropped, identical, seen = 0, 0, 0, set()
    with _whole(output / METADATA) as metadata, _whole(output / SKIPPED) as left_out:
        for name in names:
            row = journal.get(name, "found")
            if row is None:
                continue
            entry = json.loads(row[0])
            dropped += entry["dropped"]
            if not entry["parts"]:
                reason = entry["reason"] or "too few notes in every window"
                skipped.append({"path": name, "reason": reason, "details": entry["details"]})
                continue
            about = layout.line(name)
            if licence:
                about["licence"] = licence
            identical += entry["sha256"] in seen
            seen.add(entry["sha256"])
            for part in entry["parts"]:
                line = {"path": name, "sha256": entry["sha256"]} | about | part
                metadata.write(json.dumps(line, ensure_ascii=False) + "\n")
                lines += 1
        for line in sorted(skipped, key=lambda each: each["path"]):
            left_out.write(json.dumps(line, ensure_ascii=False) + "\n")
    reasons = Counter(each["reason"] for each in skipped)
    return Collected(len(found.paths), lines, identical, dropped, gone, reasons, str(layout), found.unreadable)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Any]:
    """A text file that appears when it is whole."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        yield file
    os.replace(part, path)
