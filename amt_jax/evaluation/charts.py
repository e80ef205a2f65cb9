"""The charts of the report page, each a small SVG that scales with the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from amt_jax.evaluation import page
from amt_jax.evaluation.likelihood import TypeScore
from amt_jax.evaluation.metrics import Estimate

COLOURS = {"real": "#6b7280", "samples": "#2563eb", "random": "#d97706"}
_OTHER = "#0f766e"


def intervals(values: Mapping[str, np.ndarray], means: Mapping[str, Estimate]) -> str:
    """Every piece as a dot and each set's mean with its interval, a row a set. values set -> [P]"""
    figure = page.figure(3.7, 0.35 + 0.45 * len(values))
    axes = figure.add_subplot()
    jitter = np.random.default_rng(0)
    for row, (name, points) in enumerate(values.items()):
        colour = COLOURS.get(name, _OTHER)
        spread = jitter.uniform(-0.24, 0.24, len(points))
        axes.scatter(points, row + spread, s=11, color=colour, alpha=0.3, linewidth=0)
        mean = means[name]
        axes.hlines(row, mean.low, mean.high, color=colour, linewidth=3.2)
        axes.plot(mean.value, row, "o", color=colour, markersize=7, markeredgecolor="white", markeredgewidth=1.2)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=6)
    return page.svg(figure)


def histograms(shares: Mapping[str, np.ndarray], labels: Sequence[str]) -> str:
    """Mean histograms of the sets, the real one filled, on top of each other. shares set -> [C]"""
    figure = page.figure(3.7, 1.7)
    axes = figure.add_subplot()
    places = np.arange(len(labels))
    for name, share in shares.items():
        colour = COLOURS.get(name, _OTHER)
        if name == "real":
            axes.bar(places, share, width=0.86, color="#d1d5db", label=name)
        else:
            style = "--" if name == "random" else "-"
            edges = np.arange(len(labels) + 1) - 0.5
            axes.stairs(share, edges, color=colour, linewidth=1.7, linestyle=style, label=name)
    step = max(1, len(labels) // 8) if len(labels) > 12 else 1
    axes.set_xticks(places[::step], labels[::step])
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 0.98), handlelength=1.4)
    return page.svg(figure)


def types(scores: Mapping[str, TypeScore]) -> str:
    """Nats a target by token type, the hardest first, with accuracy and count."""
    ordered = sorted(scores.items(), key=lambda item: -item[1].nats)
    figure = page.figure(6.0, 0.4 + 0.27 * len(ordered))
    axes = figure.add_subplot()
    axes.barh(range(len(ordered)), [score.nats for _, score in ordered], color=COLOURS["samples"], height=0.62)
    for row, (_, score) in enumerate(ordered):
        text = f"{score.nats:.2f} nats · {score.accuracy:.0%} right · {score.count:,} tokens"
        axes.annotate(text, (score.nats, row), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(ordered)), [kind for kind, _ in ordered])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, max(score.nats for _, score in ordered) * 1.9 + 1e-6)
    axes.set_xticks([])
    return page.svg(figure)


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Training curves, nats a token over steps. lines name -> (steps, values)"""
    figure = page.figure(6.0, 2.5)
    axes = figure.add_subplot()
    for (name, (steps, values)), colour in zip(lines.items(), ("#93b4f5", "#b91c1c", _OTHER), strict=False):
        few = len(steps) < 60
        axes.plot(steps, values, color=colour, linewidth=1.6, marker="o" if few else None, markersize=3, label=name)
    axes.set_xlabel("step", fontsize=8, color="#6b7280")
    axes.set_ylabel("nats a token", fontsize=8, color="#6b7280")
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.legend(frameon=False, fontsize=8)
    return page.svg(figure)
