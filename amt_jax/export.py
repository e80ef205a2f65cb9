"""A run folder in, a model that plays without amt_jax out: python -m amt_jax.export."""

from __future__ import annotations

import dataclasses

from amt_jax import storage
from amt_jax.errors import Parser, UserError, near, run_command

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def main() -> None:
    """Reads the flags and exports."""
    parser = Parser(
        prog="python -m amt_jax.export",
        description="Writes a trained model as a folder that plays without amt_jax: its weights (safetensors), its "
        "programs (jax.export) and a script for them that needs only jax, numpy, safetensors and flatbuffers.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of a trained run, here or gs://… or s3://…")
    parser.add_argument("--output", type=storage.local_path, required=True, metavar="DIR", help="a new folder for it")
    parser.add_argument("--checkpoint", default="best", help="best (default), last, or a step")
    parser.add_argument("--batch", type=int, default=1, help="pieces made together (default: %(default)s)")
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help=f"where it shall play, of {', '.join(PLATFORMS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--guidance", action="store_true", help="it can play with guidance, and any token takes it twice the work"
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="compute in this type; bfloat16 also halves the file of weights (default auto: as it was trained, "
        "float32 if that was left to the device)",
    )
    parser.add_argument("--weights-only", "--weights_only", action="store_true", help="the weights without programs")
    args = parser.parse_args()
    platforms = list(dict.fromkeys(args.platforms.split(",")))
    for name in platforms:
        if name not in PLATFORMS:
            raise UserError(f"--platforms: unknown {near(name, list(PLATFORMS))}")
    if args.batch < 1:
        raise UserError(f"--batch is at least 1, not {args.batch}")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"{args.output} is not empty; name a new folder with --output")

    import jax

    # Nothing is computed here, and a CPU's attention is the one that runs on every platform.
    jax.config.update("jax_platforms", "cpu")
    from amt_jax.sampling.portable import save_programs, save_weights
    from amt_jax.tokens.symbolic import PRESETS
    from amt_jax.training.run_folder import RunFolder

    run = RunFolder(args.run)
    if not args.weights_only and run.tokenizer.name not in PRESETS:
        raise UserError(
            f"an exported model writes MIDI by MidiTok, which has no {run.tokenizer.name} tokens; take --weights-only"
        )
    config, params = run.load_model(args.checkpoint)
    if args.guidance and not config.conditions:
        raise UserError("--guidance: this model was trained without conditions, so there is nothing to follow")
    if args.weights != "auto":
        config = dataclasses.replace(config, dtype=args.weights)
    args.output.mkdir(parents=True, exist_ok=True)
    checkpoint = save_weights(args.output, config, params, half=args.weights == "bfloat16")
    if not args.weights_only:
        sizes = {"batch": args.batch, "guided": args.guidance, "platforms": platforms}
        save_programs(args.output, config, run.tokenizer, run.card.conditions, checkpoint, **sizes)
    files = sorted(args.output.iterdir())
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"{args.output}: {', '.join(path.name for path in files)}, {size:.1f} MB")


if __name__ == "__main__":
    run_command(main)
