"""What a folder of checkpoints keeps."""

import jax.numpy as jnp

from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.step import TrainState, Validated


def test_checkpoints_keep_the_newest_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step, loss in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, float("nan")), (6, None)):
        state = TrainState({"x": jnp.full(3, step)}, {"x": jnp.ones(3)}, jnp.int32(step))
        checkpoints.save(state, rows=10 * step, validated=loss and Validated(loss))
    checkpoints.wait()
    assert sorted(checkpoints.steps) == [2, 5, 6]
    assert (checkpoints.best, checkpoints.latest) == (2, 6)
    checkpoints.close()
