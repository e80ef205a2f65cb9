import functools
from typing import NamedTuple

import jax
import pytest

from amt_jax.model.conditioning import ConditionConfig
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, init_params
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


@pytest.fixture(scope="session")
def setup() -> Setup:
    """A sampler over 419 ids and a context of 64, with grouped-query attention and a condition of each way."""
    tokenizer = SymbolicTokenizer.create("remi")
    config = TransformerConfig(
        vocab_size=tokenizer.spec.vocab_size, num_streams=1, num_layers=1, num_heads=4, num_kv_heads=2, d_model=32,
        d_ff=32, context_length=64, dropout=0.1, norm="rmsnorm", activation="swiglu", qk_norm=True, bias=False,
        rope_theta=1e4, clock="moments", history=2, relative=3, remat="none", dtype="float32",
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
