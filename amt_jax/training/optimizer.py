"""AdamW, its learning rate over a run and over the layers, and what decays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from amt_jax.training.config import OptimizerConfig


def learning_rate_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Linear from 0 over the first `warmup` share of the steps, then a cosine down to `final` of the peak."""
    warmup_steps = round(config.warmup * total_steps)

    def schedule(step):
        rising = (step + 1) / max(warmup_steps, 1)
        progress = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0, 1)
        falling = config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return config.learning_rate * jnp.minimum(rising, falling)

    return schedule


def decayed(params: Any) -> Any:
    """True for what weight decay pulls to zero: the kernels of linear layers; not norms, biases and embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def depth_factors(params: Any, decay: float) -> Any:
    """The factor on each parameter's learning rate: decay^(L + 1 - depth), so that what lies lower moves less.

    Depth is 0 for the embeddings (the tied output too), l for layer l of 1..L, L + 1 for what follows the layers, as in
    BEiT (Bao et al. 2022, after ELECTRA, Clark et al. 2020).
    """
    top = len(params["layers"]) + 1
    depths = {"embedding": 0, "conditioning": 0, "norm": top}

    def factor(path, _):
        depth = path[1].key + 1 if path[0].key == "layers" else depths[path[0].key]
        return decay ** (top - depth)

    return jax.tree_util.tree_map_with_path(factor, params)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clips by global norm, then AdamW (Loshchilov & Hutter 2019), then `depth_factors` if layers differ."""
    schedule = learning_rate_schedule(config, total_steps)
    transformations = [
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decayed),
    ]
    if config.layer_decay < 1:
        transformations.append(
            optax.stateless(
                lambda updates, _: jax.tree.map(jnp.multiply, updates, depth_factors(updates, config.layer_decay))
            )
        )
    return optax.chain(*transformations)
