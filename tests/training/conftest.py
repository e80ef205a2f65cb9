import copy

import numpy as np
import pytest

from amt_jax.model.params import abstract_model
from amt_jax.parallel.mesh import MeshConfig, make_mesh
from amt_jax.train import load_config
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.config import TrainConfig, transformer_config
from amt_jax.training.optimizer import make_optimizer
from amt_jax.training.program import state_layout
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.step import TrainState

TINY = {
    "context": 32,
    "batch_size": 4,
    "accumulation": 2,
    "steps": 6,
    "validate_every": 3,
    "save_every": 2,
    "save_minutes": 0.0,
    "log_every": 1,
    "label_smoothing": 0.1,
    "token_dropout": 0.01,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.num_kv_heads": 1,
    "model.d_model": 32,
    "model.d_ff": 48,
    "model.dropout": 0.1,
    "optimizer.name": "adamw",
    "augmentation.transpose": 2,
    "mesh.data": 1,
}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, write_dataset, make_pieces):
    """A small dataset folder: 20 pieces of 3 to 90 tokens in every split."""
    folder = tmp_path_factory.mktemp("data") / "set"
    write_dataset(folder, make_pieces(np.random.default_rng(1).integers(3, 90, 20)))
    return folder


@pytest.fixture(scope="session")
def tiny():
    """Overrides of configs/demo.py that make a run of milliseconds a step."""
    return TINY


@pytest.fixture(scope="session")
def make_config(dataset):
    """A function: overrides by dotted name -> TrainConfig of a tiny run."""

    def make(overrides=None) -> TrainConfig:
        fields = copy.deepcopy(load_config("demo"))
        for name, value in ({"dataset": str(dataset)} | TINY | (overrides or {})).items():
            *path, leaf = name.split(".")
            place = fields
            for part in path:
                place = place[part]
            place[leaf] = value
        return TrainConfig.from_json(fields)

    return make


@pytest.fixture(scope="session")
def final_state():
    """A function: run folder -> the whole state of its last checkpoint, on this process's first device."""

    def load(run: RunFolder) -> TrainState:
        config = transformer_config(run.config, run.card)
        mesh = make_mesh(MeshConfig(1, 1, 1, 1), 1, config)
        layout = state_layout(
            abstract_model(config), make_optimizer(run.config.optimizer, 1), mesh, averaged=run.config.ema > 0
        )
        checkpoints = Checkpoints(run.checkpoints_path)
        state, _ = checkpoints.restore(checkpoints.latest, layout)
        checkpoints.close()
        return state

    return load
