"""Runs whose weights are fresh ones, for tests of what reads them."""

from pathlib import Path

import jax
import numpy as np

from amt_jax.data.card import Card
from amt_jax.model.params import init_params
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.config import TrainConfig, transformer_config
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.step import TrainState, Validated


def fresh_params(config: TrainConfig, card: Card, seed: int = 0):
    """Parameters as a run begins with."""
    params = jax.jit(lambda key: init_params(transformer_config(config, card), key))(jax.random.key(seed))
    return jax.tree.map(np.asarray, params)


def save_run(path: Path, config: TrainConfig, card: Card) -> RunFolder:
    """Makes a run folder with one checkpoint."""
    run = RunFolder(path)
    run.create(config, card)
    checkpoints = Checkpoints(run.checkpoints_path, keep=1)
    checkpoints.save(TrainState(fresh_params(config, card), {"none": np.zeros(1)}, np.int32(1)), 0, Validated(3.0))
    checkpoints.wait()
    checkpoints.close()
    return run
