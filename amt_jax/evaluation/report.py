"""The report of an evaluation: report.json and report.csv for programs, report.html for people."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amt_jax.evaluation import charts
from amt_jax.evaluation.following import Followed
from amt_jax.evaluation.frames import PieceScore
from amt_jax.evaluation.likelihood import Likelihood
from amt_jax.evaluation.metrics import METRICS, Comparison, Estimate, values_of
from amt_jax.evaluation.page import page
from amt_jax.music.features import PITCH_CLASSES, Features

NAMES = ("report.json", "report.csv", "report.html")
_FEW = 10  # fewer real pieces than this make a poor yardstick
_DEGREES = ("1", "", "2", "", "3", "4", "", "5", "", "6", "", "7")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A sample to show: its name, its piano-roll, and its files relative to the report ("" if there is none)."""

    name: str
    piano_roll: bytes
    midi: str
    audio: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All that an evaluation found.

    Attributes:
      about: what was evaluated, label -> value, in the order to show.
      vocab_size: V, for the figure of a blind guess.
      likelihoods: how conditions were given -> figures; the first is the main one.
      sets: set ("samples", "real", "random") -> features of its pieces.
      comparisons: of the sets with the real one.
      following: aspect of what texts ask for -> how often music follows it.
      scores: of single pieces, if they were scored by frames.
      pieces: samples to show.
      history: the run's metrics.jsonl, a dict a line.
    """

    about: Mapping[str, Any]
    vocab_size: int
    likelihoods: Mapping[str, Likelihood]
    sets: Mapping[str, Sequence[Features]] = dataclasses.field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    following: Mapping[str, Followed] = dataclasses.field(default_factory=dict)
    scores: Sequence[PieceScore] = ()
    pieces: Sequence[Piece] = ()
    history: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, the pieces' features and the history; NaN as null."""
        data = {
            "about": dict(self.about),
            "likelihood": {name: dataclasses.asdict(each) for name, each in self.likelihoods.items()},
            "music": {each.metric: dataclasses.asdict(each) for each in self.comparisons},
            "following": {aspect: dataclasses.asdict(each) for aspect, each in self.following.items()},
            "pieces": [dataclasses.asdict(each) for each in self.scores],
            "samples": [{"name": p.name, "midi": p.midi, "audio": p.audio} for p in self.pieces],
        }
        return _without_nan(data)

    def rows(self) -> list[list[Any]]:
        """The figures as a table: part, metric, set, statistic, value, low, high, count."""
        rows = []
        for given, found in self.likelihoods.items():
            for field in dataclasses.fields(found):
                figure = getattr(found, field.name)
                if isinstance(figure, Estimate):
                    rows.append(["likelihood", field.name, given, "value", *dataclasses.astuple(figure), found.tokens])
            for kind, score in found.types.items():
                rows.append(["likelihood by type", kind, given, "nats", score.nats, "", "", score.count])
                rows.append(["likelihood by type", kind, given, "accuracy", score.accuracy, "", "", score.count])
        for each in self.scores:
            rows.append(
                ["likelihood by piece", "nats_per_frame", each.name, "value", each.nats_per_frame, "", "", each.frames]
            )
        for each in self.comparisons:
            for name, mean in each.means.items():
                rows.append(["music", each.metric, name, "mean", *dataclasses.astuple(mean), each.counted[name]])
            for name, distance in each.distances.items():
                row = ["music", each.metric, name, "to real", *dataclasses.astuple(distance), each.counted[name]]
                rows.append(row)
            row = ["music", each.metric, "real", "real to real", *dataclasses.astuple(each.floor), each.counted["real"]]
            rows.append(row)
        for aspect, each in self.following.items():
            for way, share in each.shares.items():
                rows.append(["following", aspect, way, "share", *dataclasses.astuple(share), each.asked])
        return [["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows]

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes the three files into `folder` and returns the page's path."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / NAMES[0]).write_text(text + "\n", encoding="utf-8")
        with open(folder / NAMES[1], "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["part", "metric", "set", "statistic", "value", "low", "high", "count"])
            writer.writerows(self.rows())
        (folder / NAMES[2]).write_text(self.to_html(), encoding="utf-8")
        return folder / NAMES[2]

    def summary(self) -> list[str]:
        """The findings in a few sentences."""
        lines = []
        if self.likelihoods:
            found = next(iter(self.likelihoods.values()))
            lines.append(
                f"On {found.pieces:,} real pieces ({found.tokens:,} tokens) the model needs "
                f"{_number(found.nats_per_token.value)} nats a token, a perplexity of "
                f"{_number(found.perplexity.value)} where a blind guess has {self.vocab_size}."
            )
            lines += [units(title, each) for title, each in self.likelihoods.items()]
        for name in self.sets:
            inside = [within_floor(each, name) for each in self.comparisons if name in each.distances]
            inside = [each for each in inside if each is not None]
            if inside:
                lines.append(
                    f"{_SET_TITLES.get(name, name)}: {sum(inside)} of {len(inside)} musical metrics are as close to "
                    "real music as other real music is."
                )
        for aspect, each in self.following.items():
            shares = ", ".join(f"{way}: {share.value:.0%}" for way, share in each.shares.items())
            pieces = "piece" if each.asked == 1 else "pieces"
            lines.append(f"Of {each.asked} {pieces} whose text asks for it, so many have the right {aspect}: {shares}.")
        few = len(self.sets.get("real", ()))
        if self.comparisons and few < _FEW:
            lines.append(f"There are only {few} real pieces to compare with: intervals and real to real say little.")
        return lines

    def to_html(self) -> str:
        """The page: self-contained but for the audio players and MIDI links, no scripts."""
        title = f"Evaluation of {self.about.get('run', 'a model')}"
        parts = [f"<h1>{html.escape(title)}</h1>"]
        parts += [f'<p class="lead">{html.escape(line)}</p>' for line in self.summary()]
        parts.append(self._about())
        if self.likelihoods:
            parts.append(self._likelihood())
        if self.following:
            parts.append(self._following())
        if self.comparisons:
            parts.append(self._music())
        if self.pieces:
            parts.append(self._samples())
        if curves := training_curves(self.history):
            parts.append(f"<section><h2>Training</h2><figure>{charts.curves(curves)}</figure></section>")
        body = "\n".join(parts)
        return page(title, body)

    def _about(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(str(label))}</th><td>{html.escape(str(value))}</td></tr>"
            for label, value in self.about.items()
        )
        return f"<details><summary>What was evaluated</summary><table>{rows}</table></details>"

    def _likelihood(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.likelihoods)
        rows = ""
        for field, label in _LIKELIHOOD_ROWS.items():
            figures = [getattr(found, field) for found in self.likelihoods.values()]
            if all(math.isnan(figure.value) for figure in figures):
                continue
            scale = 100 if field == "accuracy" else 1
            cells = "".join(f"<td>{_estimate(figure, scale)}</td>" for figure in figures)
            rows += f"<tr><th>{label}</th>{cells}</tr>"
        first = next(iter(self.likelihoods.values()))
        return f"""<section><h2>How well it predicts real music</h2>
<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>
<p class="note">Every token once, in windows that slide by half a context; nothing smoothed or dropped. Brackets: 95 %
intervals, bootstrap over the {first.pieces:,} pieces. A blind guess needs {math.log(self.vocab_size):.2f} nats a
token.</p>
<h3>By token type</h3><figure>{charts.types(first.types)}</figure>{self._by_piece()}</section>"""

    def _by_piece(self) -> str:
        if not self.scores:
            return ""
        rows = "".join(
            f"<tr><th>{html.escape(each.name)}</th><td>{each.nats_per_frame:.3f}</td><td>{each.frames:,}</td>"
            f"<td>{html.escape(each.leaked_from)}</td></tr>"
            for each in self.scores
        )
        return f"""<details><summary>By piece</summary><table>
<tr><th></th><th>nats a frame</th><th>frames</th><th>its melody stands in</th></tr>{rows}</table></details>"""

    def _following(self) -> str:
        ways = next(iter(self.following.values())).shares
        head = "".join(f"<th>{html.escape(way)}</th>" for way in ways)
        rows = "".join(
            f"<tr><th>{aspect} ({each.asked})</th>"
            + "".join(f"<td>{_estimate(share, 100)}</td>" for share in each.shares.values())
            + "</tr>"
            for aspect, each in self.following.items()
        )
        return f"""<section><h2>Whether it does what the words ask for</h2>
<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>
<p class="note">Captions of real pieces of this split, a piece made for each in each way, and how many are as asked: of
the tempo, mode or density class that the caption names, or with all instruments that it names (in brackets: how many
captions name it). 95 % intervals, bootstrap over the captions. What is right without the words is right by chance, or
because most music is so.</p></section>"""

    def _music(self) -> str:
        cards = "".join(self._metric(each) for each in self.comparisons)
        sizes = ", ".join(f"{len(pieces)} {_SET_TITLES.get(name, name).lower()}" for name, pieces in self.sets.items())
        return f"""<section><h2>How the music compares with real music</h2>
<p class="note">{html.escape(sizes)}. Dots are pieces; the thick mark is the mean with its 95 % interval (bootstrap over
pieces). <em>Real to real</em> is how far as many real pieces are from the other real ones: no sample can be asked to be
closer than that.</p>
<div class="cards">{cards}</div></section>"""

    def _metric(self, found: Comparison) -> str:
        metric = next(metric for metric in METRICS if metric.name == found.metric)
        values = {name: values_of(metric, pieces) for name, pieces in self.sets.items()}
        values = {name: x for name, x in values.items() if len(x)}
        if not values:
            return ""
        if found.means:
            picture = charts.intervals({name: x[:, 0] for name, x in values.items()}, found.means)
        else:
            picture = charts.histograms({name: x.mean(axis=0) for name, x in values.items()}, _labels(found.metric))
        kind = "similarity to real" if metric.similarity else "distance to real"
        cells = "".join(
            f'<tr><th><span class="dot" style="background:{charts.COLOURS.get(name, "#000")}"></span>'
            f"{html.escape(_SET_TITLES.get(name, name))}</th><td>{_estimate(distance)}</td>"
            f"<td>{_verdict(within_floor(found, name))}</td></tr>"
            for name, distance in found.distances.items()
        )
        floor = f"<tr><th>Real to real</th><td>{_estimate(found.floor)}</td><td></td></tr>"
        return f"""<div class="card"><h3>{html.escape(metric.title)}</h3>{picture}
<table><tr><th></th><th>{kind}</th><th></th></tr>{cells}{floor}</table></div>"""

    def _samples(self) -> str:
        shown = ""
        for piece in self.pieces:
            picture = base64.b64encode(piece.piano_roll).decode()
            name = html.escape(piece.name)
            link = f' <a href="{html.escape(piece.midi)}">MIDI</a>' if piece.midi else ""
            player = f'<audio controls preload="none" src="{html.escape(piece.audio)}"></audio>' if piece.audio else ""
            shown += (
                f'<div class="piece"><h3>{name}{link}</h3><img alt="piano-roll of {name}" '
                f'src="data:image/png;base64,{picture}">{player}</div>'
            )
        return f"<section><h2>Samples</h2>{shown}</section>"


def units(title: str, found: Likelihood) -> str:
    """The figures in units that do not depend on how music is written as tokens, as far as they are known."""
    figures = {field: getattr(found, field) for field in ("nats_per_frame", "nats_per_note", "bits_per_second")}
    known = [
        f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] {_LIKELIHOOD_ROWS[field]}"
        for field, figure in figures.items()
        if not math.isnan(figure.value)
    ]
    return f"{title}, {found.pieces:,} pieces: {', '.join(known)}"


def within_floor(found: Comparison, name: str) -> bool | None:
    """Whether a set is as close to the real one as real pieces are among themselves; None if it cannot be said."""
    metric = next(metric for metric in METRICS if metric.name == found.metric)
    value = found.distances[name].value
    if math.isnan(value) or math.isnan(found.floor.value):
        return None
    return value >= found.floor.low if metric.similarity else value <= found.floor.high


def training_curves(history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """The losses in a metrics.jsonl, as name -> (steps, values)."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in history:
        name = {"train": "training", "valid": "validation"}.get(line.get("split"))
        if name and math.isfinite(line.get("loss", math.nan)):
            steps, losses = curves.setdefault(name, ([], []))
            steps.append(line["step"])
            losses.append(line["loss"])
    return curves


def _labels(metric: str) -> Sequence[str]:
    if metric == "velocity_divergence":
        return [str(first) for first in range(0, 128, 4)]
    return _DEGREES if metric == "scale_degree_similarity" else PITCH_CLASSES


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    if abs(value) < 0.001:  # 0 is 0, and 0.00002 is more than that
        return f"{value:.2g}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _estimate(figure: Estimate, scale: float = 1) -> str:
    value, low, high = (_number(scale * x) for x in dataclasses.astuple(figure))
    percent = " %" if scale == 100 else ""
    return f"{value}{percent}" + (f' <span class="range">[{low}, {high}]</span>' if value != "-" else "")


def _verdict(within: bool | None) -> str:
    return {True: '<span class="yes">like real</span>', False: '<span class="no">apart</span>', None: ""}[within]


def _without_nan(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    return None if isinstance(data, float) and not math.isfinite(data) else data


_SET_TITLES = {"samples": "Samples", "random": "Random tokens", "real": "Real pieces"}
_LIKELIHOOD_ROWS = {
    "nats_per_frame": "nats a frame",
    "nats_per_token": "nats a token",
    "nats_per_note": "nats a note",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "bits_per_second": "bits a second of music",
}
