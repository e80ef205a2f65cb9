"""What a collection of MIDI files and words is like, on one HTML page.

    python -m data_prep.report --metadata=midi_metadata.jsonl --descriptions=descriptions.jsonl \\
        --pairs=automated_paired_data.json --skipped=collect_skipped.jsonl --output=report.html

Durations, tempos, keys, instruments and polyphony; genres, if descriptions or pairs are given; how tempo, mode, density
and the like go together; some files with their words; what was skipped and why. Only --metadata is needed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from amt_jax import storage
from amt_jax.errors import Parser, run_command
from data_prep.flags import check_file


def main() -> int:
    args = _parser().parse_args()
    check_file(args.output, "report.html", [args.metadata, args.descriptions, args.pairs, args.skipped])
    from data_prep.overview.collection import Collection
    from data_prep.overview.page import to_html

    collection = Collection.read(args.metadata, args.descriptions, args.pairs, args.skipped)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(args.output, to_html(collection, Path(args.metadata).name))
    print(f"{len(collection.files)} MIDI files, {collection.hours:.1f} hours: {args.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    here = os.path.expanduser  # Shells expand ~ at the beginning of a word, not in --output=~/report.html.
    add("--metadata", required=True, type=here, metavar="FILE", help="midi_metadata.jsonl, by data_prep.collect")
    add("--descriptions", type=here, metavar="FILE", help="descriptions.jsonl, by data_prep.describe")
    add("--pairs", type=here, metavar="FILE", help="automated_paired_data.json, by data_prep.pair")
    add("--skipped", type=here, metavar="FILE", help="collect_skipped.jsonl, by data_prep.collect")
    add("--output", required=True, type=lambda text: Path(here(text)), metavar="FILE", help="the page, .html")
    return parser


if __name__ == "__main__":
    run_command(main)
