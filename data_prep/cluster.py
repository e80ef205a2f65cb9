"""A dataset's captions into a few clusters: the semantic token.

    python -m data_prep.cluster --dataset=DATASET --report=clusters.html

Vectors of the captions of the train split are normalised and divided by K-means; of all K tried, the one with the best
silhouette is kept. DATASET/text gets clusters.json, which new text is assigned by, and semantic.npy, the cluster of
each caption. Clusters are numbered by size, the largest is 0. Needs data_prep.encode first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.errors import Parser, run_command
from data_prep.flags import check_file, seed

if TYPE_CHECKING:
    from amt_jax.text.clusters import Clusters
    from data_prep.words.clustering import Portrait


def main() -> int:
    args = _parser().parse_args()
    from data_prep.words import cluster_report, clustering

    if args.report:
        check_file(args.report, "clusters.html", [], "--report")
        args.report.parent.mkdir(parents=True, exist_ok=True)
    clusters, table = clustering.cluster(storage.local_path(args.dataset), args.k, seed=args.seed)
    portraits = clustering.portraits(clusters, table)
    _show(clusters, portraits)
    if args.report:
        cluster_report.write(args.report, clusters, table, portraits, seed=args.seed)
        print(f"the report is {args.report}")
    return 0


def _show(clusters: Clusters, portraits: Sequence[Portrait]) -> None:
    """Prints the choice of K and what is in the clusters."""
    tried = ", ".join(f"{k}: {score:.3f}" for k, score in clusters.silhouettes.items())
    print(f"{clusters.k} clusters; silhouette by K {tried}")
    if clusters.k == max(clusters.silhouettes):
        print(f"the most that were tried are the best: --k=2:{2 * clusters.k} may find more")
    for number, each in enumerate(portraits):
        print(f"  {number}  {each.size} captions, more than others about {', '.join(each.words)}")
        for text in each.captions[:2]:
            print(f"       {text[:110]}")


def _range(text: str) -> range:
    """ "2:10" or "6"."""
    first, _, last = text.partition(":")
    try:
        found = range(int(first), int(last or first) + 1)
    except ValueError:
        found = range(0)
    if not found or found[0] < 2:
        raise argparse.ArgumentTypeError(f"{text!r} should be like 2:10, from 2 on, or one number")
    return found


def _report(text: str) -> Path:
    if not text.endswith((".html", ".png")):
        raise argparse.ArgumentTypeError(f"{text!r} should end in .html or .png")
    return Path(text).expanduser()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, metavar="DIR", help="dataset folder with encoded captions")
    parser.add_argument(
        "--k", type=_range, default="2:10", metavar="FIRST:LAST", help="numbers of clusters to try (default: 2:10)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the beginnings of K-means (default: 0)")
    parser.add_argument("--report", type=_report, metavar="FILE", help="plots (.png), or a page with examples (.html)")
    return parser


if __name__ == "__main__":
    run_command(main)
