"""What token n of a piece costs, up to the context of 8,192, with configs/remi_composer.py's decoder.

The cache that a step reads doubles when it is full: tokens from 4,097 on cost what all would if a step read the whole
context from the beginning. Writes a table as json and a chart beside it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

from amt_jax.errors import run_command
from amt_jax.sampling.settings import WEIGHTS
from bench.generate_speed import our_sampler
from bench.peer import write_results

CONTEXT = 8192


def main() -> None:
    """Reads the flags, measures, prints, draws."""
    parser = argparse.ArgumentParser(prog="python -m bench.token_cost", description=__doc__)
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help="see generate (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="after one that is not counted (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("bench/results/token_cost.json"))
    args = parser.parse_args()

    import jax

    from amt_jax.sampling.sampler import SMALLEST_WINDOW

    dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    sampler = our_sampler(dtype, 1, args.weights)
    rounds = [token_costs(sampler, CONTEXT - 1) for _ in range(args.rounds + 1)][1:]
    points = {n: statistics.median(each[n] for each in rounds) for n in rounds[0]}
    rows, before, slots = [], 0, SMALLEST_WINDOW
    while before < CONTEXT:
        inside = [cost for n, cost in points.items() if before < n <= slots]
        rows.append({"slots": slots, "ms_a_token": statistics.median(inside)})
        before, slots = slots, 2 * slots
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "dtype": dtype, "weights": args.weights}
    write_results(args.output, rows, about | {"rounds": args.rounds, "points": points})
    draw(points, rows[-1]["ms_a_token"], args.output.with_suffix(".png"))


def token_costs(sampler, tokens: int) -> dict[int, float]:
    """Milliseconds a token of one piece, by the number of tokens at the end of each stretch of them."""
    from amt_jax.sampling.request import Request
    from amt_jax.sampling.settings import GenerationSettings

    ends = []

    def note(share: float) -> None:
        ends.append((round(share * tokens), time.perf_counter()))

    list(sampler.generate([Request(GenerationSettings(max_tokens=tokens, seconds=36_000))], note))
    return {n: 1000 * (end - begin) / (n - before) for (before, begin), (n, end) in itertools.pairwise(ends)}


def draw(points: dict[int, float], whole: float, path: Path) -> None:
    """The chart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(list(points), list(points.values()), ".-", label="with a cache that grows with the piece")
    axes.axhline(whole, color="gray", linestyle="--", label=f"reading {CONTEXT:,} slots for every token")
    axes.set(xlabel="token", ylabel="ms a token", xlim=(0, CONTEXT), ylim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_command(main)
