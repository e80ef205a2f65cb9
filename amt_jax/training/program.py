"""The programs of a training run, jitted for a mesh, and where everything they take and give lies on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import AbstractModel, abstract_model, init_params
from amt_jax.parallel.attention import placement
from amt_jax.parallel.mesh import batch_shardings, parameter_shardings, sharding
from amt_jax.tokens.spec import TokenSpec
from amt_jax.training.config import TrainConfig
from amt_jax.training.optimizer import make_optimizer
from amt_jax.training.step import TEMPERATURES, Regularization, TrainState, eval_step, train_step

WISHES = 2  # stop, save


class Program(NamedTuple):
    """What a run computes.

    Attributes:
      mesh: the devices.
      model: the network.
      layout: shapes and shardings of the whole state.
      init_params: PRNG key -> parameters.
      init_state: parameters, donated -> the state before the first step.
      step: (state, donated; batch; wishes [devices, W]) -> state, sums, wishes of any [W]; see step.train_step.
      evaluate: (parameters, batch, wishes) -> sums, wishes of any; see step.eval_step.
    """

    mesh: Mesh
    model: AbstractModel
    layout: TrainState
    init_params: Callable
    init_state: Callable
    step: Callable
    evaluate: Callable


def make_program(
    config: TrainConfig, model_config: TransformerConfig, spec: TokenSpec, mesh: Mesh, total_steps: int
) -> Program:
    """The programs of `config` for a vocabulary and a mesh; nothing is compiled yet."""
    model = abstract_model(model_config)
    optimizer = make_optimizer(config.optimizer, total_steps)
    layout = state_layout(model, optimizer, mesh, averaged=config.ema > 0)
    shardings = jax.tree.map(lambda x: x.sharding, layout)
    whole = sharding(mesh)
    common = {
        "graph": model.graph,
        "type_ids": spec.type_ids(),
        "num_types": len(spec.ranges),
        "placement": placement(mesh),
    }
    step = functools.partial(
        train_step,
        optimizer=optimizer,
        seed=config.seed,
        accumulation=config.accumulation,
        regularization=Regularization(
            config.label_smoothing,
            config.token_dropout,
            spec.pad,
            model_config.conditions,
            config.unconditional,
            dropout=True,
        ),
        ema=config.ema,
        **common,
    )

    def step_and_listen(state, batch, wishes):
        return *step(state, batch), jnp.any(wishes, axis=0)

    def evaluate_and_listen(params, batch, wishes):
        temperatures = TEMPERATURES if config.calibrate else ()
        return eval_step(params, batch, temperatures=temperatures, **common), jnp.any(wishes, axis=0)

    def init_state(params):
        average = jax.tree.map(jnp.copy, params) if config.ema else None
        return TrainState(params, optimizer.init(params), jnp.int32(0), average)

    return Program(
        mesh=mesh,
        model=model,
        layout=layout,
        init_params=jax.jit(functools.partial(init_params, model_config), out_shardings=shardings.params),
        init_state=jax.jit(init_state, donate_argnums=0, out_shardings=shardings),
        step=jax.jit(step_and_listen, donate_argnums=0, out_shardings=(shardings, whole, whole)),
        evaluate=jax.jit(evaluate_and_listen, out_shardings=whole),
    )


def compile_step(program: Program, model: TransformerConfig, rows: int, segments: int) -> jax.stages.Compiled:
    """The train step, compiled for batches of `rows` rows with up to `segments` pieces each."""
    wishes = jax.ShapeDtypeStruct((program.mesh.size, WISHES), jnp.bool_, sharding=sharding(program.mesh, "device"))
    return program.step.lower(program.layout, batch_shapes(program.mesh, model, rows, segments), wishes).compile()


def state_layout(
    model: AbstractModel, optimizer: optax.GradientTransformation, mesh: Mesh, *, averaged: bool = False
) -> TrainState:
    """Shapes and shardings of the whole state; moments and average lie as their parameters do."""
    shardings, whole = parameter_shardings(mesh, model.axes), sharding(mesh)
    places = dict(jax.tree_util.tree_leaves_with_path(shardings))

    def placed(shape, place):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)

    def of_state(path, shape):  # a moment's path ends with its parameter's
        owners = (places[path[start:]] for start in range(len(path)) if path[start:] in places)
        return placed(shape, next(owners, whole))

    optimizer_state = jax.tree_util.tree_map_with_path(of_state, jax.eval_shape(optimizer.init, model.shapes))
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    params = jax.tree.map(placed, model.shapes, shardings)
    return TrainState(params, optimizer_state, step, params if averaged else None)


def batch_shapes(mesh: Mesh, model: TransformerConfig, rows: int, segments: int) -> dict[str, Any]:
    """Shapes and shardings of a batch of `rows` rows of the longest context, up to `segments` pieces a row."""
    table = rows, model.context_length
    ids = jax.ShapeDtypeStruct((*table, model.num_streams), jnp.int32)
    numbers = jax.ShapeDtypeStruct(table, jnp.int32)
    batch = {
        "inputs": ids,
        "targets": ids,
        "segments": numbers,
        "positions": numbers,
        "weights": jax.ShapeDtypeStruct(table, jnp.float32),
        "lengths": jax.ShapeDtypeStruct((rows, segments), jnp.int32),
        "conditions": {
            c.name: jax.ShapeDtypeStruct((rows, segments, c.length, c.width), jnp.float16) for c in model.conditions
        },
    }
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        batch,
        batch_shardings(mesh, batch),
    )
