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
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--split", default="test", help="train, valid or test (default: %(default)s)")
    parser.add_argument("--dataset", default="", metavar="DATASET", help="dataset folder (default: the run's own)")
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
    parser.add_argument("--without_text", default="", metavar="RUN", help="compare with this model without texts then")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="what to compute with, as in generate (default: %(default)s)"
    )
    parser.add_argument(
        "--mesh", default="", help="devices that share the work: data=4, tensor=2 or fsdp=2 (default: one)"
    )
    add_flags(parser)
    flags = vars(parser.parse_args(argv))
    flags["output"] = storage.local_path(flags["output"])
    place = [flags.pop(name) for name in ("coordinator", "processes", "process", "connect_timeout")]
    for name, least in (("count", 1), ("follow", 0)):
        if flags[name] < least:
            raise UserError(f"--{name} is {flags[name]}; it must be at least {least}")

    from amt_jax.compilation import keep_compiled
    from amt_jax.evaluation.report import NAMES
    from amt_jax.evaluation.run import evaluate_run
    from amt_jax.parallel.mesh import MeshConfig
    from amt_jax.parallel.processes import is_first
    from amt_jax.training.run_folder import RunFolder

    flags["mesh"] = MeshConfig.parse(flags["mesh"])
    keep_compiled()
    with connect(*place):
        report = evaluate_run(RunFolder(flags.pop("run")), **flags)
        if is_first():
            print(*report.summary(), sep="\n")
            print(f"report: {flags['output']}/{NAMES[-1]}")


if __name__ == "__main__":
    run_command(main)
