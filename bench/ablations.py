"""What each choice of configs/pianoroll.py buys: the model of one set, and again with one choice undone at a time.

    python -m bench.ablations --rolls=DIR --set=jsb

Differences are in nats a frame on `valid`, with 95 % intervals by bootstrap over pieces, each compared with itself. One
seed. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amt_jax.errors import run_command
from amt_jax.evaluation.metrics import Estimate, bootstrap
from bench.literature import PUBLISHED, prepare, train_and_score

CHOICES = {
    "as in the config": (),
    "AdamW instead of Muon": ("optimizer.name=adamw",),
    "no history of chords": ("model.history=()",),
    "positions count tokens, not frames": ("model.clock=tokens",),
    "no transposition": ("augmentation.transpose=0",),
    "all pieces transposed": ("augmentation.transposed=1.0",),
    "weights not averaged": ("ema=0.0",),
    "not calibrated": ("calibrate=False",),
    "dropout 0.1": ("model.dropout=0.1",),
}


def main() -> None:
    """Reads the flags, trains and scores what is not yet, writes the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rolls", required=True, type=Path, metavar="DIR", help="where the set's .json file is")
    add("--set", default="jsb", choices=PUBLISHED, help="default: %(default)s")
    add("--steps", type=int, default=2000, help="of each model (default: %(default)s)")
    add("--work", type=Path, default=Path("ablations"), help="for dataset and runs (default: %(default)s)")
    add("--output", type=Path, default=Path("bench/results/ablations.json"), help="and .md beside it")
    args = parser.parse_args()
    dataset = prepare(args.set, args.rolls, args.work)
    flags = [f"--config=pianoroll:{args.set}", f"--config.dataset={dataset}", f"--config.steps={args.steps}"]
    found: dict[str, Any] = {"about": {"set": args.set, "steps": args.steps}, "pieces": {}}
    for number, (choice, fields) in enumerate(CHOICES.items()):
        run = args.work / args.set / f"choice{number}"
        report = train_and_score(run, [*flags, *(f"--config.{field}" for field in fields)], "valid")
        found["pieces"][choice] = [[piece["nats"], piece["frames"]] for piece in report["pieces"]]
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(found) + "\n", encoding="utf-8")
        args.output.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(table(found))


def table(found: Mapping[str, Any]) -> str:
    """What was found, for people."""
    about, pieces = found["about"], {name: np.array(each) for name, each in found["pieces"].items()}
    lines = [
        "# What each choice buys",
        "",
        f"Written by `python -m bench.ablations`: `pianoroll:{about['set']}`, {about['steps']} steps, one seed, nats a",
        "frame on `valid`; what is lost when one choice is undone, with its 95 % interval over pieces, in pairs. The",
        "checkpoint and the temperature of calibrated models are chosen on the same pieces.",
        "",
        "| | nats a frame | lost |",
        "|---|---|---|",
    ]
    whole = next(iter(pieces.values()))
    for name, each in pieces.items():
        lost = difference(each, whole)
        shown = "" if each is whole else f"{lost.value:+.3f} [{lost.low:+.3f}, {lost.high:+.3f}]"
        lines.append(f"| {name} | {each[:, 0].sum() / each[:, 1].sum():.3f} | {shown} |")
    return "\n".join(lines) + "\n"


def difference(one: np.ndarray, other: np.ndarray) -> Estimate:
    """Nats a frame of one model more than of another on the same pieces. [P, 2] nats and frames of each."""
    pairs = np.stack([one[:, 0] - other[:, 0], one[:, 1]], axis=1)
    return bootstrap(lambda x: x[:, 0].sum() / x[:, 1].sum(), [pairs], 0, least=-math.inf)


if __name__ == "__main__":
    run_command(main)
