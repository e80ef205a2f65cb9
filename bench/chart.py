"""Draws the ratios in bench/results/*_speed*.json against their peers: python -m bench.chart."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from amt_jax.errors import UserError, run_command

# What a result's rows are called, and whose time stands for 1.
RESULTS = {
    "train_speed": ("training 25.4 M, {dtype}", "PyTorch, float32"),
    "train_speed_bfloat16": ("training 25.4 M, {dtype}", "PyTorch, float32"),
    "generate_speed": ("generation, batch {batch}, float32", "transformers, float32"),
    "generate_speed_int8": ("generation, batch {batch}, {weights} weights", "transformers, float32"),
    "prepare_speed": ("preparing {files} files", "MidiTok"),
}


def main() -> None:
    """Reads the flags and the results, draws the chart."""
    parser = argparse.ArgumentParser(prog="python -m bench.chart", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("docs/speed.png"), help="default: %(default)s")
    args = parser.parse_args()
    found = [bar for name in RESULTS if (args.results / f"{name}.json").exists() for bar in bars(args.results, name)]
    if not found:
        raise UserError(f"no results in {args.results}; make bench writes them")
    draw(found, args.output)
    print(f"written: {args.output}")


def bars(folder: Path, name: str) -> list[dict[str, Any]]:
    """A result's rows: label, peer, ratio with its least and its greatest."""
    label, peer = RESULTS[name]
    rows = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return [{"label": label.format(**row), "peer": peer} | row for row in rows]


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """The chart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 0.36 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(found))
    ratios = [bar["ratio"] for bar in found]
    spread = [[bar["ratio"] - bar["ratio_min"] for bar in found], [bar["ratio_max"] - bar["ratio"] for bar in found]]
    axes.barh(places, ratios, xerr=spread, color="tab:blue", ecolor="black", capsize=2)
    for place, bar in zip(places, found, strict=True):
        axes.text(bar["ratio_max"] + 0.1, place, f"{bar['ratio']:.1f} × {bar['peer']}", va="center", fontsize=8)
    axes.axvline(1, color="gray", linestyle="--")
    axes.set(
        yticks=places, yticklabels=[bar["label"] for bar in found], xlim=(0, 1.35 * max(b["ratio_max"] for b in found))
    )
    axes.set_xlabel("times as fast: median, least and greatest of the rounds", fontsize=9)
    axes.invert_yaxis()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_command(main)
