"""Likelihood of piano-rolls beside published figures: four sets, some seeds, so many minutes in all.

    python -m bench.literature --rolls=DIR --minutes=240

DIR holds jsb.json, nottingham.json, piano_midi.json and musedata.json, see data_prep.pianoroll. Every model is one of
configs/pianoroll.py, trained on `train` for as many steps as its share of the minutes allows, but no more than its
config's, and chosen on `valid`. Validation and compiling are not counted. The same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amt_jax.demo import run_module
from amt_jax.errors import UserError, run_command
from amt_jax.train import load_config

# Nats a frame on the test splits: RNN-NADE of Boulanger-Lewandowski et al. 2012, the others of Bai et al. 2018.
PUBLISHED = {
    "jsb": {"RNN": 8.91, "LSTM": 8.45, "TCN": 8.10, "RNN-NADE": 5.56},
    "nottingham": {"LSTM": 3.29, "TCN": 3.07, "RNN-NADE": 2.31},
    "piano_midi": {"RNN-NADE": 7.05},
    "musedata": {"RNN-NADE": 5.60},
}
PROBE = 40  # steps that say how long one takes


def main() -> None:
    """Reads the flags, trains and scores what is not yet, writes the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.literature", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rolls", required=True, type=Path, metavar="DIR", help="the four .json files")
    add("--minutes", required=True, type=float, help="of training, of all models together")
    add("--sets", nargs="*", choices=PUBLISHED, default=list(PUBLISHED), help="default: all four")
    add("--seeds", type=int, default=3, help="models a set (default: %(default)s)")
    add("--split", default="valid", help="what to score (default: %(default)s)")
    add("--work", type=Path, default=Path("literature"), help="for datasets and runs (default: %(default)s)")
    add("--output", type=Path, default=Path("bench/results/literature.json"), help="and .md beside it")
    args = parser.parse_args()
    minutes = args.minutes / (len(args.sets) * args.seeds)
    found = {
        "about": {
            "minutes of training a model": round(minutes, 1),
            "split": args.split,
        },
        "sets": {name: measure(name, args, minutes) for name in args.sets},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    args.output.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(table(found))


def measure(name: str, args: argparse.Namespace, minutes: float) -> list[dict[str, Any]]:
    """The models of one set: steps, minutes of training, and the scores that evaluate wrote."""
    dataset, models = prepare(name, args.rolls, args.work), []
    for seed in range(args.seeds):
        run = args.work / name / f"seed{seed}"
        flags = [f"--config=pianoroll:{name}", f"--config.dataset={dataset}", f"--config.seed={seed}"]
        if (run / "config.json").exists():  # it has begun, and keeps its length
            steps = config_of(run)["steps"]
        else:
            probe = run.with_name(f"{run.name}-probe")
            run_module("amt_jax.train", *flags, f"--run={probe}", f"--config.steps={PROBE}")
            steps = min(load_config(f"pianoroll:{name}")["steps"], math.ceil(minutes * 60 * max(speeds(probe))))
        scores = train_and_score(run, [*flags, f"--config.steps={steps}"], args.split)["likelihood"]
        spent = steps / statistics.harmonic_mean(speeds(run)) / 60
        models.append({"seed": seed, "steps": steps, "minutes": round(spent, 1), "scores": scores})
    return models


def prepare(name: str, rolls: Path, work: Path) -> Path:
    """The dataset folder of a set, made of the .json file in `rolls` if it is not there yet."""
    dataset = work / name / "dataset"
    if not (rolls / f"{name}.json").exists():
        raise UserError(f"no {name}.json in {rolls}")
    if not dataset.exists():
        run_module("data_prep.pianoroll", f"--input={rolls / name}.json", f"--output={dataset}")
    return dataset


def train_and_score(run: Path, flags: Sequence[str], split: str) -> dict[str, Any]:
    """Trains a run, or the rest of it, and scores its frames; what evaluate reports."""
    report = run.with_name(f"{run.name}-{split}")
    run_module("amt_jax.train", *flags, f"--run={run}")
    asked = ("--likelihood=frames", "--leaks", f"--split={split}")
    run_module("amt_jax.evaluate", f"--run={run}", *asked, f"--output={report}")
    return json.loads((report / "report.json").read_text(encoding="utf-8"))


def config_of(run: Path) -> dict[str, Any]:
    """The fields that a run was trained with."""
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]


def speeds(run: Path) -> list[float]:
    """Steps a second of a run, line by line of its metrics."""
    config = config_of(run)
    tokens = config["context"] * config["batch_size"] * config["accumulation"]
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["tokens_per_second"] / tokens for line in lines if "tokens_per_second" in line]


def table(found: Mapping[str, Any]) -> str:
    """What was found, for people."""
    split = found["about"]["split"]
    lines = [
        "# Polyphonic music likelihood, beside published figures",
        "",
        "Written by `python -m bench.literature`. Nats a frame, lower is better. The published figures are of the test",
        f"splits, ours of `{split}`: the mean of single models of so many seeds, with the lowest and the highest.",
        "Their checkpoint and their temperature, one number, are chosen on `valid`.",
        "",
        *(f"- {name}: {value}" for name, value in found["about"].items()),
        "",
        "| set | published | amt_jax | without leaks | 95 % interval over pieces | minutes a model |",
        "|---|---|---|---|---|---|",
    ]
    for name, models in found["sets"].items():
        published = ", ".join(f"{model} {value:.2f}" for model, value in PUBLISHED[name].items())
        whole = [each["scores"]["frames"]["nats_per_frame"] for each in models]
        clean = [each["scores"].get("frames, leaks left out", {}).get("nats_per_frame") for each in models]
        values = [each["value"] for each in whole]
        seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
        ours = f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}, {seeds})"
        apart = f"{statistics.mean(each['value'] for each in clean):.3f}" if all(clean) else ""
        interval = f"[{statistics.mean(x['low'] for x in whole):.2f}, {statistics.mean(x['high'] for x in whole):.2f}]"
        spent = statistics.mean(each["minutes"] for each in models)
        lines.append(f"| {name} | {published} | {ours} | {apart} | {interval} | {spent:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)
