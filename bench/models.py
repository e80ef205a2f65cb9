"""The decoders of the speed comparisons: presets' sizes, dropout off."""

from __future__ import annotations

from amt_jax.model.config import TransformerConfig

SIZES = {
    "remi_composer": {"vocab_size": 419, "num_layers": 8, "num_heads": 8, "d_model": 512, "d_ff": 2048},
    "amt_86m": {"vocab_size": 419, "num_layers": 12, "num_heads": 12, "d_model": 768, "d_ff": 3072},
}


def decoder(*, dtype: str = "float32", context_length: int = 8192, **sizes: int) -> TransformerConfig:
    """The decoder of configs/remi_composer.py without dropout, rematerialization and conditions."""
    return TransformerConfig(
        num_streams=1,
        num_kv_heads=sizes["num_heads"],
        context_length=context_length,
        dropout=0.0,
        norm="layernorm",
        activation="gelu",
        qk_norm=False,
        bias=True,
        rope_theta=10_000.0,
        clock="tokens",
        history=(),
        remat="none",
        dtype=dtype,
        **sizes,
    )


def optimizer_config():
    """AdamW as the preset has it."""
    from amt_jax.train import load_config
    from amt_jax.training.config import OptimizerConfig

    return OptimizerConfig(**load_config("remi_composer")["optimizer"])
