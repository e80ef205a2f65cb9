"""The formulas against the programs that XLA makes, on the CPU."""

import dataclasses

import jax
import pytest

from amt_jax.data.card import Card
from amt_jax.model.params import abstract_model
from amt_jax.parallel.mesh import one_device
from amt_jax.tokens.symbolic import SymbolicTokenizer
from amt_jax.training import flops
from amt_jax.training.config import transformer_config
from amt_jax.training.program import compile_step, make_program
from launch.hlo import Program

# Wide enough for products to outweigh everything else, long enough for attention to count.
WIDE = {
    "context": 256, "accumulation": 2, "model.num_heads": 4, "model.num_kv_heads": 2, "model.d_model": 256,
    "model.d_ff": 512, "model.dropout": 0.0, "token_dropout": 0.0,
}  # fmt: skip
CLASSIC = {"model.num_kv_heads": 4, "model.activation": "gelu", "model.norm": "layernorm", "model.bias": True}
CASES = {"modern": {}, "classic": CLASSIC, "dots": {"model.remat": "dots"}, "history": {"model.history": (1, 4)}}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def both(request, make_config):
    """A run's config and its network."""
    config = make_config(WIDE | request.param)
    return config, transformer_config(config, Card(SymbolicTokenizer.create("remi").spec, {}))


def test_the_formula_knows_every_kernel(both):
    _, model = both
    leaves = jax.tree_util.tree_leaves_with_path(abstract_model(model).shapes)
    held = sum(x.size for path, x in leaves if path[-1].key in ("kernel", "embedding"))
    sizes = flops.kernel_sizes(model)
    once = sizes.pop("embedding") + sizes.pop("history")
    assert held == model.num_layers * sum(sizes.values()) + once


def test_a_train_step_computes_what_the_formula_says(both):
    config, model = both
    program = make_program(config, model, SymbolicTokenizer.create("remi").spec, one_device(), total_steps=10)
    compiled = compile_step(program, model, config.rows_per_step, segments=2)
    counted = Program(compiled.as_text()).totals()
    # jax 0.10's CPU compiler drops the barriers and finds the backward pass's scores to be the forward pass's, unless
    # their queries are computed again; newer ones compute them once more, as the formula has it.
    pairs = flops.blockwise_pairs(config.context) * config.rows_per_step
    finds = jax.__version_info__ < (0, 12) and model.remat == "none"
    merged = 2 * model.num_layers * pairs * model.d_model if finds else 0
    executed = flops.executed_flops(model, config.rows_per_step) - merged
    assert counted.flops == pytest.approx(executed, rel=1e-3)
    assert counted.open_loops == 0
    # XLA's own count takes the loop over microbatches once, and adds what is not a product.
    assert compiled.cost_analysis()["flops"] * config.accumulation == pytest.approx(executed, rel=0.03)
    assert flops.model_flops(model, config.rows_per_step) < executed


def test_recomputed_layers_count_twice_but_for_their_last_product(both):
    _, model = both
    model = dataclasses.replace(model, remat="none")
    remat = dataclasses.replace(model, remat="full")
    again = flops.executed_flops(remat, 1) - flops.executed_flops(model, 1)
    sizes = flops.kernel_sizes(model)
    dense = 2 * model.context_length * model.num_layers * (sizes["qkv"] + sizes["out"] + sizes["up"])
    values = 2 * model.num_layers * flops.blockwise_pairs(model.context_length) * model.d_model
    assert again == dense + values
    assert flops.model_flops(remat, 1) == flops.model_flops(model, 1)
    kept = dataclasses.replace(model, remat="dots")
    assert flops.executed_flops(kept, 1) == flops.executed_flops(model, 1)
