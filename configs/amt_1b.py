"""A decoder for a pod: 24 layers of 2,048, 1.3 B parameters, 2,048 tokens of context.

The shape of GPT-3 XL (Brown et al. 2020) with remi_modern's choices. A music vocabulary has next to no embeddings, so
the feed-forward layers take what text models spend there. Its parameters and optimizer take 16 GB: fsdp divides them
by 16, the smallest slice it is meant for.

Command:   python -m amt_jax.train --config=amt_1b --config.dataset=DATASET --run=RUN
Hardware:  16 chips with 16 GB each or more; look first with
           python -m launch.compile_check --config=amt_1b --topology=v5e:4x4 --rows=4
Expected:  compiled for 16, 64 and 256 chips (bench/results/pods.md), never trained.
"""

from ml_collections import ConfigDict

from configs import remi_modern


def get_config() -> ConfigDict:
    """The experiment."""
    config = remi_modern.get_config()
    config.context = 2048
    config.batch_size = 64
    config.accumulation = 4
    config.steps = 50_000
    config.epochs = 0.0
    config.validate_every = 1000
    config.save_every = 1000

    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.num_kv_heads = 4
    config.model.d_model = 2048
    config.model.d_ff = 7168

    config.optimizer.learning_rate = 2e-4

    config.mesh.fsdp = 16
    return config
