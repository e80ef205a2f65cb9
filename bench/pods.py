"""What the presets take on slices of 16, 64 and 256 TPU chips, compiled where there is no TPU (launch.compile_check).

Each takes minutes to compile, so that what stands in the output already is kept.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from amt_jax.errors import Parser, UserError, run_command

# One row of a microbatch a chip: four of amt_86m took eight times the bytes through memory.
PRESETS = ("remi_composer", "amt_86m", "amt_semantic", "amt_1b")
TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16")


def main() -> None:
    """Reads the flags, compiles, writes json and markdown."""
    parser = Parser(prog="python -m bench.pods", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES, metavar="TOPOLOGY")
    parser.add_argument("--output", type=Path, default=Path("bench/results/pods.json"), help="and .md beside it")
    args = parser.parse_args()

    from launch.compile_check import check
    from launch.report import Report

    try:
        written = json.loads(args.output.read_text()) if args.output.exists() else []
        reports = [Report.from_json(each) for each in written]
    except TypeError:
        raise UserError(
            f"{args.output} was written by an older version; remove it, and all is compiled again"
        ) from None
    for preset in args.presets:
        for topology in args.topologies:
            if any((each.config, each.topology) == (preset, topology) for each in reports):
                continue
            print(f"compiling {preset} for {topology}", flush=True)
            reports.append(check(preset, topology, []))
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps([dataclasses.asdict(each) for each in reports], indent=1) + "\n")
    reports.sort(key=lambda each: (PRESETS.index(each.config), each.chips))
    args.output.write_text(json.dumps([dataclasses.asdict(each) for each in reports], indent=1) + "\n")
    args.output.with_suffix(".md").write_text(table(reports))


def table(reports) -> str:
    """The reports for people, and what they say about the preset's own batch."""
    from launch.chips import chip
    from launch.report import estimate, utilisation

    lines = [
        "# The presets on slices of TPUs",
        "",
        "Written by `python -m bench.pods` from programs compiled where there is no TPU; nothing was measured on one.",
        "Bytes, operations and collectives are counted from the compiled train step, a chip. Times and model FLOPs",
        "utilisation (MFU) are estimates from the chip's datasheet: from full to no overlap of products, memory and",
        "interconnect, and without what vector units do (softmax, norms, random numbers), which only adds.",
        "A chip has one row of each microbatch, so that a larger slice takes a larger batch (weak scaling).",
        "Attention of whole sequences is the splash kernel; what it reads again for each block counts.",
        "",
        "| preset | slice | mesh | microbatches | tokens a step | memory a chip | of it code "
        "| TFLOP a chip | by formula | sent a chip | step, ms | MFU |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in reports:
        step, time = each.programs[0], estimate(each.programs[0], each.topology)
        microbatches = own_step(each.config)["accumulation"]
        mesh = " x ".join(f"{axis} {size}" for axis, size in each.mesh.items() if size > 1)
        sent = ", ".join(f"{kind} {size / 1e9:.2f} GB" for kind, (_, size) in step.collectives.items() if size > 5e6)
        low, high = utilisation(each)
        lines.append(
            f"| {each.config} | {each.topology} | {mesh} | {microbatches} | {each.tokens:,} "
            f"| {step.memory / 1e9:.1f} GB | {step.code / 1e9:.2f} GB | {step.flops / 1e12:.2f} "
            f"| {step.flops * each.chips / each.formula_flops - 1:+.1%} | {sent} "
            f"| {time.fastest * 1e3:.0f} to {time.slowest * 1e3:.0f} | {low:.0%} to {high:.0%} |"
        )
    lines += ["", "## Generation on the same slices", "",
              "A guided piece a group of chips, half a context of prompt, a cache of a whole one.", "",
              "| preset | slice | memory a chip, prompt / token | prompt, ms | token, ms | collectives a token |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for each in reports:
        prefill, decode = each.programs[1:]
        read, drawn = estimate(prefill, each.topology), estimate(decode, each.topology)
        lines.append(
            f"| {each.config} | {each.topology} | {prefill.memory / 1e9:.1f} / {decode.memory / 1e9:.1f} GB "
            f"| {read.fastest * 1e3:.1f} to {read.slowest * 1e3:.1f} "
            f"| {drawn.fastest * 1e3:.2f} to {drawn.slowest * 1e3:.2f} "
            f"| {sum(count for count, _ in decode.collectives.values())} |"
        )
    lines += ["", "## Where it stops", "",
              "With the batch of the preset's file rather than one that grows with the slice, products a chip shrink",
              "with the number of chips, while what each chip exchanges of gradients and weights stays as much. Chips",
              "beyond the rows of a step would have to share rows (config.mesh.sequence or tensor).", "",
              "| preset | tokens a step by its file | products of it on one chip | exchange a step "
              "| chips at which both take as long | chips with a row each |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for preset in PRESETS:
        largest = max((each for each in reports if each.config == preset), key=lambda each: each.chips, default=None)
        if largest is None:
            continue
        own, time = own_step(preset), estimate(largest.programs[0], largest.topology)
        products = time.compute * largest.chips * own["tokens"] / largest.tokens
        # Gradients are summed once a step; fsdp gathers and scatters in each microbatch, of which this has one.
        collectives = largest.programs[0].collectives
        once = collectives.get("all-reduce", (0, 0))[1]
        each_time = sum(size for _, size in collectives.values()) - once
        exchange = (once + each_time / own["accumulation"]) / chip(largest.topology).interconnect
        lines.append(
            f"| {preset} | {own['tokens']:,} | {products * 1e3:,.0f} ms | {exchange * 1e3:.1f} ms "
            f"| {products / exchange:.0f} | {own['rows']} |"
        )
    return "\n".join(lines) + "\n"


def own_step(preset: str) -> dict[str, int]:
    """Rows, tokens and microbatches of a step by the preset's file."""
    from amt_jax.train import load_config

    fields = load_config(preset)
    rows = fields["batch_size"] * fields["accumulation"]
    return {"rows": rows, "tokens": rows * fields["context"], "accumulation": fields["accumulation"]}


if __name__ == "__main__":
    run_command(main)
