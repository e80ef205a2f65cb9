"""Small models for the piano-roll sets of Boulanger-Lewandowski et al. 2012: jsb, nottingham, piano_midi, musedata.

They overfit soon: hence the dropout, the averaged weights, and pieces moved to other keys, of which the model is told.
JSB and Nottingham are all in one key, so that some of their pieces stay there. What overfits is too sure of itself:
hence the temperature, which is chosen on valid.

Command:   python -m data_prep.pianoroll --input=jsb.json --output=DATASET
           python -m amt_jax.train       --config=pianoroll:jsb --config.dataset=DATASET --run=RUN
           python -m amt_jax.evaluate    --run=RUN --likelihood=frames --split=valid
Hardware:  one CPU core, 20 (jsb) to 50 minutes (nottingham).
Expected:  nats a frame on valid: jsb 4.33 to 4.37, three seeds; one seed: nottingham 1.03 and piano_midi 6.34, both
           before calibration, musedata 5.22, still falling at its last step.
"""

from ml_collections import ConfigDict

from amt_jax.errors import UserError, near
from configs import demo

STEPS = {"jsb": 4000, "nottingham": 6000, "piano_midi": 3000, "musedata": 4000}
CONTEXT = {"jsb": 512, "nottingham": 2048, "piano_midi": 1024, "musedata": 1024}
NEAR = (1, 2, 3, 4)
# Tunes repeat their parts: of Nottingham's frames a third is that of 64, 192 or 384 frames before.
HISTORY = {"nottingham": (*NEAR, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384), "musedata": (*NEAR, 8, 16)}
DROPOUT = {"jsb": 0.4, "nottingham": 0.2, "piano_midi": 0.3, "musedata": 0.2}
TRANSPOSED = {"jsb": 0.6, "nottingham": 0.4}  # both are in one key


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment for one of the sets, jsb if none is named."""
    arg = arg or "jsb"
    if arg not in STEPS:
        raise UserError(f"config pianoroll: unknown set {near(arg, list(STEPS))}")
    config = demo.get_config()
    config.context = CONTEXT[arg]
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
    config.model.dropout = DROPOUT[arg]
    config.model.clock = "moments"
    config.model.history = HISTORY.get(arg, NEAR)
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.b2 = 0.98
    config.augmentation.transpose = 5 if arg in TRANSPOSED else 6
    config.augmentation.transposed = TRANSPOSED.get(arg, 1.0)
    config.conditions = ConfigDict({"transposition": {"way": "add", "scale": 1.0, "dropout": 0.0}})
    return config
