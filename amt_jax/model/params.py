"""A network without its numbers, and its numbers without the network: nested dicts of float32."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from amt_jax.model.config import TransformerConfig
from amt_jax.model.transformer import Transformer


class AbstractModel(NamedTuple):
    """A network without its numbers: the graph to merge with parameters, their shapes and logical axes."""

    graph: Any
    shapes: Any
    axes: Any


def abstract_model(config: TransformerConfig) -> AbstractModel:
    """Describes the network of `config` without computing anything."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    axes = nnx.from_flat_state([(path, param.get_metadata("axes")) for path, param in nnx.to_flat_state(state)])
    return AbstractModel(graph, nnx.to_pure_dict(state), nnx.to_pure_dict(axes))


def init_params(config: TransformerConfig, key: jax.Array) -> Any:
    """Fresh parameters, a nested dict of float32; call it inside jit."""
    return nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(key)), nnx.Param))


def tempered(params: Any, temperature: float) -> Any:
    """Parameters of the same network whose logits are divided by a temperature: they are linear in its last norm."""
    return params | {"norm": jax.tree.map(lambda x: x / temperature, params["norm"])}


def fingerprint(params: Any) -> str:
    """sha256 over the parameters' names, shapes and numbers: the same wherever and however they are stored."""
    digest = hashlib.sha256()
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
    for path, leaf in sorted(leaves, key=lambda each: each[0]):
        digest.update(f"{path} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
