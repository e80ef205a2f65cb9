"""One training step and one evaluation step: pure functions of state and batch.

Glossary: A microbatches, B rows of a microbatch, T targets a row, K streams, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from amt_jax.model.conditioning import ConditionConfig, drop_conditions
from amt_jax.model.layers import ONE_DEVICE, Placement

TEMPERATURES = tuple(round(0.05 * n, 2) for n in range(10, 61))  # 0.5 to 3: a validation chooses among these


class Validated(NamedTuple):
    """What a validation found of a checkpoint; kept beside it.

    Attributes:
      valid_loss: nats a token, at the temperature.
      temperature: what logits are to be divided by.
    """

    valid_loss: float
    temperature: float = 1.0


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
      params: parameters, a nested dict of float32.
      optimizer: its state.
      step: steps taken.
      average: of the parameters over the steps, laid out as they are; None if none is kept.
    """

    params: Any
    optimizer: Any
    step: jax.Array
    average: Any = None

    @property
    def eval_params(self) -> Any:
        """What to validate and use: the average, if one is kept."""
        return self.params if self.average is None else self.average


@dataclasses.dataclass(frozen=True)
class Regularization:
    """The chances taken in training; `Regularization()` takes none.

    Attributes:
      label_smoothing: share of the target spread over the vocabulary (Szegedy et al. 2016).
      token_dropout: share of input ids replaced by PAD.
      pad: that id.
      conditions: each with its own probability of null.
      unconditional: share of segments that lose all conditions at once.
      dropout: whether the network's own dropout is on.
    """

    label_smoothing: float = 0.0
    token_dropout: float = 0.0
    pad: int = 0
    conditions: tuple[ConditionConfig, ...] = ()
    unconditional: float = 0.0
    dropout: bool = False


def train_step(
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    graph: Any,
    optimizer: optax.GradientTransformation,
    type_ids: Any,
    num_types: int,
    seed: int,
    accumulation: int,
    regularization: Regularization,
    ema: float = 0.0,
    placement: Placement = ONE_DEVICE,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from `accumulation` microbatches, equal to one from a single large batch.

    Args:
      state: donated by the caller.
      batch: rows of all microbatches, see data.pipeline.batches; [A * B, ...].
      graph: AbstractModel.graph, see model.params.
      optimizer: from make_optimizer.
      type_ids: [V] token type of each id.
      num_types: how many types there are.
      seed: together with the step's number, of everything random in it.
      accumulation: A.
      regularization: what is random.
      ema: d of the average, if the state holds one: average += (1 - min(d, (1 + t) / (10 + t))) (params - average) in
        step t = 0, 1, …, which begins at the initial parameters and forgets them soon (the warm-up of TensorFlow's
        ExponentialMovingAverage).
      placement: how the network runs on the devices at hand.

    Returns:
      The next state, and sums over the step's targets (see `sums`) with `grad_norm` before clipping.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    # Row i goes to microbatch i % A: then rows that lie spread over devices need not move.
    microbatches = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), dict(batch))
    total = jnp.sum(batch["weights"]) * batch["targets"].shape[-1]

    def loss(params, microbatch, key):
        found = sums(params, microbatch, graph, type_ids, num_types, placement, regularization, key)
        return found["smoothed_loss"] / total, found

    def gradients(index):
        microbatch = jax.tree.map(lambda x: x[index], microbatches)
        grads, found = jax.grad(loss, has_aux=True)(state.params, microbatch, jax.random.fold_in(key, index))
        return grads, found

    if accumulation == 1:
        grads, found = gradients(0)
    else:
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients, 0))

        def add(carry, index):
            return jax.tree.map(jnp.add, carry, gradients(index)), None

        (grads, found), _ = jax.lax.scan(add, zero, jnp.arange(accumulation))

    updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, average, 1 - decay)
    return TrainState(params, optimizer_state, state.step + 1, average), found | {"grad_norm": optax.tree.norm(grads)}


def eval_step(
    params: Any,
    batch: Mapping[str, Any],
    *,
    graph: Any,
    type_ids: Any,
    num_types: int,
    placement: Placement = ONE_DEVICE,
    temperatures: Sequence[float] = (),
) -> dict[str, jax.Array]:
    """Sums over a batch's targets, nothing dropped and nothing smoothed.

    With temperatures also `tempered_loss`, the nats if logits were divided by each.
    """
    return sums(params, batch, graph, type_ids, num_types, placement, Regularization(), None, temperatures)


def sums(
    params,
    batch,
    graph,
    type_ids,
    num_types: int,
    placement: Placement,
    regularization: Regularization,
    key,
    temperatures: Sequence[float] = (),
) -> dict[str, jax.Array]:
    """Sums over the targets that count.

    Returns:
      float32 `loss` (nats), `smoothed_loss`, `correct` (the likeliest id was right), `count`, and a token type
      `type_loss` and `type_count` [types]; with temperatures `tempered_loss` [temperatures].
    """
    inputs, conditions, dropout_key = batch["inputs"], batch["conditions"], None
    if key is not None:
        token_key, condition_key, network_key = jax.random.split(key, 3)
        if regularization.token_dropout:
            dropped = jax.random.bernoulli(token_key, regularization.token_dropout, inputs.shape)
            inputs = jnp.where(dropped, regularization.pad, inputs)
        conditions = drop_conditions(regularization.conditions, conditions, condition_key, regularization.unconditional)
        dropout_key = network_key if regularization.dropout else None
    model = nnx.merge(graph, params)
    logits = model(
        inputs,
        batch["positions"],
        batch["segments"],
        conditions,
        lengths=batch["lengths"],
        dropout_key=dropout_key,
        placement=placement,
    )  # [B, T, K, V]
    targets = batch["targets"]  # [B, T, K]
    weights = jnp.broadcast_to(batch["weights"][..., None], targets.shape)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # Sums of what a comparison chose: gathers would be scattered back, which accelerators do one number at a time.
    chosen = targets[..., None] == np.arange(logits.shape[-1])
    target_logits = jnp.sum(logits, axis=-1, where=chosen)
    loss = (normalizer - target_logits) * weights
    spread = (normalizer - jnp.mean(logits, axis=-1)) * weights
    smoothing = regularization.label_smoothing
    of_type = jnp.asarray(type_ids)[targets][..., None] == np.arange(num_types)
    found = {
        "loss": jnp.sum(loss),
        "smoothed_loss": jnp.sum((1 - smoothing) * loss + smoothing * spread),
        "correct": jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights),
        "count": jnp.sum(weights),
        "type_loss": jnp.sum(loss[..., None], axis=(0, 1, 2), where=of_type),
        "type_count": jnp.sum(weights[..., None], axis=(0, 1, 2), where=of_type),
    }
    if temperatures:  # one after another: each is as large as the logits

        def nats(t):
            return jnp.sum((jax.nn.logsumexp(logits / t, axis=-1) - target_logits / t) * weights)

        found["tempered_loss"] = jax.lax.map(nats, jnp.array(temperatures))
    return found
