"""A dataset's captions into encoder states: DATASET/text, once a unique caption.

    python -m data_prep.encode --dataset=DATASET
    python -m data_prep.encode --dataset=DATASET --encoder=sentence-transformers/all-MiniLM-L6-v2

`tfidf` is a table of words, fitted on the captions of the train split; it needs no download. Anything else is a BERT
checkpoint, by its name on the Hugging Face hub (NAME or NAME@REVISION) or as a folder. Without --encoder it is the one
that encoded the dataset before, with its pooling and length, or tfidf.

Run again after new files came into the dataset: new captions are encoded, those known stay as they are, and so does a
fitted table of words (delete DATASET/text to fit it anew). An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from amt_jax.text.encoder import LENGTH, POOLINGS, TFIDF
from data_prep.flags import positive

if TYPE_CHECKING:
    from data_prep.words.encoding import Report


def main() -> int:
    args = _parser().parse_args()
    if args.encoder in (None, TFIDF) and (args.pooling or args.tokenizer or args.max_tokens):
        raise UserError("--pooling, --max-tokens and --tokenizer go with a BERT checkpoint; name it with --encoder")
    from data_prep.words.encoding import encode

    report = encode(
        storage.local_path(args.dataset),
        encoder=args.encoder,
        pooling=args.pooling,
        length=args.max_tokens or LENGTH,
        tokenizer=args.tokenizer,
    )
    _show(report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, metavar="DIR", help="dataset folder whose records have captions")
    parser.add_argument(
        "--encoder", metavar="NAME", help="tfidf, a name on the hub, or a folder (default: as before, or tfidf)"
    )
    parser.add_argument(
        "--pooling", choices=POOLINGS, help="of BERT's states to one vector (default: as it says, or mean)"
    )
    parser.add_argument(
        "--max-tokens",
        type=positive(int),
        metavar="N",
        help=f"BERT reads so many of a text (default: {LENGTH}); texts by people may want 128, for which training pays",
    )
    parser.add_argument(
        "--tokenizer", choices=("tf_text",), help="tensorflow-text's for BERT: the same ids, faster (extra text)"
    )
    return parser


def _show(report: Report) -> None:
    """Prints what was encoded, and what to do next."""
    table, new = report.table, report.new
    folder, card = table.folder, table.card
    if report.empty:
        print(f"empty captions, left out: {report.empty}")
    if report.remade:
        print(report.remade)
    if report.unclustered:
        print("its clusters go with it; for new ones run python -m data_prep.cluster again")
    if not report.changed:
        print(f"nothing new: {len(table)} captions are encoded by {card.encoder!r} in {folder}")
        return
    speed = new / max(report.seconds, 1e-9)
    print(f"{new} captions encoded by {card.encoder!r} in {report.seconds:.1f} s ({speed:,.0f} a second)")
    print(
        f"{len(table)} captions ({card.human} human), {card.tokens / len(table):.1f} states of {card.width} on average"
    )
    if card.length > 1 and (full := int((table.lengths == card.length).sum())):
        print(
            f"captions that fill --max-tokens={card.length}, so that words after that are not read: {full}; "
            f"--max-tokens={2 * card.length} would read more"
        )
    if silent := int((table.lengths == 0).sum()):
        print(f"captions without a word that the encoder knows, which say nothing to a model: {silent}")
    print(f"the table is {folder}; next:")
    print(f"  python -m data_prep.cluster --dataset={folder.parent}   # if semantic tokens are wanted")
    print(f"  python -m amt_jax.train --config=text_cross:small --config.dataset={folder.parent} --run=RUN")


if __name__ == "__main__":
    run_command(main)
