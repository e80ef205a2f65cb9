"""A small decoder led by semantic tokens: 6 layers of 768, feed-forward 1,024, 8 heads, 24 M parameters.

A text's cluster (data_prep.cluster) stands as one token before the piece; a dataset without texts trains without it.

Command:   python -m data_prep.midi --input=MIDI --output=DATASET --tokenizer=amt_events --descriptions=FILE
           python -m data_prep.encode --dataset=DATASET --encoder=tfidf
           python -m data_prep.cluster --dataset=DATASET
           python -m amt_jax.train --config=amt_semantic --config.dataset=DATASET --run=RUN
Hardware:  one GPU with 24 GB or more; on a smaller one --config.batch_size=4 --config.accumulation=8.
Expected:  24.0 M parameters with these 512 ids, as with the 419 of remi. Its 3,125 steps have not been measured yet; 30
           steps of one row of 256 tokens of folk tunes, in remi's ids, on a CPU took the loss from 23.1 nats a token
           to 4 (guessing has 6.04), in float32 and 1.6 GB of memory. A network of 0.5 M parameters and 1,500 steps of
           4,096 tokens ended at 1.43 nats on windows of 20 seconds with made captions, whose two clusters (the best by
           silhouette) were of wordings, not of music: the token saved 0.0002 nats a token and led nothing
           (bench/results/following_semantic.md). It wants texts by people, or text_cross.
"""

from ml_collections import ConfigDict

from configs import remi_composer


def get_config() -> ConfigDict:
    """The experiment."""
    config = remi_composer.get_config()
    config.context = 2048
    config.batch_size = 32
    config.accumulation = 1
    config.steps = 3125  # 10 epochs of 10,000 sequences
    config.epochs = 0.0
    config.token_dropout = 0.0
    config.validate_every = 1000
    config.save_every = 1000

    config.model.num_layers = 6
    config.model.d_model = 768
    config.model.d_ff = 1024
    config.model.remat = "none"

    config.conditions = ConfigDict({"semantic": config.conditions.semantic})
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup = 1000 / config.steps  # a shorter run warms up in proportion
    return config
