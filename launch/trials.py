"""A sweep's trials: the study that all workers share, and the training that each trial is."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from amt_jax.errors import UserError
from amt_jax.parallel.peers import AGAIN
from amt_jax.training.config import TrainConfig, differences, flatten
from launch.space import holds, parse_space

JOURNAL = "study.jsonl"
# Exit codes of a training that was asked to stop: it saved, or had not begun yet.
STOPPED = (0, AGAIN, -signal.SIGTERM, -signal.SIGINT)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a sweep tries.

    Attributes:
      config: config file or name, as --config of amt_jax.train takes it.
      overrides: --config.FIELD=VALUE words.
      search: FIELD=RANGE words.
      trials: trainings in all.
      fields: the config with its overrides, as nested fields.
    """

    config: str
    overrides: Sequence[str]
    search: Sequence[str]
    trials: int
    fields: Mapping[str, Any]

    @property
    def space(self) -> dict[str, BaseDistribution]:
        return parse_space(self.search, self.fields)

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """The words after python -m amt_jax.train that train with `params`, but for --run."""
        values = [f"--config.{field}={value}" for field, value in params.items()]
        return [f"--config={self.config}", *self.overrides, *values]


class Sweep:
    """A sweep's folder: study.jsonl, which workers on any number of hosts append to, and a run folder a trial.

    Whoever holds the lock on a trial's log file has that trial: its worker and, as long as it lives, its training. The
    lock ends with them, however they end, and then another worker may take the trial up.
    """

    def __init__(self, folder: Path):
        """Opens the folder's study or makes one; UserError if the folder holds something else."""
        self.folder = folder
        if folder.exists() and any(folder.iterdir()) and not (folder / JOURNAL).exists():
            raise UserError(f"{folder} is not empty and no sweep; name another with --output")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL
        lock = JournalFileOpenLock(str(path))
        with self._locked():
            path.touch()
            drop_torn_line(path, lock)
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
            self.study = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)

    @property
    def settings(self) -> Settings | None:
        found = self.study.user_attrs.get("settings")
        return Settings(**found) if found else None

    def begin(self, new: Settings) -> None:
        """Begins the sweep or goes on with it; UserError if `new` is another search than it began with."""
        with self._locked():
            old = self.settings
            if old:
                changes = differences(TrainConfig.from_json(old.fields), TrainConfig.from_json(new.fields))
                if new.space != old.space:
                    changes.append(f"--search: {' '.join(old.search)} -> {' '.join(new.search)}")
                if changes:
                    raise UserError(
                        f"the sweep in {self.folder} has another search ({'; '.join(changes)}); "
                        f"name another --output, or go on with it: python -m launch.sweep --output={self.folder}"
                    )
            if new != old:
                self.study.set_user_attr("settings", dataclasses.asdict(new))
            if not old:
                # What the search must beat: the config as it is.
                known = flatten(new.fields)
                start = {field: known[f"config.{field}"] for field in new.space}
                if all(holds(new.space[field], value) for field, value in start.items()):
                    self.study.enqueue_trial(start)
            # The first quarter of a training says little about its end.
            self.study.pruner = optuna.pruners.MedianPruner(n_warmup_steps=new.fields["steps"] // 4)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials that were begun, or those in one of `states`."""
        states = states or [state for state in TrialState if state != TrialState.WAITING]
        return self.study.get_trials(deepcopy=False, states=states)

    def run(self, number: int) -> Path:
        """A trial's run folder."""
        return self.folder / f"trial-{number:04d}"

    def log(self, number: int) -> Path:
        """The output of a trial's training, and the lock on the trial."""
        return self.folder / f"trial-{number:04d}.log"

    def take(self, environment: Mapping[str, str]) -> Training | None:
        """Starts the next trial or goes on with one whose worker is gone; None if there is none.

        `environment` holds variables that its training gets besides those of this process.
        """
        settings = self.settings
        with self._locked():
            for frozen in self.trials(TrialState.RUNNING):
                log = claim(self.log(frozen.number))
                if log and any(frozen.number == running.number for running in self.trials(TrialState.RUNNING)):
                    if frozen.params.keys() == settings.space.keys():
                        # Optuna's class for a trial that is asked for, here of one that another process asked for.
                        return Training(self, Trial(self.study, frozen._trial_id), log, environment)
                    self.study.tell(frozen.number, state=TrialState.FAIL)  # killed while it was asked for
                if log:
                    log.close()
            if len(self.trials()) >= settings.trials:
                return None
            trial = self.study.ask(settings.space)
            return Training(self, trial, claim(self.log(trial.number)), environment)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One worker at a time."""
        with open(self.folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Training:
    """A trial's training, in a process of its own."""

    def __init__(self, sweep: Sweep, trial: Trial, log: BinaryIO, environment: Mapping[str, str]):
        """Starts it, or goes on with what its run folder holds."""
        self.number = trial.number
        self._sweep, self._trial, self._log = sweep, trial, log
        self._said = log.tell()  # what stands in the log from here on was said by this process
        self._reported = dict(next(t for t in sweep.trials() if t.number == trial.number).intermediate_values)
        self._pruned = False
        # In a cluster too, where the sweep may be one of many workers, a training is a process alone.
        words = ["--processes=1", f"--run={sweep.run(trial.number)}", *sweep.settings.words(trial.params)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "amt_jax.train", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | environment,
            start_new_session=True,  # a terminal's Ctrl-C is for the sweep, which then stops it
        )

    def poll(self) -> str:
        """Reports new validations and prunes; says how the training ended once it has, before that nothing."""
        code = self._process.poll()  # asked before the metrics are read, which are whole if it ended
        new = {step: loss for step, loss in validations(self._sweep.run(self.number)).items()
               if step not in self._reported}  # fmt: skip
        for step, loss in new.items():
            self._trial.report(loss, step)
        self._reported |= new
        if code is None:
            if new and self._trial.should_prune():
                self._pruned = True
                self.stop()
            return ""
        return self._end(code)

    def stop(self) -> None:
        """Asks it to save and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self, code: int) -> str:
        """Tells the study about a training that ended."""
        text = self._sweep.log(self.number).read_bytes()[self._said :].decode(errors="replace")
        lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
        step = max(self._reported, default=0)
        self._trial.set_user_attr("steps", step)
        if code in STOPPED and any(line.startswith("trained ") for line in lines):
            loss = min(self._reported.values())
            self._sweep.study.tell(self._trial, loss)
            told = f"{loss:.4f} nats a token after {step} steps"
        elif code in STOPPED and self._pruned:
            self._sweep.study.tell(self._trial, state=TrialState.PRUNED)
            told = f"pruned at step {step}, {self._reported[step]:.4f} nats a token"
        elif code in STOPPED:
            told = "stopped, to be gone on with"  # by whom: left as running, for the next worker that is free
        else:
            errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            reason = (errors or lines or ["it said nothing"])[-1]
            if code < 0:
                reason = f"ended by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
            # A loss without bound is a finding, which the search has to know; any other end says nothing of the fields.
            diverged = reason.startswith("the loss ")
            self._trial.set_user_attr("reason", reason)
            self._sweep.study.tell(self._trial, state=TrialState.PRUNED if diverged else TrialState.FAIL)
            told = f"{'diverged' if diverged else 'failed'}: {reason}"
        self._log.close()
        values = ", ".join(f"{field}={short(value)}" for field, value in self._trial.params.items())
        return f"trial {self.number}: {told}; {values}"


def validations(run: Path) -> dict[int, float]:
    """Step -> validation loss, in nats a token, of a run so far."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    whole = [json.loads(line) for line in lines if '"split": "valid"' in line and line.endswith("\n")]
    return {line["step"]: line["loss"] for line in whole}


def claim(path: Path) -> BinaryIO | None:
    """Opens and locks a trial's log; None if another worker, or a training that outlived its own, has it."""
    file = open(path, "ab")  # noqa: SIM115 the lock lasts until it is closed
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def drop_torn_line(path: Path, lock: JournalFileOpenLock) -> None:
    """Cuts off what a full disk left of the journal's last line: Optuna would append to it and never read on."""
    lock.acquire()
    try:
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
    finally:
        lock.release()


def short(value: Any) -> str:
    """A field's value, as short as it can be told."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
