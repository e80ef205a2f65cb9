"""A small composer model that trains in minutes on a laptop's CPU: `make demo`.

Command:   python -m amt_jax.train --config=demo --config.dataset=DATASET --run=RUN
Hardware:  two CPU cores, three minutes, 2 GB of memory.
Expected:  a validation loss well below that of guessing (6.04 nats a token); music that keeps a key and a metre for a
           few bars. Ten times the steps (--config.steps=3000) make it clearly better.
"""

from ml_collections import ConfigDict

from configs import remi_modern


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment; it takes no argument."""
    config = remi_modern.get_config()
    config.context = 512
    config.batch_size = 8
    config.accumulation = 1
    config.steps = 300
    config.epochs = 0.0
    config.label_smoothing = 0.0
    config.token_dropout = 0.0
    config.validate_every = 100
    config.save_every = 100
    config.save_minutes = 5.0
    config.log_every = 10

    config.model.num_layers = 4
    config.model.num_heads = 4
    config.model.num_kv_heads = 2
    config.model.d_model = 256
    config.model.d_ff = 768
    config.model.dropout = 0.0
    config.model.remat = False

    config.optimizer.learning_rate = 2e-3
    config.optimizer.clip_norm = 1.0
    config.conditions.composer.scale = 1.0
    config.conditions.composer.dropout = 0.2
    return config
