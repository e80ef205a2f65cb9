"""Small models for the piano-roll sets of Boulanger-Lewandowski et al. 2012: jsb, nottingham, piano_midi, musedata.

They overfit soon: hence the dropout, the averaged weights, and pieces moved to other keys, of which the model is told.
JSB and Nottingham are all in one key, so that some of their pieces stay there.

Command:   python -m data_prep.pianoroll --input=jsb.json --output=DATASET
           python -m amt_jax.train       --config=pianoroll:jsb --config.dataset=DATASET --run=RUN
           python -m amt_jax.evaluate    --run=RUN --likelihood=frames --split=valid
Hardware:  one CPU core, about half an hour on a busy machine.
Expected:  nats a frame on valid, one seed: jsb 4.57 [4.36, 4.77], best after half of its steps, and piano_midi 6.34
           [5.70, 6.98]. nottingham and musedata have not been trained to the end yet.
"""

from ml_collections import ConfigDict

from amt_jax.errors import UserError, near
from configs import demo

STEPS = {"jsb": 4000, "nottingham": 4000, "piano_midi": 3000, "musedata": 4000}
IN_ONE_KEY = ("jsb", "nottingham")


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment for one of the sets, jsb if none is named."""
    arg = arg or "jsb"
    if arg not in STEPS:
        raise UserError(f"config pianoroll: unknown set {near(arg, list(STEPS))}")
    config = demo.get_config()
    config.context = 512 if arg == "jsb" else 1024
    config.batch_size = 2048 // config.context
    config.steps = STEPS[arg]
    config.ema = 0.999 if arg == "jsb" else 0.998
    config.calibrate = True
    config.validate_every = 500
    config.save_every = 500
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.num_kv_heads = 4
    config.model.d_model = 192
    config.model.d_ff = 512
    config.model.dropout = 0.4 if arg == "jsb" else 0.3
    config.model.clock = "moments"
    config.model.history = (1, 2, 3, 4)
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.b2 = 0.98
    config.augmentation.transpose = 5 if arg in IN_ONE_KEY else 6
    config.augmentation.transposed = 0.6 if arg in IN_ONE_KEY else 1.0
    config.conditions = ConfigDict({"transposition": {"way": "add", "scale": 1.0, "dropout": 0.0}})
    return config
