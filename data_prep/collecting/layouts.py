"""Layouts: what a collection's own tables, or else its folders and file names, say of its MIDI files.

Tables are known by what is in them and have to lie directly in the folder:

    MAESTRO    .csv with canonical_composer, canonical_title, midi_filename (Hawthorne et al. 2019)
    ASAP       .csv with composer, title, midi_score, midi_performance (Foscarin et al. 2020)
    MidiCaps   .json or .jsonl, an object with location and caption a line (Melechovsky et al. 2024)
    Lakh       md5_to_paths.json, {md5: [path, ...]} of files that are called by their md5 (Raffel 2016)
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from amt_jax.errors import UserError

MD5_TO_PATHS = "md5_to_paths.json"
_HASH = re.compile(r"[0-9a-f]{32}")
# Folders that sort files or hold all of them, and are nobody's name.
_NO_ARTIST = re.compile(r"\d+|[0-9a-z]|midis?|midi[ _]files|mid|data|files|songs|music", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a file without hearing it; `captions` of these tables were made by machines."""

    title: str = ""
    artist: str = ""
    captions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A collection's own table.

    Attributes:
      source: the collection.
      file: the table's name.
      licence: of what the collection distributes.
      rows: by a file's name (see files.Source.name), by its stem for Lakh.
    """

    source: str
    file: str
    licence: str
    rows: dict[str, About]

    def get(self, name: str) -> About | None:
        return self.rows.get(posixpath.splitext(posixpath.basename(name))[0] if self.source == "Lakh" else name)


class Layout:
    """How the files of a folder tell what they are."""

    def __init__(self, folder: str, names: Sequence[str]):
        """Looks for tables in `folder`, of which `names` are the MIDI files.

        Raises UserError if a table that is known cannot be read.
        """
        self.tables = tuple(_tables(folder))
        self._root = _root(names)
        self._found = {table.file: sum(table.get(name) is not None for name in names) for table in self.tables}
        self._total = len(names)
        self._artists = len({_by_path(name, self._root).artist for name in names} - {""})

    def __str__(self) -> str:
        said = [f"{each.source} ({each.file} names {self._found[each.file]} of {self._total})" for each in self.tables]
        if not any(self._found.values()) or max(self._found.values()) < self._total:
            said.append(f"Artist/Title.mid ({self._artists} artists)" if self._artists else "file names as titles")
        return ", else ".join(said)

    def line(self, name: str) -> dict[str, Any]:
        """title, artist, licence, source and, where there are any, captions of a file."""
        found = [(table, about) for table in self.tables if (about := table.get(name))]
        about = [about for _, about in found] + [_by_path(name, self._root)]
        line = {
            "title": next((each.title for each in about if each.title), ""),
            # A title and an artist from two places might not belong together.
            "artist": next((each.artist for each in about if each.title), ""),
            "licence": found[0][0].licence if found else "",
            "source": found[0][0].source if found else "",
        }
        captions = [{"text": text, "human": False} for each in about for text in each.captions]
        return line | ({"captions": captions} if captions else {})


def _by_path(name: str, root: str) -> About:
    """By "Artist/Title.mid", the artist being the first folder below `root`; hashes are no titles."""
    *folders, stem = posixpath.splitext(name.removeprefix(root))[0].split("/")
    if _HASH.fullmatch(stem):
        return About()
    artist = folders[0] if folders and not _NO_ARTIST.fullmatch(folders[0]) else ""
    # "Title.1.mid" is another version of "Title.mid".
    return About(_words(re.sub(r"\.\d+$", "", stem)), _words(artist))


def _root(names: Iterable[str]) -> str:
    """The folders that all files share, as long as each file lies in a folder below them; with "/", or empty."""
    folders = [name.split("/")[:-2] for name in names]
    shared = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}/" for part in shared)


def _words(text: str | None) -> str:
    return " ".join(unicodedata.normalize("NFC", text or "").replace("_", " ").split())


def _tables(folder: str) -> Iterator[Table]:
    for file in sorted(os.listdir(folder)):
        path, suffix = os.path.join(folder, file), os.path.splitext(file)[1].lower()
        if not os.path.isfile(path):
            continue
        try:
            if file == MD5_TO_PATHS:
                yield Table("Lakh", file, "CC BY 4.0", _md5_to_paths(path))
            elif suffix == ".csv":
                header = _header(path)
                for source, licence, columns, read in _CSV:
                    if columns <= header:
                        with open(path, encoding="utf-8-sig", newline="") as lines:
                            yield Table(source, file, licence, dict(read(csv.DictReader(lines, strict=True))))
            elif suffix in (".json", ".jsonl") and {"location", "caption"} <= _first_keys(path):
                yield Table("MidiCaps", file, "CC BY-SA 4.0", dict(_midicaps(path, folder)))
        except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"cannot read {path!r}, the collection's table: {error}") from None


def _header(path: str) -> set[str]:
    """The columns of a .csv; none if it is something else, which is nobody's error before it is known to be ours."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            return set(next(csv.reader(lines), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()


def _first_keys(path: str) -> set[str]:
    """The keys of the object in the first line of a file; none if it is something else."""
    try:
        with open(path, "rb") as lines:
            first = json.loads(lines.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return set()
    return set(first) if isinstance(first, dict) else set()


def _maestro(rows: Iterable[dict[str, str]]) -> Iterator[tuple[str, About]]:
    for row in rows:
        about = About(_words(row["canonical_title"]), _words(row["canonical_composer"]))
        yield _name(row["midi_filename"]), about


def _asap(rows: Iterable[dict[str, str]]) -> Iterator[tuple[str, About]]:
    for row in rows:
        for column in ("midi_score", "midi_performance"):
            yield _name(row[column]), About(_words(row["title"]), _words(row["composer"]))


_Read = Callable[[Iterable[dict[str, str]]], Iterator[tuple[str, About]]]
_CSV: tuple[tuple[str, str, set[str], _Read], ...] = (
    ("MAESTRO", "CC BY-NC-SA 4.0", {"canonical_composer", "canonical_title", "midi_filename"}, _maestro),
    ("ASAP", "CC BY-NC-SA 4.0", {"composer", "title", "midi_score", "midi_performance"}, _asap),
)


def _midicaps(path: str, folder: str) -> Iterator[tuple[str, About]]:
    inside = f"{os.path.basename(os.path.realpath(folder))}/"
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                location, caption = _name(row["location"]), " ".join(row["caption"].split())
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"line {number} is no object with location and caption ({error})") from None
            # Locations begin with the folder of the archive, which may be the very folder that is looked at.
            yield location.removeprefix(inside), About(captions=(caption,))


def _md5_to_paths(path: str) -> dict[str, About]:
    with open(path, encoding="utf-8") as file:
        table = json.load(file)
    return {md5: _by_original(paths) for md5, paths in table.items()}


def _by_original(paths: Sequence[str]) -> About:
    """The name that a file had where it was found: the one that most of its copies had."""
    names = [_by_path(f"{folder}/{file}", "") for folder, file in map(_last_two, paths)]
    return max(names, key=lambda each: (names.count(each), bool(each.artist)), default=About())


def _last_two(path: str) -> tuple[str, str]:
    *folders, file = _name(path).split("/")
    return (folders[-1] if folders else "0"), file


def _name(path: str | None) -> str:
    return posixpath.normpath(unicodedata.normalize("NFC", (path or "").strip().replace("\\", "/")))
