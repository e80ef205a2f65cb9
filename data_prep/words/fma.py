"""The Free Music Archive's metadata: https://github.com/mdeff/fma, the tables of fma_metadata.zip.

tracks.csv has a header of two lines (album, artist, set, track; their columns) and a third with the index's name;
raw_tracks.csv is what the archive's API gave.
"""

from __future__ import annotations

import ast
import csv
import functools
import html
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from amt_jax.errors import UserError
from data_prep.rows import read_rows, require_columns
from data_prep.words.text import Missing, Text

ALBUM_CONFIDENCE = 0.5  # Of what is said about the whole album.
_TRACK_COLUMNS = [f"track.{name}" for name in ("title", "information", "duration", "genre_top", "genres", "license")]
_COLUMNS = [*_TRACK_COLUMNS, "artist.name", "album.information"]
_RAW_COLUMNS = [f"track_{name}" for name in ("title", "information", "duration", "genres", "url")]
_RAW_COLUMNS += ["artist_name", "license_title"]


def read(folder: str) -> Iterator[Text | Missing]:
    """What tracks.csv (which also says what is known about albums), or else raw_tracks.csv, says about each track.

    Raises UserError if `folder` holds neither, or one of other columns.
    """
    tracks, raw = os.path.join(folder, "tracks.csv"), os.path.join(folder, "raw_tracks.csv")
    if os.path.isfile(tracks):
        genres = os.path.join(folder, "genres.csv")
        rows = _checked(genres, ["genre_id", "title"]) if os.path.isfile(genres) else ()
        names = {row["genre_id"]: row["title"] for row in rows}
        yield from _each(_joined(tracks), functools.partial(_track, names=names), "track.title", "artist.name")
    elif os.path.isfile(raw):
        yield from _each(_checked(raw, _RAW_COLUMNS), _raw_track, "track_title", "artist_name")
    else:
        there = ", ".join(sorted(os.listdir(folder))[:8]) if os.path.isdir(folder) else "no such folder"
        raise UserError(f"no tracks.csv or raw_tracks.csv in --fma={folder} ({there}): unpack fma_metadata.zip there")


def _each(
    rows: Iterator[Mapping[str, str]], make: Callable[[Mapping[str, str]], Text], title: str, artist: str
) -> Iterator[Text | Missing]:
    for row in rows:
        try:
            yield make(row)
        except (ValueError, SyntaxError, TypeError, KeyError) as error:
            yield Missing("fma", row.get(title) or "", row.get(artist) or "", "unreadable row", str(error))


def _track(row: Mapping[str, str], names: Mapping[str, str]) -> Text:
    about, album = _plain(row["track.information"]), _plain(row["album.information"])
    genres = [
        row["track.genre_top"],
        *(names.get(str(each), "") for each in ast.literal_eval(row["track.genres"] or "[]")),
    ]
    return Text(
        row["track.title"],
        row["artist.name"],
        about or album,
        "fma",
        licence=row["track.license"],
        confidence=1.0 if about else ALBUM_CONFIDENCE,
        genre=tuple(dict.fromkeys(filter(None, genres))),
        duration=_seconds(row["track.duration"]),
    )


def _raw_track(row: Mapping[str, str]) -> Text:
    genres = ast.literal_eval(row["track_genres"] or "[]")
    return Text(
        row["track_title"],
        row["artist_name"],
        _plain(row["track_information"]),
        "fma",
        url=row["track_url"],
        licence=row["license_title"],
        genre=tuple(each["genre_title"] for each in genres),
        duration=_seconds(row["track_duration"]),
    )


def _joined(file: str) -> Iterator[dict[str, str]]:
    """Rows of tracks.csv with columns such as track.title."""
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            columns = [".".join(pair) for pair in zip(next(reader, ()), next(reader, ()), strict=False)]
            require_columns(file, columns, _COLUMNS)
            for row in reader:
                if row and row[0] != "track_id":
                    yield dict(zip(columns, row, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file!r} as csv in UTF-8: {error}") from None


def _checked(file: str, wanted: list[str]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(read_rows(file)):
        if number == 0:
            require_columns(file, row, wanted)
        yield row


def _plain(markup: str) -> str:
    """The text of the simple HTML that the archive's editor writes."""
    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"(?i)<(?:br|/p|/div|/li|/h\d)\b[^>]*>", "\n", markup)))


def _seconds(duration: str) -> float | None:
    """Of 168, 02:48 or 1:02:48."""
    if not duration:
        return None
    seconds = 0.0
    for part in duration.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
