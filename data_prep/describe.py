"""Descriptions of pieces in words, so that every piece can be trained on with text.

    python -m data_prep.describe --metadata=midi_metadata.jsonl --pairs=automated_paired_data.json --output=OUT.jsonl

Captions by people come from --pairs and from the metadata. To these every piece gets captions made of its music: tempo,
key, density, instruments, and composer, era and genre where they are sure. At least half of those do not name the key,
and the same seed always makes the same ones. A tempo that the file does not mark (120, or what a tenth of a collection
shares) is not told: it is null. Moods are those of captions by people, else a guess from mode, tempo and density where
they agree.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from amt_jax.errors import Parser, run_command
from data_prep.flags import check_file, positive

if TYPE_CHECKING:
    from data_prep.words.description import Described


def main() -> int:
    args = _parser().parse_args()
    check_file(args.output, "descriptions.jsonl", [args.metadata, args.pairs])
    from data_prep.words import description

    described = description.describe(
        args.metadata, args.pairs, args.input, Path(args.output), count=args.captions, seed=args.seed
    )
    _show(described, args.input, args.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.describe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    here = os.path.expanduser
    add("--metadata", required=True, type=here, metavar="FILE", help="midi_metadata.jsonl of data_prep.collect")
    add("--pairs", type=here, metavar="FILE", help="automated_paired_data.json of data_prep.pair")
    add("--input", type=here, metavar="DIR", help="the MIDI files: what a line of the metadata lacks is read from them")
    add("--output", required=True, type=here, metavar="FILE", help="descriptions.jsonl to write")
    add(
        "--captions",
        type=positive(int),
        default=4,
        metavar="N",
        help="to make of each piece's music (default %(default)s)",
    )
    add("--seed", type=int, default=0, help="chooses their words (default %(default)s)")
    return parser


def _show(described: Described, music: str | None, output: str) -> None:
    """Prints what was described, and what was not."""
    made = described.captions - described.human
    print(f"{described.pieces} pieces in {output}: {described.captions} captions, {described.human} of them by people,")
    print(f"  {described.distinct} different ones; {made} were made from the music")
    if described.lacking:
        lacking = "pieces lack some of their music's facts; --input=DIR would read them from the MIDI"
        print(f"  {described.lacking:7} {lacking}")
    for reason, count in sorted(described.skipped.items(), key=lambda item: -item[1]):
        print(f"  {count:7} left out: {reason}")
    if described.skipped:
        print(f"          each with its reason in {described.skipped_file}")
    # Without --input it is not known where the music lies.
    command = ["python", "-m", "data_prep.midi", f"--input={music or 'DIR'}", "--output=DATASET"]
    print(f"next:\n  {shlex.join([*command, f'--descriptions={output}'])}")


if __name__ == "__main__":
    run_command(main)
