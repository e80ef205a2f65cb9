"""Checkpoints of a run. The only file that knows Orbax."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from amt_jax.errors import UserError
from amt_jax.training.step import TrainState

METRIC = "valid_loss"


class Checkpoints:
    """The checkpoints in a folder: each is whole or is not there, whenever the process dies.

    One holds the parameters, the optimizer's state, and two numbers: steps taken (with the config's seed, the
    state of everything random) and data rows consumed.
    """

    def __init__(self, folder: Path, keep: int | None = None):
        """Opens `folder`; to write into it, give the number of newest checkpoints to keep besides the best."""
        policies = ocp.training.preservation_policies
        policy = None
        if keep is not None:
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics[METRIC], n=1, reverse=True, keep_checkpoints_without_metrics=False
            )
            policy = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        self._orbax = ocp.training.Checkpointer(
            Path(folder).absolute(), preservation_policy=policy, cleanup_tmp_directories=keep is not None
        )

    @property
    def steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    @property
    def latest(self) -> int | None:
        return max(self.steps, default=None)

    @property
    def losses(self) -> dict[int, float]:
        """Validation loss of each checkpoint that has one."""
        found = {checkpoint.step: checkpoint.metrics for checkpoint in self._orbax.checkpoints}
        return {step: metrics[METRIC] for step, metrics in found.items() if metrics and METRIC in metrics}

    @property
    def best(self) -> int | None:
        """The step of the lowest validation loss; without any, the latest."""
        losses = self.losses
        return min(losses, key=lambda step: losses[step]) if losses else self.latest

    def save(self, state: TrainState, rows: int, valid_loss: float | None = None) -> None:
        """Starts saving in the background, after the save before; `state` may be donated as soon as this returns."""
        step = int(state.step)
        metrics = {METRIC: valid_loss} if valid_loss is not None and math.isfinite(valid_loss) else None
        parts = {"params": state.params, "optimizer": state.optimizer, "progress": {"step": step, "rows": rows}}
        # Without force Orbax skips a save, silently, while the one before is still being written.
        with self._writing():
            self._orbax.save_checkpointables_async(step, parts, force=True, overwrite=True, metrics=metrics)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, int]:
        """The state of `step`, laid out as `like` (arrays, or shapes with shardings), and the rows consumed."""
        like_parts = {"params": like.params, "optimizer": like.optimizer, "progress": {"step": 0, "rows": 0}}
        parts = self._load(step, like_parts)
        counter = jax.device_put(np.asarray(parts["progress"]["step"], np.int32), like.step.sharding)
        return TrainState(parts["params"], parts["optimizer"], counter), int(parts["progress"]["rows"])

    def load_params(self, step: int, like: Any) -> Any:
        """The parameters of `step` alone, laid out as `like`."""
        return self._load(step, {"params": like})["params"]

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._orbax.load_checkpointables(step, like)
        except Exception as error:  # whatever Orbax and what it is built on have to say
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"cannot read checkpoint {step} in {self._orbax.directory} ({reason}); remove its folder to use another"
            ) from error

    def wait(self) -> None:
        """Returns when what was given to `save` is on disk."""
        with self._writing():
            self._orbax.wait()

    def close(self) -> None:
        self._orbax.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed write, such as to a full disk, into a UserError; checkpoints before it stay whole."""
        try:
            yield
        except Exception as error:  # as in _load
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"cannot write a checkpoint to {self._orbax.directory} ({reason})") from error
