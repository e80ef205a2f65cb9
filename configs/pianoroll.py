"""Small models for the piano-roll sets of Boulanger-Lewandowski et al. 2012: jsb, nottingham, piano_midi, musedata.

Command:   python -m data_prep.pianoroll --input=jsb.json --output=DATASET
           python -m amt_jax.train       --config=pianoroll:jsb --config.dataset=DATASET --run=RUN
           python -m amt_jax.evaluate    --run=RUN --likelihood=frames --split=valid
Hardware:  two CPU cores.
"""

from ml_collections import ConfigDict

from amt_jax.errors import UserError, near
from configs import demo

STEPS = {"jsb": 1000, "nottingham": 2000, "piano_midi": 2000, "musedata": 2000}


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment for one of the sets, jsb if none is named."""
    arg = arg or "jsb"
    if arg not in STEPS:
        raise UserError(f"config pianoroll: unknown set {near(arg, list(STEPS))}")
    config = demo.get_config()
    config.context = 512
    config.batch_size = 8
    config.steps = STEPS[arg]
    config.ema = 0.99
    config.validate_every = 200
    config.save_every = 200
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.num_kv_heads = 4
    config.model.d_model = 192
    config.model.d_ff = 512
    config.model.dropout = 0.1
    config.model.clock = "moments"
    config.model.history = 4
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.b2 = 0.98
    config.conditions = ConfigDict({"transposition": {"way": "add", "scale": 1.0, "dropout": 0.0}})
    return config
