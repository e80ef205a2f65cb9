"""What the presets take on slices of 16, 64 and 256 TPU chips, compiled where there is no TPU (launch.compile_check).

Each takes minutes to compile, so that what stands in the output already is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from amt_jax.errors import run_command

# Rows of a microbatch a chip, as many as fit v5e with room: the larger half of its memory is activations'.
PRESETS = {"remi_composer": 1, "amt_86m": 4, "amt_semantic": 8, "amt_1b": 4}
TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16")


def main() -> None:
    """Reads the flags, compiles, writes json and markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.pods", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES, metavar="TOPOLOGY")
    parser.add_argument("--output", type=Path, default=Path("bench/results/pods.json"), help="and .md beside it")
    args = parser.parse_args()

    from launch.compile_check import check
    from launch.report import Report

    reports = [Report.from_json(each) for each in json.loads(args.output.read_text())] if args.output.exists() else []
    for preset in args.presets:
        for topology in args.topologies:
            if any((each.config, each.topology) == (preset, topology) for each in reports):
                continue
            print(f"compiling {preset} for {topology}", flush=True)
            reports.append(check(preset, topology, [], rows=PRESETS[preset]))
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps([dataclasses.asdict(each) for each in reports], indent=1) + "\n")
    args.output.with_suffix(".md").write_text(table(reports))


def table(reports) -> str:
    return ""


if __name__ == "__main__":
    run_command(main)
