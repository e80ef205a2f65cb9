"""Pairs: which words belong to which MIDI file, automated_paired_data.json."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt_jax import storage
from amt_jax.errors import UserError
from data_prep.flags import check_music
from data_prep.rows import checked, is_amount, is_naming, is_said, is_text, parse, read_metadata, read_objects

if TYPE_CHECKING:
    from data_prep.words.matching import Match, Thresholds, Verdict

FILE, AMBIGUOUS, UNPAIRED = "automated_paired_data.json", "ambiguous.csv", "unpaired.csv"
Row = Mapping[str, Any]
_NUMBERS = dict.fromkeys(("bpm", "duration", "confidence"), is_amount)
_TEXT = {"text": is_text, "path": is_text, "genre": is_naming} | _NUMBERS
_PAIR = {"midi_path": is_said, "text": is_said, "genre": is_naming, "provenance": lambda value: isinstance(value, dict)}


@dataclasses.dataclass(frozen=True)
class Paired:
    """What became of MIDI files and texts.

    Attributes:
      files, texts: how many there are.
      pairs: how many were made.
      paired: files that are in one.
      ambiguous, unpaired: the other files by reason.
      unused: texts that are in no pair.
      strays: files that texts name, but the metadata does not.
    """

    files: int
    texts: int
    pairs: int
    paired: int
    ambiguous: Counter[str]
    unpaired: Counter[str]
    unused: int
    strays: tuple[str, ...]


def pair(metadata: str, texts: str, folder: Path, limits: Thresholds, music: str | None = None) -> Paired:
    """Writes which texts belong to which MIDI file into `folder`, and beside it which files have none, and why.

    Args:
      metadata: midi_metadata.jsonl.
      texts: texts.jsonl.
      limits: what makes a pair.
      music: the folder of MIDI files, to make sure that they are there, or None.

    Raises UserError if a table cannot be read or used, or a file is gone.
    """
    files = read_metadata(metadata, ["path", "title", "artist"])
    words = read_objects(
        texts,
        ["text"],
        _TEXT,
        "data_prep.texts makes it, and lists beside it which titles have no words and why; data_prep.describe does "
        "without pairs, too",
    )
    if music is not None:
        _require(files, metadata, music)
    verdicts = find(files, words, limits)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, files, words, verdicts)
    used = [match.text for verdict in verdicts for match in verdict.matches]
    left_out = [verdict for verdict in verdicts if not verdict.match]
    known = {row[field] for row in files for field in ("path", "family") if row.get(field)}
    return Paired(
        files=len(files),
        texts=len(words),
        pairs=len(used),
        paired=len(files) - len(left_out),
        ambiguous=Counter(verdict.why for verdict in left_out if verdict.candidates),
        unpaired=Counter(verdict.why for verdict in left_out if not verdict.candidates),
        unused=len(words) - len(set(used)),
        strays=tuple(text["path"] for text in words if text.get("path") and text["path"] not in known),
    )


def read(file: str) -> list[dict[str, Any]]:
    """The entries as `pair` writes them, of a file the best first; UserError at one without midi_path or text."""
    try:
        entries = parse(Path(file).read_text(encoding="utf-8"), file)
    except OSError as error:
        raise UserError(f"cannot read {file!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file!r} as JSON in UTF-8: {error}") from None
    if not isinstance(entries, list):
        raise UserError(f"{file} is not a list of pairs; data_prep.pair makes it")
    read = []
    for number, entry in enumerate(entries, 1):
        try:
            read.append(checked(entry if isinstance(entry, dict) else {}, ["midi_path", "text"], _PAIR))
        except ValueError as error:
            raise UserError(
                f"pair {number} of {file} cannot be used ({error}); data_prep.pair makes such files"
            ) from None
    return read


def genres(entry: Row) -> list[str]:
    """The genres of a pair, which has them in one text or in a list."""
    named = entry.get("genre") or []
    split = ",".join([named] if isinstance(named, str) else named).split(",")
    return [name.strip() for name in split if name.strip()]


def find(files: Sequence[Row], texts: Sequence[Row], limits: Thresholds) -> list[Verdict]:
    """Finds each file's texts: those that name its path (or its source's, for a window), then those with its names."""
    from data_prep.words.matching import Match, Song, Verdict, match, seconds

    # The duration of a window, or at another tempo, is not the song's.
    durations = [not {"start", "original_tempo"} & row.keys() and row.get("duration") for row in files]
    songs = [Song(row["title"], row["artist"], seconds(each)) for row, each in zip(files, durations, strict=True)]
    about, by_path = [], defaultdict(list)
    trust = [_share(text.get("confidence")) for text in texts]
    for number, text in enumerate(texts):
        if path := text.get("path"):
            about.append(Song("", ""))  # It is about this file only: its names are not compared.
            by_path[path].append(Match(number, 100.0, 100.0, trust[number]))
        else:
            about.append(Song(_string(text, "title"), _string(text, "artist"), seconds(text.get("duration"))))
    verdicts = match(songs, about, trust, limits)
    for i, row in enumerate(files):
        if told := by_path.get(row["path"]) or by_path.get(row.get("family")):
            best, *others = sorted(told, key=lambda each: -each.confidence)
            verdicts[i] = Verdict(best, others=(*others, *verdicts[i].matches))
    return verdicts


def _require(files: Sequence[Row], metadata: str, folder: str) -> None:
    """UserError unless all files of the metadata are in the folder."""
    check_music(folder)
    gone = [row["path"] for row in files if not os.path.isfile(os.path.join(folder, row["path"]))]
    if gone:
        raise UserError(
            f"{len(gone)} of {len(files)} files in {metadata} are not in {folder}, {gone[0]!r} first; collect the "
            "folder again (data_prep.collect), or leave --input out"
        )


def _write(folder: Path, files: Sequence[Row], texts: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
    ordered = sorted(zip(files, verdicts, strict=True), key=lambda item: item[0]["path"])
    entries = [_entry(row, texts[match.text], match) for row, verdict in ordered for match in verdict.matches]
    storage.write_text(folder / FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    head = ["midi_path", "title", "artist", "why"]
    candidates = [
        [*head, "confidence", "title_score", "artist_score", "text_title", "text_artist", "source", "url", "text"]
    ]
    unpaired = [head]
    for row, verdict in ordered:
        names = [row["path"], row["title"], row["artist"], verdict.why]
        for each in verdict.candidates:
            about = [_string(texts[each.text], field) for field in ("title", "artist", "source", "url", "text")]
            candidates.append([*names, each.confidence, _score(each.title), _score(each.artist), *about])
        if not verdict.match and not verdict.candidates:
            unpaired.append(names)
    storage.write_text(folder / AMBIGUOUS, _csv(candidates))
    storage.write_text(folder / UNPAIRED, _csv(unpaired))


def _entry(row: Row, text: Row, match: Match) -> dict[str, Any]:
    kept = ("source", "url", "revision", "licence", "title", "artist")
    by = "path" if text.get("path") else "title" if math.isnan(match.artist) else "title and artist"
    scores = {} if by == "path" else {"title_score": _score(match.title), "artist_score": _score(match.artist)}
    genre = text.get("genre") or ""
    tempo = row.get("tempo") or text.get("bpm")
    return {
        "midi_path": row["path"],
        "text": text["text"],
        "genre": genre if isinstance(genre, str) else ", ".join(genre),
        "bpm": round(tempo) if tempo else None,
        "duration": row.get("duration"),
        "confidence": match.confidence,
        "provenance": {field: text[field] for field in kept if text.get(field)} | {"paired_by": by} | scores,
    }


def _string(row: Row, field: str) -> str:
    return str(row.get(field) or "")


def _score(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 1)


def _share(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 1.0


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
