"""A decoder in the size of GPT-2's smallest: 12 layers of 768, 12 heads, 2,048 tokens of context, 86 M parameters.

Command:   python -m data_prep.midi --input=MIDI --output=DATASET --tokenizer=remi
           python -m amt_jax.train --config=amt_86m --config.dataset=DATASET --run=RUN
Hardware:  one GPU with 24 GB or more; on a smaller one --config.batch_size=2 --config.accumulation=32.
Expected:  85.4 M parameters with 419 ids. Its 100,000 steps have not been measured yet; 20 steps of one row of 256
           tokens of folk tunes on a CPU took the loss from 22.9 nats a token to 3 (guessing has 6.04), in float32
           and 2.6 GB of memory.
"""

from ml_collections import ConfigDict

from configs import remi_composer


def get_config() -> ConfigDict:
    """The experiment."""
    config = remi_composer.get_config()
    config.context = 2048
    config.batch_size = 8
    config.accumulation = 8
    config.steps = 100_000
    config.epochs = 0.0
    config.token_dropout = 0.0
    config.validate_every = 1000
    config.save_every = 1000

    config.model.num_layers = 12
    config.model.num_heads = 12
    config.model.num_kv_heads = 12
    config.model.d_model = 768
    config.model.d_ff = 3072
    config.model.remat = "none"

    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup = 10_000 / config.steps  # a shorter run warms up in proportion
    config.optimizer.b2 = 0.95
    config.optimizer.layer_decay = 0.95
    return config
