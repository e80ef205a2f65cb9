"""A folder of MIDI files into a dataset folder.

    python -m data_prep.midi --input=DIR --output=DATASET

Composers are the folders directly in DIR, or come from a table (--metadata). Pieces of one work share a split: those of
one value in --family-column or, without it, windows of one file in --descriptions; of files of which these say nothing,
those in one folder below the composer's; and near-identical music. Exact copies are left out. Run again, it adds what
is new to the dataset and keeps every split and every composer's id. DIR and DATASET may lie in a bucket: gs://… or
s3://….
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import logging
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from data_prep.flags import check_folders, positive

if TYPE_CHECKING:
    from amt_jax.data.card import Card
    from data_prep.dataset.preparation import MakeRunner, Prepared


def main() -> int:
    args = _parser().parse_args()
    # Not before: these bring numpy, symusic and MidiTok, and --help should not wait for them.
    from data_prep import pool
    from data_prep.dataset import descriptions
    from data_prep.dataset.local import Local
    from data_prep.dataset.metadata import Metadata
    from data_prep.dataset.preparation import prepare
    from data_prep.dataset.settings import Settings

    check_folders(args.input, args.output)
    settings = Settings(
        tokenizer=args.tokenizer,
        bpe=args.bpe,
        valid=args.valid,
        test=args.test,
        seed=args.seed,
        min_count=args.min_count,
        count=args.count,
    )
    if not storage.is_remote(args.input) and not os.path.isdir(args.input):
        raise UserError(f"no folder {args.input!r}: --input names the folder that holds the MIDI files")
    metadata = None
    if args.metadata:
        metadata = Metadata.read(args.metadata, args.input, args.path_column, args.composer_column, args.family_column)
    described = descriptions.read(args.descriptions, args.input) if args.descriptions else None
    if described:
        metadata = dataclasses.replace(
            metadata or Metadata(), licences=descriptions.licences(args.descriptions, args.input)
        )
        if metadata.families is None:
            families = descriptions.families(args.descriptions, args.input) or None
            metadata = dataclasses.replace(metadata, families=families)
    workers = args.workers or pool.usable_cores()
    if args.runner == "beam":
        make_runner = _beam(args, workers)
    else:
        make_runner = functools.partial(Local, workers=workers, timeout=args.timeout)
    try:
        prepared = prepare(
            args.input,
            args.output,
            settings,
            metadata=metadata,
            descriptions=described,
            licence=args.licence,
            make_runner=make_runner,
        )
    except KeyboardInterrupt as error:
        if args.runner == "beam":
            print("interrupted: the dataset is as it was", file=sys.stderr)
            sys.stderr = io.StringIO()  # Beam's threads complain when they find that their work is gone.
            return 130
        done = f"{error.done} of {error.total} files are done; " if isinstance(error, pool.Interrupted) else ""
        print(f"interrupted: {done}run the same command again to go on from here", file=sys.stderr)
        return 130
    _show(prepared, args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.midi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # Shells expand ~ at the beginning of a word, not in --input=~/midis.
    here = os.path.expanduser
    add(
        "--input",
        required=True,
        type=here,
        metavar="DIR",
        help="folder of .mid and .midi files, at any depth",
    )
    add(
        "--output",
        required=True,
        type=here,
        metavar="DATASET",
        help="dataset folder to make, or to add to",
    )
    add(
        "--tokenizer",
        default="remi",
        help="remi (one piano, 419 ids), remi_multitrack or tsd (both with "
        "instruments), amt_events or remigen (one piano in seconds, without bars, 512 ids; the first without loudness)",
    )
    add("--bpe", type=int, default=0, metavar="N", help="learn byte pair encoding up to N ids, 2000 say; 0: none")
    add("--workers", type=positive(int), metavar="N", help="processes; as many as usable cores if not given")
    add(
        "--runner",
        choices=("local", "beam"),
        default="local",
        help="processes of this machine, or Apache Beam (default %(default)s)",
    )
    add(
        "--beam-options",
        default="",
        metavar="FLAGS",
        help="Beam's own in one text: '--runner=FlinkRunner --flink_master=HOST:8081' (default: Beam on this machine)",
    )
    add("--timeout", type=positive(float), default=60.0, metavar="SECONDS", help="for one file (default %(default)g)")
    add(
        "--descriptions",
        type=here,
        metavar="FILE",
        help="descriptions.jsonl of data_prep.describe: captions, genres, moods, tempo, ... to train with",
    )
    add("--metadata", type=here, metavar="FILE", help="a .csv or .jsonl table about the files")
    add("--path-column", default="path", help="its column of paths relative to --input (default %(default)s)")
    add("--composer-column", metavar="COLUMN", help="its column of composers")
    add(
        "--family-column",
        metavar="COLUMN",
        help="its column that names the work a file is a performance of; it counts instead of the file's folder",
    )
    add(
        "--min-count",
        type=int,
        default=10,
        metavar="N",
        help="for a composer to get an id (default %(default)s)",
    )
    add("--count", default="files", help="what --min-count counts: files or works (default %(default)s)")
    add(
        "--valid",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of families, to validate on (default %(default)s)",
    )
    add("--test", type=float, default=0.05, metavar="SHARE", help="of families, to test on (default %(default)s)")
    add("--seed", type=int, default=0, help="chooses which families those are (default %(default)s)")
    add(
        "--licence",
        default="",
        metavar="TEXT",
        help="licence of the music, kept in every record (default: what --descriptions says of each file)",
    )
    return parser


def _beam(args: argparse.Namespace, workers: int) -> MakeRunner:
    # Before Beam is imported: it would warn of what it could do elsewhere, and log each failure in hundreds of lines.
    logging.basicConfig(level=logging.CRITICAL)
    try:
        from data_prep.dataset import beam
    except ModuleNotFoundError as error:
        raise UserError(f"--runner=beam needs {error.name}: pip install 'amt_jax[beam]'") from None
    return functools.partial(beam.Beam, options=beam.parse_options(args.beam_options, workers), timeout=args.timeout)


def _show(prepared: Prepared, args: argparse.Namespace) -> None:
    """Prints what became of the files, and what to do next."""
    card, kept = prepared.card, [each for each in prepared.outcomes if each.kept]
    for folder in prepared.unreadable:
        print(f"warning: no permission to look into {folder!r}", file=sys.stderr)
    if prepared.changed:
        print(f"{len(prepared.outcomes)} files: {len(kept)} pieces ({prepared.added} new)")
    else:
        print(f"nothing changed: {len(prepared.outcomes)} files, {len(kept)} pieces are in {args.output}")
    for reason, count in sorted(card.skipped.items(), key=lambda item: -item[1]):
        print(f"  {count:7} left out: {reason}")
    if card.skipped:
        print(f"          each with its reason in {os.path.join(args.output, 'files.jsonl')}")
    if prepared.missing:
        print(f"  {prepared.missing:7} are not in {args.input} any more; what was made of them stays in the dataset")
    if prepared.unlisted:
        print(f"  {prepared.unlisted:7} have no line in {args.metadata}")
    if prepared.undescribed:
        print(f"  {prepared.undescribed:7} have no line in {args.descriptions}")
    if prepared.strays:
        print(f"  {prepared.strays:7} lines of {args.descriptions} are about files that are not in {args.input}")
    if prepared.outdated:
        print(f"  {prepared.outdated:7} pieces were there before; what was told of them then stays: a new --output")
        print("          takes what is told of them now")
    hours = sum(each.seconds for each in kept) / 3600
    tokens = sum(split.tokens for split in card.splits.values())
    print(f"{tokens:,} tokens of {card.spec.vocab_size} ids, {hours:.1f} hours of music")
    families = Counter(each.family for each in kept)
    largest = ", ".join(f"{name} ({count})" for name, count in families.most_common(3) if count > 1)
    print(f"{len(families)} families (a family stays in one split)" + (f"; the largest: {largest}" if largest else ""))
    for name, split in card.splits.items():
        print(f"  {name:5} {split.records:7} pieces {split.tokens:12,} tokens")
        if not split.records and getattr(args, name, 1):
            print(f"        there are too few families to fill {name}: more files, or files in more folders, would")
    if composers := card.conditions.get("composer"):
        print(f"composers with an id of their own: {len(composers.values) - 1}")
        rows = sorted(zip(composers.counts, composers.values, strict=True), key=lambda row: -row[0])
        print("  " + ", ".join(f"{name} {count}" for count, name in rows[:20]) + (", ..." if len(rows) > 20 else ""))
    elif any(each.composer for each in kept):
        print(f"no composer has {args.min_count} {args.count} (--min-count): the dataset is unconditional")
    else:
        print("no composers (no folders in --input, no --composer-column): the dataset is unconditional")
    if captions := [caption for each in kept for caption in each.conditions.get("text", ())]:
        people = sum(caption["human"] for caption in captions)
        print(f"{len(captions)} captions, {people} of them by people; told of pieces too: " + _told(card))
    print("next:")
    if captions and (prepared.added or "text" not in card.conditions):
        print(f"  python -m data_prep.encode --dataset={args.output}   # captions, to train with")
    print(f"  python -m amt_jax.train --config=configs/demo.py --config.dataset={args.output} --run=RUN")


def _told(card: Card) -> str:
    """The conditions besides composers and texts, each with the number of its values."""
    kinds = {
        name: f"{name} ({len(each.values)})" if each.values else name
        for name, each in card.conditions.items()
        if each.kind in ("multi_label", "scalar")
    }
    return ", ".join(kinds.values()) or "nothing"


if __name__ == "__main__":
    run_command(main)
