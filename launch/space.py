"""What a sweep searches: fields of a config and the range of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amt_jax.errors import UserError, near
from amt_jax.train import override

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FORMS = "LOW:HIGH, log:LOW:HIGH or choice:A,B,C"


def parse_space(words: Sequence[str], fields: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """FIELD=RANGE words -> the distribution that each field is drawn from.

    Args:
      words: such as "model.dropout=0:0.3"; bounds belong to the range, and the field's type says whether it is one
        of integers or of real numbers.
      fields: the config as nested fields, whose limits hold for every bound and choice. UserError where they do not.
    """
    from amt_jax.training.config import TrainConfig, flatten

    known = {name.removeprefix("config."): value for name, value in flatten(fields).items()}
    space = {}
    for word in words:
        field, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"what is --search {word!r}? a search looks like FIELD=RANGE, the range {FORMS}")
        if field not in known:
            raise UserError(f"--search: unknown field {near(field, list(known), 'see the config file')}")
        if field in space:
            raise UserError(f"--search names {field} twice")
        space[field], edges = parse_range(text, type(known[field]), f"--search {word}")
        for value in edges:
            try:
                TrainConfig.from_json(override(fields, [f"--config.{field}={value}"]))
            except UserError as error:
                raise UserError(f"--search {word}: {error}") from None
    return space


def parse_range(text: str, kind: type, where: str) -> tuple[BaseDistribution, list[Any]]:
    """A range of values of type `kind`, and its bounds or choices; `where` is named in the UserError if it is none."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    form, colon, rest = text.partition(":")
    if form == "choice":
        choices = [_value(item, kind, where) for item in rest.split(",")]
        if len(set(choices)) < max(2, len(choices)):
            raise UserError(f"{where}: give two choices or more, each once")
        return CategoricalDistribution(choices), choices
    bounds = (rest if form == "log" else text).split(":")
    if not colon or len(bounds) != 2:
        raise UserError(f"{where}: {text!r} is no range; write {FORMS}")
    if kind not in (int, float):
        raise UserError(f"{where}: the field is no number; write choice:A,B,C")
    low, high = (_value(item, kind, where) for item in bounds)
    if not low < high:
        raise UserError(f"{where}: the lower bound {low} is not below the upper bound {high}")
    if form == "log" and low <= 0:
        raise UserError(f"{where}: the lower bound of a log range is {low}; it must be above 0")
    return (IntDistribution if kind is int else FloatDistribution)(low, high, log=form == "log"), [low, high]


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether `value` may be drawn."""
    choices = getattr(distribution, "choices", None)
    return value in choices if choices else distribution.low <= value <= distribution.high


def _value(text: str, kind: type, where: str) -> Any:
    """`text` as a value of type `kind`."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError
        return value
    except (ValueError, KeyError):
        raise UserError(f"{where}: {text!r} is not of the field's type, {kind.__name__}") from None
