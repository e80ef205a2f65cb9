"""What a sweep found: a table, sweep.json and charts."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from launch.trials import Settings, Sweep, short

TOP = 5  # trials in the table
NAMES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
ENOUGH = 10  # trials, for importances
LOSS = "validation loss (nats a token)"
BLUE, RED, MIDDLE, LIGHT = "#2563eb", "#b91c1c", "#9ca3af", "#e5e7eb"
COLOURS = ("#2563eb", "#d97706", "#0f766e", "#7c3aed", "#111827")  # of the best curves


def show(sweep: Sweep) -> None:
    """Prints the table, what failed and what to do next; writes sweep.json and the charts into the sweep's folder."""
    settings, best = sweep.settings, ranked(sweep)
    print(f"{len(sweep.trials())} of {settings.trials} trials: {summary(sweep)}")
    reasons = [(trial, trial.user_attrs["reason"]) for trial in sweep.trials() if "reason" in trial.user_attrs]
    for trial, reason in reasons[:TOP]:
        print(f"  trial {trial.number} {NAMES[trial.state]}: {reason} ({sweep.log(trial.number)})")
    if len(reasons) > TOP:
        print(f"  and {len(reasons) - TOP} more, in {sweep.folder / 'sweep.json'}")
    importances = importance(sweep)
    write_json(sweep, importances)
    if not best:
        return
    print("\n".join(["", *table(sweep, best[:TOP]), ""]))
    charts = write_charts(sweep, importances)
    print(f"charts: {', '.join(str(path) for path in charts)}")
    print(f"all figures: {sweep.folder / 'sweep.json'}")
    print(f"listen to the best: python -m amt_jax.generate --run={sweep.run(best[0].number)} --output=MUSIC")
    print(f"train it ten times as long: python -m amt_jax.train {shlex.join(longer(settings, best[0]))} --run=RUN")


def summary(sweep: Sweep) -> str:
    """How many trials ended in which way, and the best of them."""
    best = ranked(sweep)[:1]
    counts = {state: len(sweep.trials(state)) for state in NAMES}
    parts = [f"{counts[state]} {name}" for state, name in NAMES.items() if counts[state] or state != TrialState.RUNNING]
    return ", ".join([*parts, *(f"best {trial.value:.4f} (trial {trial.number})" for trial in best)])


def ranked(sweep: Sweep) -> list[FrozenTrial]:
    """The trials that were trained to the end, the best first."""
    return sorted(sweep.trials(TrialState.COMPLETE), key=lambda trial: trial.value)


def table(sweep: Sweep, trials: Sequence[FrozenTrial]) -> list[str]:
    """Lines of a table of trials; the fields under their last names, where these differ."""
    fields = labels(sweep.settings.space)
    rows = [["trial", "nats a token", "steps", *fields.values(), "run"]]
    for trial in trials:
        values = [short(trial.params[field]) for field in fields]
        rows.append([str(trial.number), f"{trial.value:.4f}", str(trial.user_attrs["steps"]), *values])
        rows[-1].append(str(sweep.run(trial.number)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in rows
    ]


def labels(fields: Sequence[str]) -> dict[str, str]:
    """Field -> its last name, or the whole where two share that."""
    last = [field.rpartition(".")[2] for field in fields]
    return {field: name if last.count(name) == 1 else field for field, name in zip(fields, last, strict=True)}


def longer(settings: Settings, trial: FrozenTrial) -> list[str]:
    """The words that train as a trial did, ten times as long."""
    unit = "steps" if settings.fields["steps"] else "epochs"
    length = trial.params.get(unit, settings.fields[unit]) * 10
    words = [word for word in settings.words(trial.params) if not word.startswith(f"--config.{unit}=")]
    return [*words, f"--config.{unit}={length:g}"]


def importance(sweep: Sweep) -> dict[str, float]:
    """Field -> its share in what sets the best tenth of the trials apart (PED-ANOVA, arXiv 2304.10255).

    Empty before there are trials enough for a tenth.
    """
    return optuna.importance.get_param_importances(sweep.study) if len(ranked(sweep)) >= ENOUGH else {}


def write_json(sweep: Sweep, importances: Mapping[str, float]) -> None:
    """Everything that was found, for other programs."""
    trials = [
        {
            "trial": trial.number,
            "state": NAMES[trial.state],
            "loss": trial.value,
            "fields": trial.params,
            "validations": trial.intermediate_values,
            "run": sweep.run(trial.number).name,
            **trial.user_attrs,
        }
        for trial in sweep.trials()
    ]
    data = {"settings": dataclasses.asdict(sweep.settings), "importances": importances, "trials": trials}
    (sweep.folder / "sweep.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def write_charts(sweep: Sweep, importances: Mapping[str, float]) -> list[Path]:
    """Draws the charts as PNG files; returns their paths."""
    charts = {"history": history(sweep), "fields": fields(sweep), "curves": curves(sweep)}
    if importances:
        charts["importance"] = bars(importances)
    paths = []
    for name, figure in charts.items():
        paths.append(sweep.folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths


def history(sweep: Sweep) -> Figure:
    """Loss over the trials, and the lowest so far."""
    figure, (axes,) = canvas(7, 3.6)
    scatter(axes, sweep, {trial.number: trial.number for trial in sweep.trials()})
    done = sorted(ranked(sweep), key=lambda trial: trial.number)
    lowest = np.minimum.accumulate([trial.value for trial in done])
    axes.step([trial.number for trial in done], lowest, where="post", color=BLUE, linewidth=1.2, label="lowest so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(LOSS)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, loc="outside upper center", ncols=4)
    return figure


def fields(sweep: Sweep) -> Figure:
    """Loss over each field that was searched."""
    space = sweep.settings.space
    figure, places = canvas(3.4, 3, len(space))
    trials = sweep.trials(TrialState.COMPLETE, TrialState.PRUNED)
    for axes, (field, distribution) in zip(places, space.items(), strict=True):
        values = {trial.number: trial.params[field] for trial in trials}
        choices = getattr(distribution, "choices", ())
        if choices:
            # Trials of one choice stand beside each other, in the order in which they were made.
            values = {number: choices.index(value) + (number % 16 - 7.5) / 40 for number, value in values.items()}
            axes.set_xticks(range(len(choices)), [short(choice) for choice in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        else:
            axes.set_xscale("log" if distribution.log else "linear")
            axes.set_xlim(distribution.low, distribution.high)
            if isinstance(distribution, IntDistribution):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        scatter(axes, sweep, values)
        axes.set_xlabel(field)
        axes.set_ylabel(LOSS)
    figure.legend(*places[0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=3)
    return figure


def curves(sweep: Sweep) -> Figure:
    """Validation loss over the steps of every trial, the best in colour."""
    figure, (axes,) = canvas(7, 4.2)
    best = {trial.number: colour for trial, colour in zip(ranked(sweep), COLOURS, strict=False)}
    for trial in sweep.trials():
        steps, losses = list(trial.intermediate_values), list(trial.intermediate_values.values())
        if trial.number not in best and steps:
            pruned = trial.state == TrialState.PRUNED
            axes.plot(steps, losses, color=MIDDLE, linewidth=1)
            axes.plot(steps[-1:], losses[-1:], "x" if pruned else "o", color=RED if pruned else MIDDLE, markersize=5)
    for trial in ranked(sweep)[: len(COLOURS)]:
        points = trial.intermediate_values
        label = f"trial {trial.number}: {trial.value:.4f}"
        axes.plot(list(points), list(points.values()), "o-", markersize=3, color=best[trial.number], label=label)
    axes.plot([], [], "x", color=RED, label="pruned")
    axes.plot([], [], color=MIDDLE, label="other trials")
    axes.set_yscale("log")
    plain = ScalarFormatter()
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain)
    axes.set_xlabel("step")
    axes.set_ylabel(LOSS)
    axes.grid(which="both", color=LIGHT, linewidth=0.8)
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def bars(importances: Mapping[str, float]) -> Figure:
    """Importance of each field, the greatest on top."""
    figure, (axes,) = canvas(7, 0.9 + 0.35 * len(importances))
    drawn = axes.barh(list(importances), [100 * share for share in importances.values()], color=BLUE, height=0.6)
    axes.bar_label(drawn, fmt="%.0f %%", padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 110)
    axes.set_xlabel("share in what sets the best tenth of the trials apart (%)")
    return figure


def scatter(axes: Axes, sweep: Sweep, places: Mapping[int, float]) -> None:
    """A mark a trial at places[its number] and its loss; those far above the others stand at the upper edge."""
    done, pruned = ranked(sweep), [trial for trial in sweep.trials(TrialState.PRUNED) if trial.value is not None]
    losses = np.array([trial.value for trial in done])
    # Most of the picture is for the better half of the trials.
    top = losses[0] + max(4 * (np.median(losses) - losses[0]), 0.01 * losses[0])
    style = {"s": 24, "alpha": 0.75, "linewidths": 1.2, "clip_on": False, "zorder": 3}
    for trials, marker, colour, name in ((done, "o", BLUE, "trained to the end"), (pruned, "x", RED, "pruned")):
        inside, above = [t for t in trials if t.value <= top], [t for t in trials if t.value > top]
        x, y = [places[t.number] for t in inside], [t.value for t in inside]
        axes.scatter(x, y, marker=marker, color=colour, label=name, **style)
        axes.scatter([places[t.number] for t in above], [top] * len(above), marker="^", color=colour, **style)
    axes.scatter([], [], marker="^", color=MIDDLE, label="above the chart")
    spread = top - losses[0]
    axes.set_ylim(losses[0] - 0.05 * spread, top)


def canvas(width: float, height: float, number: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `number` charts, each of a size in inches."""
    columns = 2 if number == 4 else min(number, 3)
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = [figure.add_subplot(rows, columns, i + 1) for i in range(number)]
    for axes in places:
        axes.grid(color=LIGHT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, places
