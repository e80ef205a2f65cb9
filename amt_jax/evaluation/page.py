"""The page of a report: one HTML file with its style, and charts as SVG in it."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(title: str, body: str) -> str:
    """The whole file; `title` is text, `body` is HTML."""
    return _PAGE.format(title=html.escape(title), style=_STYLE, body=body)


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    empty = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasSVG(empty)
    return empty


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element, its text as text, the same bytes every time."""
    import matplotlib

    for axes in figure.axes:
        axes.set_facecolor("none")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color("#d1d5db")
        axes.tick_params(labelsize=8, length=0, labelcolor="#374151")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "amt_jax", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_STYLE = """
:root { color-scheme: light; --ink: #111827; --soft: #6b7280; --line: #e5e7eb; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 8px 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 12px; }
h3 { font-size: 1rem; margin: 16px 0 6px; overflow-wrap: anywhere; }
h3 a { font-weight: 400; font-size: .85rem; margin-left: 8px; }
.lead { margin: 0 0 6px; font-size: 1.05rem; }
.note { color: var(--soft); font-size: .9rem; max-width: 75ch; }
section, details { background: white; border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  margin: 20px 0; }
summary { cursor: pointer; font-weight: 600; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 14px 4px 0; vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; overflow-wrap: normal; }
tr + tr > * { border-top: 1px solid var(--line); }
.scroll { overflow-x: auto; }
.scroll tr:first-child th { white-space: normal; }
.range { color: var(--soft); font-size: .85em; white-space: nowrap; }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; display: flex; flex-direction: column; }
.card h3 { margin-top: 0; }
.card h3::first-letter { text-transform: uppercase; }
.card table { width: 100%; font-size: .8rem; margin-top: auto; }
.card td, .card th { padding-right: 6px; }
.card .range { display: block; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
.yes { color: #047857; white-space: nowrap; } .no { color: #b45309; white-space: nowrap; }
figure { margin: 0; max-width: 760px; }
svg { width: 100%; height: auto; display: block; }
svg text { font-family: inherit !important; }
img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px; }
audio { width: 100%; height: 40px; margin-top: 6px; }
"""
