"""A dataset's captions into a few clusters: the semantic token.

    python -m data_prep.cluster --dataset=DATASET --report=clusters.html

Vectors of the captions of the train split are normalised and divided by K-means; of all K tried, the one with the best
silhouette is kept. DATASET/text gets clusters.json, which new text is assigned by, and semantic.npy, the cluster of
each caption. Clusters are numbered by size, the largest is 0. Needs data_prep.encode first.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import html
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command

if TYPE_CHECKING:
    from amt_jax.data.captions import CaptionTable
    from amt_jax.text.clusters import Clusters

STARTS = 10  # K-means begins anew so often and keeps the best
SAMPLE = 5000  # captions a silhouette or a plot is made of: it takes time by their square
TYPICAL = 5  # captions shown a cluster


def main() -> int:
    args = _parser().parse_args()
    dataset = storage.local_path(args.dataset)
    from data_prep.encode import alone

    with alone(dataset):
        cluster(dataset, args)
    return 0


def cluster(dataset: Path, args: argparse.Namespace) -> None:
    """Divides a dataset's captions and says how."""
    from amt_jax.data.captions import FOLDER, CaptionTable
    from data_prep.encode import register

    folder = dataset / FOLDER
    table = CaptionTable.load(folder)
    table.verify()
    train = np.array([row for row, caption in enumerate(table.captions) if caption.train and table.lengths[row]])
    if not len(train):
        raise UserError(f"no caption of the train split in {folder} says anything to {table.card.encoder!r}")
    clusters = fit(table.pooled(train), args.k, args.seed, table.card.digest)
    table = save(clusters, table)
    register(dataset)
    found = portraits(clusters, table)
    show(clusters, found)
    if args.report:
        report(Path(args.report), clusters, table, found, args.seed)
        print(f"the report is {args.report}")


def fit(pooled: np.ndarray, ks: Sequence[int], seed: int, digest: str) -> Clusters:
    """Clusters of vectors for the K with the best silhouette; UserError if there are too few to divide. [N, D]"""
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UserError(f"clustering needs {error.name}: pip install 'amt_jax[words]'") from None
    from tqdm import tqdm

    from amt_jax.text.clusters import Clusters, normalise

    unit = normalise(pooled)
    different = len(np.unique(unit, axis=0))
    tried = [k for k in ks if k < different]
    if not tried:
        raise UserError(f"{different} different captions cannot be divided into {ks[0]} clusters; encode more captions")
    found = {}
    # On one thread: the same sums on any machine, and where others are at work, many times faster than on all.
    with threadpool_limits(1):
        for k in tqdm(tried, desc="K-means", unit="K", delay=2):
            means = KMeans(k, n_init=STARTS, random_state=seed).fit(unit)
            sample = SAMPLE if len(unit) > SAMPLE else None
            found[k] = silhouette_score(unit, means.labels_, sample_size=sample, random_state=seed), means
    best = max(found, key=lambda k: found[k][0])
    means = found[best][1]
    sizes = np.bincount(means.labels_, minlength=best)
    order = sorted(range(best), key=lambda each: (-sizes[each], *means.cluster_centers_[each]))
    centroids = means.cluster_centers_[order].astype(np.float32)
    return Clusters(centroids, {k: float(score) for k, (score, _) in found.items()}, digest)


def save(clusters: Clusters, table: CaptionTable) -> CaptionTable:
    """Puts clusters and the cluster of each caption beside the captions; the table as it is then."""
    from amt_jax.data.captions import CaptionTable
    from amt_jax.data.card import file_sha256
    from amt_jax.text import clusters as module

    folder, names = table.folder, (module.FILE, "semantic.npy")
    # Between the two cards the table has no clusters: a kill leaves no half of them.
    others = {name: sha256 for name, sha256 in table.card.files.items() if name not in names}
    dataclasses.replace(table.card, files=others).save(folder)
    clusters.save(folder)
    np.save(folder / "semantic.npy", clusters.assign(table.pooled(slice(None))))
    files = others | {name: file_sha256(folder / name) for name in names}
    dataclasses.replace(table.card, files=files).save(folder)
    return CaptionTable.load(folder)


@dataclasses.dataclass(frozen=True)
class Portrait:
    """A cluster for people: its size, the words that set it apart, and the captions nearest to its centroid."""

    size: int
    words: tuple[str, ...]
    captions: tuple[str, ...]


def portraits(clusters: Clusters, table: CaptionTable) -> list[Portrait]:
    """What is in each cluster."""
    from amt_jax.text.clusters import normalise
    from amt_jax.text.tfidf import STOP_WORDS

    words = [set(re.findall(r"[^\W\d_]{3,}", caption.text.casefold())) - STOP_WORDS for caption in table.captions]
    overall = Counter(word for each in words for word in each)
    made = []
    for number, centroid in enumerate(clusters.centroids):
        rows = np.flatnonzero(table.semantic == number)
        inside = Counter(word for row in rows for word in words[row])
        excess = {word: count / len(rows) - overall[word] / len(table) for word, count in inside.items()}
        nearest = rows[np.argsort(-normalise(table.pooled(rows)) @ centroid, kind="stable")[:TYPICAL]]
        made.append(
            Portrait(
                size=len(rows),
                words=tuple(sorted(excess, key=lambda word: (-excess[word], word))[:3]),
                captions=tuple(table.captions[row].text for row in nearest),
            )
        )
    return made


def show(clusters: Clusters, found: Sequence[Portrait]) -> None:
    """Prints the choice of K and what is in the clusters."""
    tried = ", ".join(f"{k}: {score:.3f}" for k, score in clusters.silhouettes.items())
    print(f"{clusters.k} clusters; silhouette by K {tried}")
    if clusters.k == max(clusters.silhouettes):
        print(f"the most that were tried are the best: --k=2:{2 * clusters.k} may find more")
    for number, each in enumerate(found):
        print(f"  {number}  {each.size} captions, more than others about {', '.join(each.words)}")
        for text in each.captions[:2]:
            print(f"       {text[:110]}")


def report(path: Path, clusters: Clusters, table: CaptionTable, found: Sequence[Portrait], seed: int) -> None:
    """Writes the plots as a .png, or with the typical captions as an .html page."""
    picture = plot(clusters, table, found, seed)
    if path.suffix == ".png":
        path.write_bytes(picture)
        return
    rows = "".join(
        f"<tr><td>{number}<td>{each.size}<td>{html.escape(', '.join(each.words))}"
        f"<td>{'<br>'.join(html.escape(text) for text in each.captions)}</tr>"
        for number, each in enumerate(found)
    )
    path.write_text(
        "<!doctype html><meta charset=utf-8><title>Clusters of captions</title>"
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto;color:#111827}img{width:100%}"
        "td,th{text-align:left;vertical-align:top;padding:.4em .8em .4em 0;border-top:1px solid #e5e7eb}</style>"
        f"<h1>Clusters of captions</h1><p>{len(table)} captions, encoded by {html.escape(table.card.encoder)}; "
        f"{clusters.k} clusters have the best silhouette."
        f'<p><img alt="silhouettes and projection" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        f"<table><tr><th>token<th>captions<th>more than others about<th>most typical</tr>{rows}</table>\n",
        encoding="utf-8",
    )


def plot(clusters: Clusters, table: CaptionTable, found: Sequence[Portrait], seed: int) -> bytes:
    """Silhouettes by K, and the captions in the plane of their two principal components, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA

    from amt_jax.text.clusters import normalise

    rows = np.flatnonzero(table.semantic >= 0)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    pca = PCA(2, random_state=seed)
    places = pca.fit_transform(normalise(table.pooled(rows)))
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.4))
    ks, scores = zip(*clusters.silhouettes.items(), strict=True)
    left.plot(ks, scores, color="#9ca3af", marker="o")
    left.plot(clusters.k, clusters.silhouettes[clusters.k], "o", color="#b91c1c", markersize=9)
    left.set_xticks(ks)
    left.set_xlabel("K")
    left.set_ylabel("mean silhouette")
    for number, each in enumerate(found):
        points = places[table.semantic[rows] == number]
        label = f"{number}  {', '.join(each.words)} ({each.size})"
        right.scatter(*points.T, s=9, alpha=0.6, linewidth=0, color=f"C{number}", label=label)
    shares = pca.explained_variance_ratio_
    right.set_xlabel(f"first component ({shares[0]:.0%} of the variance)")
    right.set_ylabel(f"second component ({shares[1]:.0%})")
    right.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


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


def _report(text: str) -> str:
    if not text.endswith((".html", ".png")):
        raise argparse.ArgumentTypeError(f"{text!r} should end in .html or .png")
    return os.path.expanduser(text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, metavar="DIR", help="dataset folder with encoded captions")
    parser.add_argument(
        "--k", type=_range, default="2:10", metavar="FIRST:LAST", help="numbers of clusters to try (default: 2:10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the beginnings of K-means (default: 0)")
    parser.add_argument("--report", type=_report, metavar="FILE", help="plots (.png), or a page with examples (.html)")
    return parser


if __name__ == "__main__":
    run_command(main)
