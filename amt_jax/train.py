"""The command that trains: python -m amt_jax.train --config=demo --config.dataset=DATASET --run=RUN"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

from amt_jax import storage
from amt_jax.errors import Parser, UserError, near, run_command
from amt_jax.parallel.peers import AGAIN, add_flags, connect

EPILOG = """\
Any field of the config can be overridden as --config.FIELD=VALUE. Often changed:
  --config.dataset=DATASET                 folder made by python -m data_prep.midi, here or gs://… or s3://…
  --config.steps=3000 --config.epochs=0    length in steps (or --config.steps=0 --config.epochs=20)
  --config.batch_size=8                    rows a microbatch, over all devices
  --config.accumulation=4                  microbatches a step: large batches in little memory
  --config.context=1024                    tokens a row
  --config.lengths=256:0.5,512:0.2         shorter rows to begin with: length:share of the steps
  --config.optimizer.learning_rate=1e-3    the peak
  --config.model.num_layers=6              also num_heads, num_kv_heads, d_model, d_ff, dropout, remat, dtype
  --config.ema=0.999                       keep an average of the weights, and use that
  --config.augmentation.transpose=6        semitones up or down, at most
  --config.init=OTHER_RUN                  start from another run's weights (fine-tuning)
  --config.seed=1                          of weights, order, augmentation and dropout

A run folder that has a checkpoint goes on from it; python -m amt_jax.train --run=RUN is enough.
Ctrl-C finishes the step and saves."""


def main(argv: list[str] | None = None) -> int:
    """Reads the flags and trains; the exit code is 0 if that is over, and `AGAIN` if it can go on."""
    parser = Parser(
        prog="python -m amt_jax.train",
        description="Trains a model on a dataset folder, or goes on with a run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a config file, or the name of one in configs/ (demo)")
    parser.add_argument(
        "--run", metavar="RUN", required=True, help="the run's folder, here or gs://… or s3://…, made if there is none"
    )
    parser.add_argument(
        "--allow-config-change", action="store_true", help="go on with a run although its config or dataset changed"
    )
    parser.add_argument(
        "--profile", action="store_true", help="trace a few steps into RUN/profile and print what took the longest"
    )
    add_flags(parser)
    args, overrides = parse(parser, argv)

    from amt_jax.training.memory import keep_freed_memory

    keep_freed_memory()
    from amt_jax.compilation import keep_compiled

    keep_compiled()
    from amt_jax.training.config import TrainConfig
    from amt_jax.training.loop import train
    from amt_jax.training.run_folder import RunFolder

    run = RunFolder(args.run)
    if args.config:
        fields = load_config(args.config)
    elif run.exists():
        fields = run.config_json()
    else:
        raise UserError(f"there is no run in {args.run!r} to go on with; give --config, for example --config=demo")
    config = TrainConfig.from_json(override(fields, overrides))
    if not config.dataset:
        raise UserError("which dataset? give --config.dataset=DATASET, a folder made by python -m data_prep.midi")
    # A run can be gone on with from anywhere.
    here = {name: storage.absolute(getattr(config, name)) for name in ("dataset", "init") if getattr(config, name)}
    config = dataclasses.replace(config, **here)
    with connect(args.coordinator, args.processes, args.process, args.connect_timeout):
        over = train(config, run, allow_config_change=args.allow_config_change, profiled=args.profile)
    return 0 if over else AGAIN


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """A command's own flags, and the --config.FIELD=VALUE words; UserError for a flag that there is not."""
    args, overrides = parser.parse_known_args(argv)
    for word in overrides:
        if word.startswith("-") and not word.startswith("--config."):
            known = re.findall(r"--[a-z][a-z-]*", parser.format_usage())
            raise UserError(f"unknown flag {near(word.split('=')[0], [*known, '--help'], 'see --help')}")
    return args, overrides


def load_config(name: str) -> dict[str, Any]:
    """The fields of a config file, given by path or by its name in `configs`; "NAME:ARGUMENT" passes an argument."""
    name, _, argument = name.partition(":")
    path = Path(name)
    folder = Path(importlib.util.find_spec("configs").submodule_search_locations[0])
    if path.suffix != ".py" or (not path.exists() and path.parent == Path("configs")):
        path = folder / f"{path.stem}.py"
    if not path.exists():
        known = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
        raise UserError(f"no config {near(name, known)}: neither a file nor a name in {folder}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if argument and not inspect.signature(module.get_config).parameters:
        raise UserError(f"config {path.stem} takes no argument: --config={name}, without :{argument}")
    return module.get_config(*[argument] if argument else []).to_dict()


def with_tuples(value: Any) -> Any:
    """Fields with tuples for the lists of JSON, which ConfigDict would refuse to change."""
    if isinstance(value, dict):
        return {name: with_tuples(each) for name, each in value.items()}
    return tuple(value) if isinstance(value, list) else value


def override(fields: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Applies --config.FIELD=VALUE words; UserError with the near names for a field that there is not."""
    from absl import flags
    from ml_collections import ConfigDict, config_flags

    fields = with_tuples(fields)
    known = leaves(fields)
    for word in words:
        name = word.split("=")[0]
        field = name.removeprefix("--config.")
        if field != name and field not in known:  # its own likeness counts, without what all begin with
            raise UserError(f"unknown field --config.{near(field, known, 'see the config file')}")
    values, argv = flags.FlagValues(), ["train", *words]
    config_flags.DEFINE_config_dict("config", ConfigDict(fields), flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    if rest:
        raise UserError(f"what is {rest[0]!r}? overrides look like --config.FIELD=VALUE")
    return values.config.to_dict()


def leaves(fields: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all fields that hold a value."""
    names = []
    for name, value in fields.items():
        names += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return names


if __name__ == "__main__":
    run_command(main)
