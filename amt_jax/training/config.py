"""The configuration of a training run as frozen dataclasses: no field is optional, none can be misspelt."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from amt_jax.data.card import Card, Vocabulary
from amt_jax.data.pipeline import Augmentation
from amt_jax.errors import UserError, near
from amt_jax.model.conditioning import WAYS, ConditionConfig
from amt_jax.model.config import ModelConfig, TransformerConfig
from amt_jax.parallel.mesh import MeshConfig
from amt_jax.training.lengths import phases

OPTIMIZERS = ("adamw", "muon")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon with linear warm-up and cosine decay.

    Attributes:
      name: "adamw", or "muon" for the kernels inside layers and AdamW for the rest, see optimizer.make_optimizer.
      learning_rate: the peak.
      warmup: fraction of all steps over which it rises from 0.
      final: the last learning rate as a fraction of the peak.
      b1: decay of the gradients' mean.
      b2: decay of the gradients' variance.
      weight_decay: of linear layers' kernels, a unit of learning rate.
      clip_norm: the largest global norm of the gradients.
      layer_decay: factor on the learning rate from a layer to the one below it, see optimizer.depth_factors; 1: none.
    """

    name: str
    learning_rate: float
    warmup: float
    final: float
    b1: float
    b2: float
    weight_decay: float
    clip_norm: float
    layer_decay: float


@dataclasses.dataclass(frozen=True)
class ConditionSettings:
    """How a condition enters: its way (see model.conditioning), factor on its embedding, probability of null."""

    way: str
    scale: float
    dropout: float


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
      dataset: dataset folder.
      init: run folder whose best weights to start from, empty for random ones.
      seed: of initial weights, order of data, augmentation and dropout.
      context: tokens a row.
      lengths: context lengths that the run begins with, see lengths.phases; empty for none.
      batch_size: rows a microbatch, over all devices.
      accumulation: microbatches a step.
      steps: length of the run in steps, or 0 to give it in epochs.
      epochs: length of the run in epochs, or 0 to give it in steps.
      label_smoothing: share of the target spread over the vocabulary.
      token_dropout: share of input tokens replaced by PAD.
      ema: decay of the average of weights that is validated and used, see step.train_step; 0 for none.
      calibrate: whether a checkpoint's logits are divided by the temperature that suits the validation split best (Guo
        et al. 2017), where it is used and where checkpoints are compared.
      validate_every: steps between validations, 0 for the end of every epoch.
      save_every: steps between checkpoints, 0 for the end of every epoch.
      save_minutes: a checkpoint is never older than this many minutes.
      keep: newest checkpoints kept, besides the best.
      log_every: steps between lines of metrics.jsonl.
      model: the network; its dtype may be "auto": bfloat16 on accelerators, float32 on a CPU.
      optimizer: the optimizer.
      conditions: name -> settings; a condition that the dataset lacks is left out.
      unconditional: probability that a segment loses all conditions at once, the base of guidance.
      augmentation: variation of pieces.
      mesh: devices along each axis.
    """

    dataset: str
    init: str
    seed: int
    context: int
    lengths: str
    batch_size: int
    accumulation: int
    steps: int
    epochs: float
    label_smoothing: float
    token_dropout: float
    ema: float
    calibrate: bool
    validate_every: int
    save_every: int
    save_minutes: float
    keep: int
    log_every: int
    model: ModelConfig
    optimizer: OptimizerConfig
    conditions: Mapping[str, ConditionSettings]
    unconditional: float
    augmentation: Augmentation
    mesh: MeshConfig

    def __post_init__(self):
        for name in ("context", "batch_size", "accumulation", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"config.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("steps", "epochs", "validate_every", "save_every", "save_minutes", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"config.{name} is {getattr(self, name)}; it must not be negative")
        for name in ("label_smoothing", "token_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"config.{name} is {getattr(self, name)}; it must be in [0, 1)")
        for name in ("num_layers", "num_heads", "num_kv_heads", "d_model", "d_ff"):
            _limit(f"model.{name}", getattr(self.model, name), 1)
        _limit("model.dropout", self.model.dropout, 0, 0.99)
        for name, low, high in (
            ("learning_rate", 0, 100),
            ("warmup", 0, 1),
            ("final", 0, 1),
            ("b1", 0, 0.99999),
            ("b2", 0, 0.99999),
            ("weight_decay", 0, 100),
            ("clip_norm", 1e-9, 1e9),
            ("layer_decay", 1e-9, 1),
        ):
            _limit(f"optimizer.{name}", getattr(self.optimizer, name), low, high)
        if self.optimizer.name not in OPTIMIZERS:
            raise UserError(f"config.optimizer.name is {near(self.optimizer.name, list(OPTIMIZERS))}")
        for name, condition in self.conditions.items():
            _limit(f"conditions.{name}.dropout", condition.dropout, 0, 1)
            if condition.way not in WAYS:
                raise UserError(f"config.conditions.{name}.way is {near(condition.way, list(WAYS))}")
        _limit("unconditional", self.unconditional, 0, 1)
        if bool(self.steps) == bool(self.epochs):
            raise UserError("give the run's length once: config.steps or config.epochs, and 0 for the other")
        phases(self.lengths, self.context, 1)  # raises if they are none

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulation

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Builds the config; UserError for an unknown, missing or ill-typed field, with its near names."""
        return _build(cls, data, "config")


def _limit(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high:
        upper = f" and at most {high:g}" if high < math.inf else ""
        raise UserError(f"config.{name} is {value:g}; it must be at least {low:g}{upper}")


def _build(kind: Any, value: Any, path: str) -> Any:
    """`value` as `kind`: a dataclass from a mapping, a mapping of dataclasses, a tuple, or a plain value."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{path} is {value!r}; it must hold fields")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise UserError(f"unknown field {path}.{near(name, list(hints), 'see the config file')}")
        missing = [name for name in hints if name not in value]
        if missing:
            raise UserError(f"{path}.{missing[0]} is missing")
        return kind(**{name: _build(hint, value[name], f"{path}.{name}") for name, hint in hints.items()})
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UserError(f"{path} is {value!r}; it must be a row of values, such as (1, 2)")
        return tuple(_build(typing.get_args(kind)[0], item, path) for item in value)
    if typing.get_origin(kind):
        inner = typing.get_args(kind)[1]
        return {name: _build(inner, item, f"{path}.{name}") for name, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{path} is {value!r}; it must be of type {kind.__name__}")
    return value


def transformer_config(config: TrainConfig, card: Card) -> TransformerConfig:
    """The network for a dataset: its vocabulary and conditions, everything else from the config."""
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    conditions = tuple(
        condition_config(name, card.conditions[name], settings)
        for name, settings in config.conditions.items()
        if name in card.conditions
    )
    fields = dataclasses.asdict(config.model) | {"dtype": dtype}
    if config.model.history or config.model.clock == "moments":
        if card.spec.merges:
            raise UserError(
                "config.model.history and a clock of moments need base tokens, this dataset has BPE; prepare it "
                "without --bpe, or set history to () and clock to tokens"
            )
        fields |= {"pitches": tuple(card.spec.pitches().tolist()), "moments": tuple(card.spec.moments().tolist())}
    try:
        return TransformerConfig(
            vocab_size=card.spec.vocab_size,
            num_streams=card.spec.num_streams,
            context_length=config.context,
            conditions=conditions,
            **fields,
        )
    except ValueError as error:
        raise UserError(f"config.model: {error}") from None


def condition_config(name: str, vocabulary: Vocabulary, settings: ConditionSettings) -> ConditionConfig:
    """A condition as the network takes it."""
    # A text is attended to word by word; the other ways take it as one vector.
    length = 1 + max(vocabulary.length, 1) if settings.way == "cross" else 1
    return ConditionConfig(name, vocabulary.size, settings.way, length, settings.scale, settings.dropout)


def flatten(data: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Nested fields -> dotted name -> value."""
    flat = {}
    for name, value in data.items():
        path = f"{prefix}.{name}"
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


# What may change between the parts of one run: where the data lies (its content is compared by hash), on which
# devices it runs, and how often it reports. The parameters do not depend on these, but for rounding.
FREE = ("config.dataset", "config.mesh.", "config.save_every", "config.save_minutes", "config.keep",
        "config.log_every", "config.validate_every")  # fmt: skip


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """What a resumed run may not change silently, one line a field: "config.seed: 0 -> 1"."""
    before, after = flatten(old.to_json()), flatten(new.to_json())
    return [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in sorted(before | after)
        if before.get(name) != after.get(name) and not name.startswith(FREE)
    ]
