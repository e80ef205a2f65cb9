"""A small composer model that trains in minutes on a laptop's CPU: `make demo`.

Command:   python -m amt_jax.train --config=demo --config.dataset=DATASET --run=RUN
Hardware:  two CPU cores, two minutes, 1 GB of memory.
Expected:  a validation loss of about 0.6 nats a token on the demo's music, where a blind guess has 6.04.
"""

from ml_collections import ConfigDict

from configs import remi_modern


def get_config() -> ConfigDict:
    """The experiment."""
    config = remi_modern.get_config()
    config.context = 512
    config.batch_size = 4
    config.accumulation = 1
    config.steps = 1000
    config.epochs = 0.0
    config.label_smoothing = 0.0
    config.token_dropout = 0.0
    config.validate_every = 500
    config.save_every = 500
    config.save_minutes = 5.0
    config.log_every = 10

    config.model.num_layers = 4
    config.model.num_heads = 4
    config.model.num_kv_heads = 2
    config.model.d_model = 128
    config.model.d_ff = 384
    config.model.dropout = 0.0
    config.model.remat = "none"

    config.optimizer.name = "muon"  # as good after 1,000 steps as AdamW after 1,500
    config.optimizer.learning_rate = 4e-3
    config.optimizer.clip_norm = 1.0
    config.augmentation.transpose = 0  # varied keys take longer to learn; from some 5,000 steps on 5 is better
    config.conditions.composer.scale = 1.0
    config.conditions.composer.dropout = 0.2
    return config
