"""remi_composer with today's choices: RMSNorm, SwiGLU, grouped-query attention, normalised queries and keys.

The feed-forward layers take what grouped-query attention frees, so that it has as many parameters (within 5 %).

Command:   python -m amt_jax.train --config=remi_modern --config.dataset=DATASET --run=RUN
Hardware:  as remi_composer.
Expected:  not measured against remi_composer at full length yet.
"""

from ml_collections import ConfigDict

from configs import remi_composer


def get_config() -> ConfigDict:
    """The experiment."""
    config = remi_composer.get_config()
    config.model.norm = "rmsnorm"
    config.model.activation = "swiglu"
    config.model.num_kv_heads = 2
    config.model.d_ff = 1664  # three products of 1,664 and the narrower keys and values: 25.5 M in all
    config.model.qk_norm = True
    config.model.bias = False
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 0.1
    config.optimizer.final = 0.1
    config.augmentation.transpose = 6
    config.unconditional = 0.1  # pieces without any condition, from which guidance leads away
    return config
