"""Checkpoints of a run. The only file that knows Orbax."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import operator
import os
from collections.abc import Iterator
from shutil import disk_usage
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from amt_jax import storage
from amt_jax.errors import UserError
from amt_jax.parallel.processes import together
from amt_jax.training.step import TrainState, Validated

# Orbax logs the traceback of what it raises, once a thread; what it raises is told in one line here.
logging.getLogger("absl").addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))


class Checkpoints:
    """The checkpoints in a folder: each is whole or is not there, whenever the process dies.

    One holds the parameters, their average if the run keeps one, the optimizer's state, and two numbers: steps taken
    (with the config's seed, the state of everything random) and data rows consumed.
    """

    def __init__(self, folder: str | os.PathLike, keep: int | None = None):
        """Opens `folder`; to write into it, give the number of newest checkpoints to keep besides the best."""
        if os.fspath(folder).startswith("s3://"):
            _teach_orbax_s3()
        policies = ocp.training.preservation_policies
        policy = None
        if keep is not None:
            best = policies.BestN(
                get_metric_fn=operator.itemgetter("valid_loss"),
                n=1,
                reverse=True,
                keep_checkpoints_without_metrics=False,
            )
            policy = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        self._orbax = ocp.training.Checkpointer(
            storage.absolute(folder), preservation_policy=policy, cleanup_tmp_directories=keep is not None
        )

    @property
    def steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    @property
    def latest(self) -> int | None:
        return max(self.steps, default=None)

    @property
    def validated(self) -> dict[int, Validated]:
        """What was found of each checkpoint that was validated."""
        found = {checkpoint.step: checkpoint.metrics for checkpoint in self._orbax.checkpoints}
        return {step: Validated(**metrics) for step, metrics in found.items() if metrics}

    @property
    def best(self) -> int | None:
        """The step of the lowest validation loss; without any, the latest."""
        validated = self.validated
        return min(validated, key=lambda step: validated[step].valid_loss) if validated else self.latest

    def save(self, state: TrainState, rows: int, validated: Validated | None = None) -> None:
        """Starts saving in the background, after the save before; `state` may be donated as soon as this returns."""
        step = int(state.step)
        metrics = validated._asdict() if validated is not None and math.isfinite(validated.valid_loss) else None
        parts = _parts(state, step, rows)
        with together():
            self._check_room(parts)
        # Without force Orbax skips a save, silently, while the one before is still being written.
        with self._writing():
            self._orbax.save_checkpointables_async(step, parts, force=True, overwrite=True, metrics=metrics)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, int]:
        """The state of `step`, laid out as `like` (arrays, or shapes with shardings), and the rows consumed."""
        parts = self._load(step, _parts(like, 0, 0))
        counter = jax.device_put(np.asarray(parts["progress"]["step"], np.int32), like.step.sharding)
        state = TrainState(parts["params"], parts["optimizer"], counter, parts.get("average"))
        return state, int(parts["progress"]["rows"])

    def load_params(self, step: int, like: Any, *, averaged: bool) -> Any:
        """The parameters of `step` alone, or their average, laid out as `like`."""
        name = "average" if averaged else "params"
        return self._load(step, {name: like})[name]

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._orbax.load_checkpointables(step, like)
        except Exception as error:  # whatever Orbax and what it is built on have to say
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"cannot read checkpoint {step} in {self._orbax.directory} ({reason}); remove its folder to use another"
            ) from error

    def _check_room(self, parts: Any) -> None:
        """Raises UserError if the disk has no room for another checkpoint, before anything is written."""
        folder = self._orbax.directory
        if storage.is_remote(folder):
            return
        needs, free = sum(x.nbytes for x in jax.tree.leaves(parts) if hasattr(x, "nbytes")), disk_usage(folder).free
        if needs > free:
            raise UserError(
                f"the disk of {folder} has {free / 1e6:.1f} MB left, a checkpoint takes {needs / 1e6:.1f}; "
                f"make room and start the same command again{self._goes_on()}"
            )

    def _goes_on(self) -> str:
        return "" if self.latest is None else f", which goes on from step {self.latest}"

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
            raise UserError(
                f"cannot write a checkpoint to {self._orbax.directory} ({reason}); "
                f"put that right, a full disk say, and start the same command again{self._goes_on()}"
            ) from error


def _parts(state: TrainState, step: int, rows: int) -> dict[str, Any]:
    """What a checkpoint consists of, by name."""
    parts = {"params": state.params, "optimizer": state.optimizer, "progress": {"step": step, "rows": rows}}
    return parts if state.average is None else parts | {"average": state.average}


@functools.cache
def _teach_orbax_s3() -> None:
    """Makes Orbax treat s3:// as it does gs://, the only object store that it knows; TensorStore knows both."""
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    stores = ("gs://", "s3://")
    normalize, gcs_kvstore = tensorstore_utils._normalize_path, gcs_utils.get_kvstore_for_gcs

    def kvstore(path: str) -> dict[str, Any]:
        spec = gcs_kvstore(path)
        if path.startswith("s3://"):
            spec["driver"] = "s3"
            # What s3fs takes from the environment by itself: another server than Amazon's, and where keys are.
            if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
                region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
                spec |= {"endpoint": endpoint, "aws_region": region}
            if "AWS_ACCESS_KEY_ID" in os.environ:
                spec["aws_credentials"] = {"type": "environment"}  # without complaints about missing ~/.aws files
        return spec

    gcs_utils._GCS_PATH_PREFIX = stores
    gcs_utils.get_kvstore_for_gcs = kvstore
    tensorstore_utils._use_gcs_driver = lambda directory: directory.startswith(stores)
    tensorstore_utils._normalize_path = lambda path: normalize(path).replace("s3:/", "s3://")
