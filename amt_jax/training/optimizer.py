"""AdamW or Muon, the learning rate over a run and over the layers, and what decays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from amt_jax.training.config import OptimizerConfig

MUON_BETA, MUON_RMS = 0.95, 0.2  # momentum, and an update's root mean square a unit of learning rate


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
    depths = {"embedding": 0, "conditioning": 0, "history": 0, "norm": top}

    def factor(path, _):
        depth = path[1].key + 1 if path[0].key == "layers" else depths[path[0].key]
        return decay ** (top - depth)

    return jax.tree_util.tree_map_with_path(factor, params)


def matrices(params: Any) -> Any:
    """What Muon takes: the kernels inside layers. Embeddings, what enters, norms and biases are AdamW's."""

    def dimensions(path, _):
        inside = path[0].key == "layers" and path[-1].key == "kernel"
        return MuonDimensionNumbers() if inside else None

    return jax.tree_util.tree_map_with_path(dimensions, params)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clips by global norm, then AdamW (Loshchilov & Hutter 2019) or Muon, then `depth_factors` if layers differ.

    Muon is Jordan et al. 2024 as Liu et al. 2025 scale it: an update's root mean square is 0.2 of the learning rate,
    about AdamW's, so that one learning rate suits both; AdamW takes what is no matrix.
    """
    schedule = learning_rate_schedule(config, total_steps)
    if config.name == "muon":
        rule = muon(
            schedule,
            beta=MUON_BETA,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=matrices,
            consistent_rms=MUON_RMS,
        )
    else:
        rule = optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decayed)
    transformations = [optax.clip_by_global_norm(config.clip_norm), rule]
    if config.layer_decay < 1:
        transformations.append(
            optax.stateless(
                lambda updates, _: jax.tree.map(jnp.multiply, updates, depth_factors(updates, config.layer_decay))
            )
        )
    return optax.chain(*transformations)
