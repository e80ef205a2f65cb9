"""A file of piano-rolls, as the literature keeps them, into a dataset folder.

    python -m data_prep.pianoroll --input=jsb.json --output=DATASET

The file is JSON, {"train": [[[pitch, ...] a frame] a piece], "valid": ..., "test": ...}; train and valid there must be.
Its splits and all its pieces stay as they are, duplicates too: published figures are of all of them. A frame is written
as its MIDI pitches (21 to 108) in ascending order and an end-of-frame token.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command

if TYPE_CHECKING:
    from amt_jax.data.record import Record
    from amt_jax.tokens.pianoroll import PianoRoll

SETS = ("jsb", "nottingham", "piano_midi", "musedata")  # that configs/pianoroll.py has settings for


def main() -> None:
    args = _parser().parse_args()
    from amt_jax.data.rolls import read_rolls
    from amt_jax.tokens.pianoroll import PianoRoll

    tokenizer = PianoRoll(args.frame_seconds)
    splits = read_rolls(args.input, tokenizer, ("train", "valid"))
    write_dataset(splits, tokenizer, args.output, os.path.basename(args.input))
    _show(splits, tokenizer, args.input, args.output)


def write_dataset(splits: Mapping[str, Sequence[Record]], tokenizer: PianoRoll, dataset: Path, source: str) -> None:
    """Makes a dataset folder of these records; UserError if there is one already or something else."""
    from amt_jax.data.card import FILE, Card, Split, combine
    from amt_jax.data.conditions import TRANSPOSITION, TRANSPOSITIONS
    from data_prep.dataset import shards
    from data_prep.dataset.staging import Staging

    staging = Staging(dataset)
    staging.recover()
    if (dataset / FILE).exists():
        staging.remove()
        raise UserError(f"{str(dataset)!r} holds a dataset already: name a new or empty folder")
    tokenizer.save(staging.draft)
    written = {}
    for split, records in splits.items():
        name = f"{split}-00000.array_record"
        shard, _, digests = shards.write_records(name, records, staging.shards, staging.work)
        written[split] = Split((shard,), combine(map(bytes, digests)))
    preparation = {"command": "data_prep.pianoroll", "input": source, "frame_seconds": tokenizer.frame_seconds}
    Card(tokenizer.spec, written, {TRANSPOSITION: TRANSPOSITIONS}, preparation).save(staging.draft)
    staging.commit()
    staging.remove()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.pianoroll", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", required=True, type=os.path.expanduser, metavar="FILE", help="the .json file of piano-rolls")
    add("--output", required=True, type=storage.local_path, metavar="DATASET", help="dataset folder to make")
    add(
        "--frame-seconds",
        type=float,
        default=0.25,
        metavar="SECONDS",
        help="that a frame lasts in the MIDI that a model of this will write (default %(default)s, an eighth note)",
    )
    return parser


def _show(splits: Mapping[str, Sequence[Record]], tokenizer: PianoRoll, source: str, output: Path) -> None:
    """Prints what there is, and what to do next."""
    name = Path(source).stem
    name = name if name in SETS else "jsb"
    frame, seen = tokenizer.spec.ranges["Frame"][0], set()
    for split, records in splits.items():
        tokens, frames = sum(len(each.ids) for each in records), sum((each.ids == frame).sum() for each in records)
        print(f"  {split:5} {len(records):5} pieces {frames:8,} frames {tokens - frames:8,} pitches {tokens:9,} tokens")
        pieces = [each.piece for each in records]
        if copies := len(pieces) - len(set(pieces) - seen):
            print(f"        {copies} like another of this or an earlier split; they stay, as in published figures")
        seen |= set(pieces)
    print("next:")
    print(f"  python -m amt_jax.train --config=pianoroll:{name} --config.dataset={output} --run=RUN")


if __name__ == "__main__":
    run_command(main)
