"""The charts of the page about a collection, each a small SVG that scales with the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from amt_jax.evaluation import page

UNKNOWN = '<p class="note">unknown</p>'
_MOST = 20  # bars of a chart; what is rarer is one bar
_LONGEST = 28  # characters of a bar's name
_BLUE, _GREY = "#2563eb", "#6b7280"


def bars(counts: Sequence[tuple[str, int]], total: int) -> str:
    """A bar a name with its number and its share of `total`; the rarest together."""
    shown = list(counts[:_MOST])
    if rest := counts[_MOST:]:
        shown.append((f"{len(rest)} others", sum(count for _, count in rest)))
    if not shown:
        return UNKNOWN
    figure = page.figure(3.7, 0.3 + 0.23 * len(shown))
    axes = figure.add_subplot()
    numbers = [count for _, count in shown]
    axes.barh(range(len(shown)), numbers, color=_BLUE, height=0.7)
    for place, count in enumerate(numbers):
        text = f"{count:,} · {count / total:.0%}"
        axes.annotate(text, (count, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name, _ in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(numbers) * 1.45)
    axes.set_xticks([])
    return page.svg(figure)


def histogram(values: Iterable[float | None], unit: str, none: str = "unknown") -> str:
    """How often values are; what lies beyond the 99th percentile is in the last bar. None is left out, and counted
    as `none`."""
    values = list(values)
    known = np.array([value for value in values if value is not None], float)
    if not known.size:
        return f'<p class="note">{none}</p>'
    low, high = known.min(), np.percentile(known, 99)
    figure = page.figure(3.7, 2.0)
    axes = figure.add_subplot()
    axes.hist(np.minimum(known, high), bins=30, range=(low, high) if high > low else None, color=_BLUE, rwidth=0.9)
    unknown = len(values) - len(known)
    axes.set_xlabel(unit + (f" ({unknown:,} {none})" if unknown else ""), fontsize=8, color=_GREY)
    axes.set_ylabel("files", fontsize=8, color=_GREY)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    title = f"median {np.median(known):,.3g}, up to {known.max():,.4g}"
    axes.set_title(title, fontsize=8, color="#374151", loc="right")
    return page.svg(figure)


def heat_map(names: Sequence[str], table: np.ndarray) -> str:
    """Correlations from -1 (blue) to 1 (red), each with its figure. table [F, F]"""
    figure = page.figure(0.9 + 0.75 * len(names), 0.5 + 0.5 * len(names))
    axes = figure.add_subplot()
    axes.pcolormesh(table, cmap="RdBu_r", vmin=-1, vmax=1, edgecolors="white", linewidth=1.5)
    for i, j in np.ndindex(table.shape):
        strong = abs(table[i, j]) > 0.6
        text = "-" if math.isnan(table[i, j]) else f"{table[i, j]:z.2f}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color="white" if strong else "black")
    places = np.arange(len(names)) + 0.5
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    return page.svg(figure)
