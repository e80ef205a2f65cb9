"""Which words are about which MIDI file: by title, artist and duration.

    python -m data_prep.pair --metadata=midi_metadata.jsonl --texts=texts.jsonl --output=FOLDER

A file gets every text that is about it. Names are compared however they are spelt. A title by another artist is another
song; where one side has no artist, a title counts less. A text that names a file ("path") goes to it. In FOLDER:
automated_paired_data.json, the pairs; ambiguous.csv, files with several candidates or an unsure one, for a person to
look at; unpaired.csv, files that have none, and why. To settle a file by hand, give its text a "path" and run again.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from data_prep.words.pairs import FILE

if TYPE_CHECKING:
    from data_prep.words.pairing import Match, Thresholds, Verdict

PAIRS, AMBIGUOUS, UNPAIRED = FILE, "ambiguous.csv", "unpaired.csv"
DESCRIPTIONS = "descriptions.jsonl"  # to be made
Row = Mapping[str, Any]


def main() -> int:
    args = _parser().parse_args()
    try:
        from data_prep.words import pairing
    except ModuleNotFoundError as error:
        raise UserError(f"pairing needs {error.name}: pip install 'amt_jax[words]'") from None
    from data_prep.rows import read_objects

    files = read_objects(args.metadata, ["path", "title", "artist"])
    texts = read_objects(args.texts, ["text"])
    if args.input:
        _check_files(files, args.metadata, args.input)
    limits = pairing.Thresholds(args.min_title, args.min_artist, args.max_seconds, args.min_confidence)
    verdicts = find(files, texts, limits)
    folder = storage.local_path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, files, texts, verdicts)
    _show(folder, files, texts, verdicts)
    command = ["python", "-m", "data_prep.describe", f"--metadata={args.metadata}", f"--pairs={folder / PAIRS}"]
    command += [f"--input={args.input}"] if args.input else []
    print(f"next:\n  {shlex.join([*command, f'--output={folder / DESCRIPTIONS}'])}")
    return 0


def find(files: Sequence[Row], texts: Sequence[Row], limits: Thresholds) -> list[Verdict]:
    """Finds each file's texts: those that name its path (or its source's, for a window), else by its names."""
    from data_prep.words.pairing import Match, Song, Verdict, pair, seconds

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
            about.append(Song(_text(text, "title"), _text(text, "artist"), seconds(text.get("duration"))))
    verdicts = pair(songs, about, trust, limits)
    for i, row in enumerate(files):
        if named := by_path.get(row["path"]) or by_path.get(row.get("family")):
            best, *others = sorted(named, key=lambda match: -match.confidence)
            verdicts[i] = Verdict(best, others=tuple(others))
    return verdicts


def _write(folder: Path, files: Sequence[Row], texts: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
    ordered = sorted(zip(files, verdicts, strict=True), key=lambda item: item[0]["path"])
    pairs = [_pair(row, texts[match.text], match) for row, verdict in ordered for match in verdict.matches]
    storage.write_text(folder / PAIRS, json.dumps(pairs, indent=1, ensure_ascii=False) + "\n")
    head = ["midi_path", "title", "artist", "why", "confidence", "title_score", "artist_score"]
    rows = [[*head, "text_title", "text_artist", "source", "url", "text"]]
    for row, verdict in ordered:
        for each in verdict.candidates:
            text = texts[each.text]
            scores = [each.confidence, _score(each.title), _score(each.artist)]
            about = [_text(text, field) for field in ("title", "artist", "source", "url", "text")]
            rows.append([*_names(row), verdict.why, *scores, *about])
    storage.write_text(folder / AMBIGUOUS, _csv(rows))
    rows = [[*_names(row), verdict.why] for row, verdict in ordered if not verdict.match and not verdict.candidates]
    storage.write_text(folder / UNPAIRED, _csv([head[:4], *rows]))


def _pair(row: Row, text: Row, match: Match) -> dict[str, Any]:
    kept = ("source", "url", "revision", "licence", "title", "artist")
    by = "path" if text.get("path") else "title" if match.artist != match.artist else "title and artist"
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


def _check_files(files: Sequence[Row], metadata: str, folder: str) -> None:
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder!r}: --input names the folder that holds the MIDI files")
    gone = [row["path"] for row in files if not os.path.isfile(os.path.join(folder, row["path"]))]
    if gone:
        raise UserError(
            f"{len(gone)} of {len(files)} files in {metadata} are not in {folder}, {gone[0]!r} first; collect the "
            "folder again (data_prep.collect), or leave --input out"
        )


def _show(folder: Path, files: Sequence[Row], texts: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
    matches = [match.text for verdict in verdicts for match in verdict.matches]
    paired = sum(bool(verdict.match) for verdict in verdicts)
    print(f"{len(files)} MIDI files, {len(texts)} texts: {len(matches)} pairs of {paired} files in {folder / PAIRS}")
    for name, listed in ((AMBIGUOUS, True), (UNPAIRED, False)):
        reasons = Counter(v.why for v in verdicts if not v.match and bool(v.candidates) == listed)
        for why, count in reasons.most_common():
            print(f"  {count:7} left out: {why}")
        if reasons:
            print(f"          each in {folder / name}")
    if unused := len(texts) - len(set(matches)):
        print(f"  {unused:7} texts are in no pair")
    paths = {row[field] for row in files for field in ("path", "family") if row.get(field)}
    if lost := [text["path"] for text in texts if text.get("path") and text["path"] not in paths]:
        print(f"  {len(lost):7} of them name a file that is not in the metadata, {lost[0]!r} first")


def _names(row: Row) -> list[str]:
    return [row["path"], row["title"], row["artist"]]


def _text(row: Row, field: str) -> str:
    return str(row.get(field) or "")


def _score(value: float) -> float | None:
    return None if value != value else round(value, 1)


def _share(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 1.0


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.pair", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    here = os.path.expanduser  # Shells expand ~ at the beginning of a word, not in --output=~/pairs.
    add("--metadata", required=True, type=here, metavar="FILE", help="midi_metadata.jsonl, by data_prep.collect")
    add("--texts", required=True, type=here, metavar="FILE", help="texts.jsonl, by data_prep.texts")
    add("--output", required=True, type=here, metavar="FOLDER", help="for the three files")
    add("--input", type=here, metavar="DIR", help="folder of the MIDI files, to make sure that they are still there")
    positive = _between(0, float("inf"))
    add("--min-title", type=_between(1, 100), default=85, metavar="SCORE", help="of 100 (default %(default)s)")
    add("--min-artist", type=_between(0, 100), default=80, metavar="SCORE", help="of 100 (default %(default)s)")
    add(
        "--max-seconds",
        type=positive,
        default=5,
        metavar="S",
        help="that durations may differ where both are known; inf: any (default %(default)s)",
    )
    add("--min-confidence", type=_between(0, 1), default=0.6, metavar="SHARE", help="of 1 (default %(default)s)")
    return parser


def _between(low: float, high: float) -> type:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__name__ = f"{low} to {high}"
    return parse


if __name__ == "__main__":
    run_command(main)
