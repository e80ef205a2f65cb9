"""What a run tells: a progress bar, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from amt_jax import storage
from amt_jax.errors import UserError
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.step import TEMPERATURES, Validated


def summarize(sums: Mapping[str, Any], types: list[str]) -> dict[str, Any]:
    """Sums of a step (see step.sums) -> means a token: loss and smoothed_loss in nats, accuracy, loss a token type."""
    count = max(float(sums["count"]), 1.0)
    by_type = zip(types, np.asarray(sums["type_loss"]), np.asarray(sums["type_count"]), strict=True)
    return {
        "loss": float(sums["loss"]) / count,
        "smoothed_loss": float(sums["smoothed_loss"]) / count,
        "accuracy": float(sums["correct"]) / count,
        "type_loss": {kind: float(loss / seen) for kind, loss, seen in by_type if seen},
    }


def add(total: Mapping[str, Any] | None, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Adds a step's sums to a total, in float64 on the host."""
    return {name: np.asarray(value, np.float64) + (total[name] if total else 0) for name, value in sums.items()}


class Metrics:
    """Shows and writes a run's metrics; on all processes but the first it only computes them."""

    def __init__(
        self,
        run: RunFolder,
        step: int,
        total_steps: int,
        types: list[str],
        log_every: int,
        tokens_per_step: int,
        schedule: Callable[[int], float],
    ):
        """Continues after `step`: what an interrupted run wrote about later steps is forgotten."""
        self._types, self._log_every, self._tokens_per_step = types, log_every, tokens_per_step
        self._window, self._last, self._total_steps = None, (time.monotonic(), step), total_steps
        self._schedule = schedule
        self._active = jax.process_index() == 0
        if not self._active:
            return
        keep_lines(run.metrics_path, step)
        # Objects of a store cannot grow: there the files grow in a folder here and are copied whole.
        self._run, self._here = run, run
        if storage.is_remote(run.path):
            self._here = RunFolder(tempfile.mkdtemp(prefix="amt_jax-"))
            if run.metrics_path.exists():
                self._here.metrics_path.write_bytes(run.metrics_path.read_bytes())
        path = self._here.metrics_path
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 closed in close()
        self._here.tensorboard_path.mkdir(exist_ok=True)
        # Not SummaryWriter, whose thread dies with a traceback of its own when the disk is full.
        self._board = EventsWriter(str(self._here.tensorboard_path / "events"))
        # TensorBoard forgets later steps too.
        self._board.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        # A bar that redraws itself belongs on a terminal; a log file gets a line now and then.
        every = 0.5 if sys.stderr.isatty() else 20
        self._bar = tqdm(total=total_steps, initial=step, unit="step", mininterval=every, dynamic_ncols=True)

    def train(self, step: int, sums: Mapping[str, Any], epoch: float) -> None:
        """Moves the bar; every `log_every` steps writes the means over them, and the speed."""
        self._window = add(self._window, {name: value for name, value in sums.items() if name != "grad_norm"})
        if self._active:
            self._bar.set_postfix_str(f"loss {float(sums['loss']) / max(float(sums['count']), 1):.3f}", refresh=False)
            self._bar.update(step - self._bar.n)
        if step % self._log_every == 0 or step == self._total_steps:
            now, (then, before) = time.monotonic(), self._last
            speed = round((step - before) * self._tokens_per_step / max(now - then, 1e-9), 1)
            memory = memory_gb()
            values = summarize(self._window, self._types) | {"grad_norm": float(sums["grad_norm"])}
            values |= {"learning_rate": float(self._schedule(step - 1)), "epoch": epoch}
            values |= {"tokens_per_second": speed} | ({"memory_gb": memory} if memory else {})
            self._write(step, "train", values)
            self._window, self._last = None, (now, step)

    def valid(self, step: int, sums: Mapping[str, Any]) -> Validated:
        """Writes and shows the means over a validation; a calibrated run's loss at its temperature, of types at 1."""
        values = summarize(sums, self._types)
        del values["smoothed_loss"]  # nothing is smoothed here
        found, at = Validated(values["loss"]), ""
        if "tempered_loss" in sums:
            best = int(np.argmin(sums["tempered_loss"]))
            found = Validated(float(sums["tempered_loss"][best] / sums["count"]), TEMPERATURES[best])
            values |= {"loss": found.valid_loss, "temperature": found.temperature}
            at = f" at temperature {found.temperature:g}"
        self._write(step, "valid", values)
        loss, accuracy = found.valid_loss, values["accuracy"]
        self.say(f"step {step}: validation loss {loss:.4f} nats a token{at}, accuracy {accuracy:.3f}")
        self._last = (time.monotonic(), step)  # the time it took is not the training's
        return found

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._active:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def publish(self) -> None:
        """Makes sure that all metrics so far are in the run folder, wherever that is."""
        if self._active and self._here is not self._run:
            storage.upload(self._here.path, self._run.path)

    def close(self) -> None:
        if self._active:
            self._bar.close()
            with contextlib.suppress(OSError):  # all that was written is there; a full disk was told of before
                self._board.close()
                self._file.close()
            self.publish()
            if self._here is not self._run:
                shutil.rmtree(self._here.path)

    def _write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        if not self._active:
            return
        try:
            self._write_files(step, split, values)
        except OSError as error:
            raise UserError(
                f"cannot write metrics to {self._here.path} ({error.strerror}); "
                f"make room and start the same command again"
            ) from None

    def _write_files(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            items = {f"{name}/{kind}": v for kind, v in value.items()} if isinstance(value, Mapping) else {name: value}
            for label, number in items.items():
                event = Event(wall_time=time.time(), step=step, summary=scalar(f"{split}/{label}", number))
                self._board.write_event(event)
        self._board.flush()


def keep_lines(path: Path, step: int) -> None:
    """Drops the lines of metrics.jsonl after `step`, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    storage.write_text(path, "".join(kept))


def memory_gb() -> float | None:
    """The most memory that a device has used so far, where the backend tells (CPUs do not)."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return round(max(peaks) / 1e9, 3) if all(peaks) else None
