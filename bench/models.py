"""The reference decoder of every speed comparison: the composer preset's sizes, dropout off."""

from __future__ import annotations

from amt_jax.model.transformer import TransformerConfig


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
        remat=False,
        dtype=dtype,
        **sizes,
    )


def optimizer_config():
    """AdamW as the preset has it."""
    from amt_jax.train import load_config
    from amt_jax.training.config import OptimizerConfig

    return OptimizerConfig(**load_config("remi_composer")["optimizer"])
