import functools

import jax
import numpy as np
import pytest

from amt_jax.model.conditioning import ConditionConfig
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, init_params

TINY = dict(
    vocab_size=17, num_streams=1, num_layers=2, num_heads=4, num_kv_heads=4, d_model=32, d_ff=24, context_length=16,
    dropout=0.0, norm="layernorm", activation="gelu", qk_norm=False, bias=True, rope_theta=100.0, clock="tokens",
    history=(), remat="none", dtype="float32",
    conditions=(ConditionConfig("composer", 4, scale=0.5), ConditionConfig("mood", 3, scale=2.0)),
)  # fmt: skip
# Every way in, and two conditions that share one.
MODERN = TINY | dict(
    norm="rmsnorm", activation="swiglu", qk_norm=True, bias=False, num_kv_heads=2,
    clock="moments", history=(1, 3), pitches=(-1,) * 6 + tuple(range(11)),
    moments=tuple(id in (3, 4) for id in range(17)),
    conditions=(
        ConditionConfig("composer", 4, scale=0.5), ConditionConfig("mood", 3, "prefix", scale=2.0),
        ConditionConfig("words", 6, "cross", length=4, scale=1.5), ConditionConfig("style", 5, "prefix", scale=1.0),
    ),
)  # fmt: skip


@pytest.fixture(scope="session", params=["classic", "modern"])
def config(request) -> TransformerConfig:
    """Both families of choices, tiny."""
    return TransformerConfig(**(TINY if request.param == "classic" else MODERN))


@pytest.fixture(scope="session")
def make_config():
    """A function: fields -> a tiny classic config with them."""
    return lambda **fields: TransformerConfig(**(TINY | fields))


@pytest.fixture(scope="session")
def values():
    """A function: config -> values of its conditions for two rows of three segments, name -> [2, 3, L, W]."""

    def make(config):
        random, found = np.random.default_rng(3), {}
        for each in config.conditions:
            found[each.name] = random.normal(size=(2, 3, each.length, each.width)).astype(np.float16)
            found[each.name][0, 1] = each.null()
            if each.length > 1:
                found[each.name][:, :, 0] = each.null()[0]
                found[each.name][1, 1, 2:] = 0  # a text of one token
        return found

    return make


@pytest.fixture(scope="session")
def make_params():
    """A function: config -> its graph, and parameters of which none has the value it starts with."""

    @functools.cache
    def make(config):
        params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [x + 0.2 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
        return abstract_model(config).graph, jax.tree.unflatten(tree, leaves)

    return make
