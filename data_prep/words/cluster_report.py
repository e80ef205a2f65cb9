"""The report of clusters: how their number was chosen, and what is in them, as a picture or a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt_jax import storage
from amt_jax.data.captions import CaptionTable
from amt_jax.evaluation import page
from amt_jax.text.clusters import Clusters, normalise
from data_prep.words.clustering import Portrait

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE = 5000  # captions in the picture


def write(path: Path, clusters: Clusters, table: CaptionTable, portraits: Sequence[Portrait], *, seed: int) -> None:
    """Writes the picture as a .png, or with the typical captions as an .html page."""
    figure = plot(clusters, table, portraits, seed=seed)
    if path.suffix == ".png":
        figure.savefig(path, dpi=130, facecolor="white")
        return
    rows = "".join(
        f"<tr><td>{number}</td><td>{each.size}</td><td>{html.escape(', '.join(each.words))}</td>"
        f"<td>{'<br>'.join(map(html.escape, each.captions))}</td></tr>"
        for number, each in enumerate(portraits)
    )
    head = "".join(f"<th>{name}</th>" for name in ("token", "captions", "more than others about", "most typical"))
    title = "Clusters of captions"
    body = f"""<h1>{title}</h1>
<p class="lead">{len(table)} captions, encoded by {html.escape(table.card.encoder)}; {clusters.k} clusters have the best
silhouette.</p>
<section>{page.svg(figure)}</section>
<section class="scroll"><table><tr>{head}</tr>{rows}</table></section>"""
    storage.write_text(path, page.page(title, body))


def plot(clusters: Clusters, table: CaptionTable, portraits: Sequence[Portrait], *, seed: int) -> Figure:
    """Silhouettes by K, and the captions in the plane of their two principal components."""
    from sklearn.decomposition import PCA

    rows = np.flatnonzero(table.semantic >= 0)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    pca = PCA(2, random_state=seed)
    places = pca.fit_transform(normalise(table.pooled(rows)))
    figure = page.figure(11, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.4))
    ks, scores = zip(*clusters.silhouettes.items(), strict=True)
    left.plot(ks, scores, color="#9ca3af", marker="o")
    left.plot(clusters.k, clusters.silhouettes[clusters.k], "o", color="#b91c1c", markersize=9)
    left.set_xticks(ks)
    left.set_xlabel("K")
    left.set_ylabel("mean silhouette")
    for number, each in enumerate(portraits):
        points = places[table.semantic[rows] == number]
        label = f"{number}  {', '.join(each.words)} ({each.size})"
        right.scatter(*points.T, s=9, alpha=0.6, linewidth=0, color=f"C{number}", label=label)
    shares = pca.explained_variance_ratio_
    right.set_xlabel(f"first component ({shares[0]:.0%} of the variance)")
    right.set_ylabel(f"second component ({shares[1]:.0%})")
    right.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
