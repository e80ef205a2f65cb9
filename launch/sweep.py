"""The command that searches fields: python -m launch.sweep --config=demo --search FIELD=RANGE --output=SWEEP"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from amt_jax.train import load_config, override, parse
from launch.local import gpus as visible_gpus

if TYPE_CHECKING:
    from launch.trials import Settings, Sweep, Training

TRIALS = 50
POLL = 0.5  # seconds

EPILOG = """\
Any field of the config can be searched, by as many --search as you like:
  --search optimizer.learning_rate=log:1e-4:1e-2   between these, evenly on a logarithmic scale
  --search model.num_layers=2:6                    whole numbers where the field holds one, both ends included
  --search model.dropout=0:0.3
  --search model.d_model=choice:128,256            one of these

Each trial is one training, python -m amt_jax.train --run=SWEEP/trial-0007, with its output in SWEEP/trial-0007.log.
Its lowest validation loss is what counts. From the sixth trial on, one that is worse than the median of those that
ended, at the same step, is pruned: validate several times a training (--config.validate_every=100).
Each trial keeps its checkpoints; --config.keep=1 keeps the fewest.

Ctrl-C stops the trainings, which save. python -m launch.sweep --output=SWEEP goes on with them and the sweep; the same
in another terminal, or on another host that sees the folder, helps. --trials and --workers may change every time."""


def main(argv: list[str] | None = None) -> None:
    """Reads the flags, begins a sweep or goes on with one, and shows what it found."""
    parser = Parser(
        prog="python -m launch.sweep",
        description="Searches fields of a config for the lowest validation loss, or goes on with a search.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", metavar="SWEEP", required=True, help="the sweep's folder, made if there is none")
    parser.add_argument("--config", metavar="FILE", help="a config file, or the name of one in configs/ (demo)")
    parser.add_argument("--search", metavar="FIELD=RANGE", action="append", help="a field to search, and where")
    parser.add_argument("--trials", metavar="N", type=int, help="trainings in all (50)")
    parser.add_argument(
        "--workers", metavar="N", type=int, default=1, help="trainings at a time; they divide this host's GPUs (1)"
    )
    parser.add_argument("--show", action="store_true", help="only show what was found so far")
    args, overrides = parse(parser, argv)
    for name in ("trials", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 1")

    try:
        import optuna
    except ImportError:
        raise UserError("a sweep needs Optuna, which is not installed: pip install 'amt_jax[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    from launch.findings import show
    from launch.trials import JOURNAL, Sweep

    folder = storage.local_path(args.output)
    old = Sweep(folder).settings if (folder / JOURNAL).exists() else None
    if not old and (args.show or not args.config):
        raise UserError(f"there is no sweep in {args.output!r} to go on with; give --config, for example --config=demo")
    ended = True
    if not args.show:
        environments = shares(args.workers)
        settings = settings_of(args, overrides, old)
        sweep = Sweep(folder)
        sweep.begin(settings)
        steps, every = settings.fields["steps"], settings.fields["validate_every"]
        if not old and steps and (every or steps) > steps / 4:
            print(
                f"note: few validations, few chances to prune; --config.validate_every={max(1, steps // 10)} makes ten"
            )
        ended = work(sweep, environments)
    show(Sweep(folder))
    if not ended:
        print(f"stopped; go on with: python -m launch.sweep --output={folder}")


def settings_of(args: argparse.Namespace, overrides: list[str], old: Settings | None) -> Settings:
    """What the flags ask for, and for the rest what the sweep began with; UserError for what no training could do."""
    from amt_jax.data.card import Card
    from amt_jax.training.config import TrainConfig, flatten
    from launch.trials import Settings

    config, words = (args.config, overrides) if args.config else (old.config, [*old.overrides, *overrides])
    file, colon, argument = config.partition(":")
    if Path(file).is_file():
        config = os.path.abspath(file) + colon + argument
    defaults = load_config(config)
    fields = override(defaults, words)
    if not fields["dataset"]:
        raise UserError("which dataset? give --config.dataset=DATASET, a folder made by python -m data_prep.midi")
    # A sweep can be gone on with from anywhere.
    fields |= {name: storage.absolute(fields[name]) for name in ("dataset", "init") if fields[name]}
    usual = flatten(defaults)
    overrides = [f"--{name}={value}" for name, value in flatten(fields).items() if value != usual[name]]
    TrainConfig.from_json(fields)
    Card.load(fields["dataset"]).split("valid")  # its loss is what counts
    search = args.search or (old.search if old else None)
    if not search:
        raise UserError(
            "search which fields? give --search, for example --search optimizer.learning_rate=log:1e-4:1e-2"
        )
    settings = Settings(config, overrides, search, args.trials or (old.trials if old else TRIALS), fields)
    _ = settings.space  # raises
    return settings


def work(sweep: Sweep, environments: Sequence[Mapping[str, str]]) -> bool:
    """Trains until all trials have ended, here and elsewhere; a training at a time in each environment.

    Returns whether they have: Ctrl-C or SIGTERM stops the trainings before, and a second Ctrl-C kills them.
    """
    from optuna.trial import TrialState
    from tqdm import tqdm

    from launch.findings import summary

    asked = []

    def stop(number, frame):
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    running = sweep.trials(TrialState.RUNNING)
    bar = tqdm(
        total=sweep.settings.trials, initial=len(sweep.trials()) - len(running), unit="trial", dynamic_ncols=True
    )
    at_work: dict[int, Training] = {}  # by the index of its environment
    shown = ""

    def say(text: str) -> None:
        bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def collect() -> None:
        for index, training in list(at_work.items()):
            told = training.poll()
            if told:
                say(told)
                del at_work[index]

    try:
        while not asked:
            for index, environment in enumerate(environments):
                if index not in at_work and (training := sweep.take(environment)):
                    at_work[index] = training
            running = sweep.trials(TrialState.RUNNING)
            state = summary(sweep) + ("; waiting for others to end theirs" if running and not at_work else "")
            if state != shown:
                bar.n = len(sweep.trials()) - len(running)
                bar.set_postfix_str(state)
                shown = state
            if not running:
                break
            time.sleep(POLL)
            collect()
        if at_work:
            say("the trainings save and stop; Ctrl-C again to abort")
        for training in at_work.values():
            training.stop()
        while at_work:
            time.sleep(POLL)
            collect()
    except KeyboardInterrupt:
        for training in at_work.values():
            training.kill()
        raise
    finally:
        for training in at_work.values():
            training.stop()
        bar.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return not asked


def shares(workers: int) -> list[dict[str, str]]:
    """The environment of each worker's trainings: a share of the GPUs that this process may use.

    UserError if there are fewer GPUs than workers.
    """
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return [{}] * workers
    gpus = visible_gpus(os.environ)
    if not gpus:
        return [{}] * workers
    if len(gpus) < workers:
        raise UserError(
            f"--workers={workers} but this host has {len(gpus)} GPU{'s'[: len(gpus) > 1]}, one a worker at most"
        )
    edges = [i * len(gpus) // workers for i in range(workers + 1)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[a:b])} for a, b in itertools.pairwise(edges)]


if __name__ == "__main__":
    run_command(main)
