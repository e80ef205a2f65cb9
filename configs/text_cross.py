"""A decoder that listens to words: every layer attends to the states of a caption's tokens.

remi_modern's sizes and choices (8 layers of 512, about 31 M parameters with the attention to words). Its only
conditions are the text and the composer; what else a dataset tells of its pieces is in their captions.

Command:   python -m amt_jax.train --config=text_cross --config.dataset=DATASET --run=RUN
           after data_prep.collect, describe, midi --descriptions and encode (README, "Words")
Hardware:  one GPU; text_cross:small (4 layers of 192, 512 tokens of context) is for a laptop's CPU
Expected:  text_cross:small ended its 3,000 steps on ASAP, POP909 and Nottingham tunes at 2.05 nats a token (51 minutes
           on two cores busy with much else). bench/results/following.md says what a smaller one follows. The large
           one has been trained for 1,194 steps only, on a GPU: 1.29 nats a token on arranged windows of 20 seconds.
"""

from ml_collections import ConfigDict

from amt_jax.errors import UserError
from configs import demo, remi_modern


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment, or with the argument "small" one for a laptop."""
    if arg not in (None, "", "small"):
        raise UserError(f"config text_cross takes no argument or small, not {arg!r}")
    config = demo.get_config() if arg == "small" else remi_modern.get_config()
    if arg == "small":
        config.model.d_model = 192
        config.model.d_ff = 512
        config.steps = 3000
        config.optimizer.name = "adamw"  # bench/results/following.md was measured with it
    kept = {name: config.conditions[name] for name in ("composer", "text")}
    config.conditions = ConfigDict(kept)
    config.conditions.text.scale = 1.0
    config.conditions.text.dropout = 0.1
    return config
