"""Evaluates a run: python -m amt_jax.evaluate --run=RUN --output=DIR."""

from __future__ import annotations

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from amt_jax.parallel.peers import add_flags, connect
from amt_jax.sampling.settings import WEIGHTS


def main(argv: list[str] | None = None) -> None:
    """Reads the flags and evaluates."""
    parser = Parser(
        prog="python -m amt_jax.evaluate",
        description="Says how well a run predicts real music and how its own music compares with it. "
        "Writes report.html, report.json and report.csv.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder, here or gs://… or s3://…")
    parser.add_argument("--output", metavar="DIR", help="folder for the report; needed unless --likelihood is all")
    parser.add_argument("--split", default="test", help="train, valid or test (default: %(default)s)")
    parser.add_argument("--dataset", default="", metavar="DATASET", help="dataset folder (default: the run's own)")
    parser.add_argument(
        "--likelihood",
        choices=("tokens", "frames"),
        help="only this, and no music: of all tokens, or of piano-rolls frame by frame as the literature has it",
    )
    parser.add_argument(
        "--rolls", metavar="FILE", help="with --likelihood=frames: score a split of this .json of piano-rolls instead"
    )
    parser.add_argument(
        "--leaks",
        action="store_true",
        help="with --likelihood=frames: also without the pieces whose melody stands, transposed, in train",
    )
    parser.add_argument("--samples", default="", metavar="DIR", help="judge these .mid files, do not generate any")
    parser.add_argument("--count", type=int, default=16, help="pieces to generate (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="of each piece, for all that is compared (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of generation and intervals (default: %(default)s)")
    parser.add_argument("--checkpoint", default="best", help="best, last or a step (default: %(default)s)")
    parser.add_argument(
        "--follow", type=int, default=32, help="captions to ask a model of texts for, 0 for none (default: %(default)s)"
    )
    parser.add_argument("--encoder", metavar="DIR", help="the run's text encoder, if it lies elsewhere now")
    parser.add_argument("--without_text", default="", metavar="RUN", help="compare with this model without texts then")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="what to compute with, as in generate (default: %(default)s)"
    )
    parser.add_argument(
        "--mesh", default="", help="devices that share the work: data=4, tensor=2 or fsdp=2 (default: one)"
    )
    add_flags(parser)
    flags = vars(parser.parse_args(argv))
    kind, rolls, leaks = (flags.pop(name) for name in ("likelihood", "rolls", "leaks"))
    if (rolls or leaks) and kind != "frames":
        raise UserError("--rolls and --leaks go with --likelihood=frames")
    if flags["output"]:
        flags["output"] = storage.local_path(flags["output"])
    elif not kind:
        parser.error("the following arguments are required: --output")
    place = [flags.pop(name) for name in ("coordinator", "processes", "process", "connect_timeout")]
    for name, least in (("count", 1), ("follow", 0)):
        if flags[name] < least:
            raise UserError(f"--{name} is {flags[name]}; it must be at least {least}")

    from amt_jax.compilation import keep_compiled
    from amt_jax.evaluation.report import NAMES
    from amt_jax.evaluation.run import evaluate_run, score_run
    from amt_jax.parallel.mesh import MeshConfig
    from amt_jax.parallel.processes import is_first
    from amt_jax.training.run_folder import RunFolder

    flags["mesh"] = MeshConfig.parse(flags["mesh"])
    keep_compiled()
    with connect(*place):
        run = RunFolder(flags.pop("run"))
        if kind:
            for name in ("samples", "count", "seconds", "follow", "without_text"):
                del flags[name]  # of music that is made
            report = score_run(run, kind, rolls=rolls, leaks=leaks, **flags)
        else:
            report = evaluate_run(run, **flags)
        if is_first():
            for each in () if flags["output"] else report.scores:
                print(f"{each.name}, {each.frames} frames: {each.nats_per_frame:.3f} nats a frame")
            print(*report.summary(), sep="\n")
            if flags["output"]:
                print(f"report: {flags['output']}/{NAMES[-1]}")


if __name__ == "__main__":
    run_command(main)
