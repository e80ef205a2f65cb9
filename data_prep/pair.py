"""Which words are about which MIDI file: by title, artist and duration.

    python -m data_prep.pair --metadata=midi_metadata.jsonl --texts=texts.jsonl --output=FOLDER

A file gets every text that is about it. Names are compared however they are spelt. A title by another artist is another
song; where one side has no artist, a title counts less. A text that names a file ("path") goes to it, whatever its
confidence. In FOLDER:
automated_paired_data.json, the pairs; ambiguous.csv, files with several candidates or an unsure one, for a person to
look at; unpaired.csv, files that have none, and why. To settle a file by hand, give its text a "path" and run again.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from data_prep.words import pairs


def main() -> int:
    args = _parser().parse_args()
    try:
        from data_prep.words.matching import Thresholds
    except ModuleNotFoundError as error:
        raise UserError(f"pairing needs {error.name}: pip install 'amt_jax[words]'") from None
    limits = Thresholds(args.min_title, args.min_artist, args.max_seconds, args.min_confidence)
    folder = storage.local_path(args.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={folder} is a file; name a folder for the three files")
    _show(pairs.pair(args.metadata, args.texts, folder, limits, args.input), folder)
    command = ["python", "-m", "data_prep.describe", f"--metadata={args.metadata}", f"--pairs={folder / pairs.FILE}"]
    command += [*([f"--input={args.input}"] if args.input else []), f"--output={folder / 'descriptions.jsonl'}"]
    print(f"next:\n  {shlex.join(command)}")
    return 0


def _show(paired: pairs.Paired, folder: Path) -> None:
    """Prints what was paired, and what was not."""
    made = f"{paired.pairs} pairs of {paired.paired} files in {folder / pairs.FILE}"
    print(f"{paired.files} MIDI files, {paired.texts} texts: {made}")
    for name, reasons in ((pairs.AMBIGUOUS, paired.ambiguous), (pairs.UNPAIRED, paired.unpaired)):
        for why, count in reasons.most_common():
            print(f"  {count:7} left out: {why}")
        if reasons:
            print(f"          each in {folder / name}")
    if paired.unused:
        print(f"  {paired.unused:7} texts are in no pair")
    if paired.strays:
        named = f"name a file that is not in the metadata, {paired.strays[0]!r} first"
        print(f"  {len(paired.strays):7} of them {named}")


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
