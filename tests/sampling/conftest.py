import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from amt_jax.model.conditioning import ConditionConfig
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, init_params
from amt_jax.sampling.request import Result
from amt_jax.sampling.sampler import Sampler
from amt_jax.tokens.grammar import Grammar
from amt_jax.tokens.symbolic import SymbolicTokenizer


class Setup(NamedTuple):
    """What the tests of a tiny, untrained model need."""

    config: TransformerConfig
    graph: object
    params: object
    tokenizer: SymbolicTokenizer
    grammar: Grammar
    sampler: Sampler

    def generate(self, requests) -> list[Result]:
        return list(self.sampler.generate(requests))


@pytest.fixture(scope="session")
def setup() -> Setup:
    """A sampler over 419 ids and a context of 64, with grouped-query attention and a condition of each way."""
    tokenizer = SymbolicTokenizer.create("remi")
    config = TransformerConfig(
        vocab_size=tokenizer.spec.vocab_size, num_streams=1, num_layers=1, num_heads=4, num_kv_heads=2, d_model=32,
        d_ff=32, context_length=64, dropout=0.1, norm="rmsnorm", activation="swiglu", qk_norm=True, bias=False,
        rope_theta=1e4, clock="moments", history=(1, 3), remat="none", dtype="float32",
        conditions=(
            ConditionConfig("composer", 4, scale=1.0), ConditionConfig("mood", 3, "prefix", scale=1.0),
            ConditionConfig("words", 5, "cross", length=3, scale=1.0),
        ),
        pitches=tuple(tokenizer.spec.pitches().tolist()), moments=tuple(tokenizer.spec.moments().tolist()),
    )  # fmt: skip
    params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    sampler = Sampler(config, params, tokenizer.spec, grammar, max_batch=4)
    return Setup(config, abstract_model(config).graph, params, tokenizer, grammar, sampler)


@pytest.fixture(scope="session")
def forward(setup):
    """A function: ids, values of conditions -> logits [T, V] after each id, by one forward pass without a cache."""
    size = setup.config.context_length

    @jax.jit
    def apply(params, tokens, conditions):
        positions, segments = jnp.arange(size)[None], jnp.ones((1, size), jnp.int32)
        return nnx.merge(setup.graph, params)(tokens[None, :, None], positions, segments, conditions)[0, :, 0]

    def run(tokens, conditions):
        padded = np.zeros(size, np.int32)
        padded[: len(tokens)] = tokens
        wanted = {each.name: conditions.get(each.name, each.null())[None, None] for each in setup.config.conditions}
        return np.asarray(apply(setup.params, padded, wanted), np.float64)[: len(tokens)]

    return run


@pytest.fixture(scope="session")
def prompts(setup):
    """A function: length -> ids that the grammar accepts."""

    def make(length):
        random, state, ids = np.random.default_rng(length), setup.grammar.start(), []
        for _ in range(length):
            allowed = setup.grammar.allowed(state)
            allowed[setup.grammar.eos] = False
            ids.append(random.choice(np.flatnonzero(allowed)))
            state = setup.grammar.advance(state, ids[-1])
        return np.array(ids, np.uint16)

    return make
