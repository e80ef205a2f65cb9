"""What a person may ask of the generator: one dataclass for the command line, batch files and HTTP."""

from __future__ import annotations

import dataclasses
from typing import Any

from amt_jax.errors import UserError
from amt_jax.tokens.grammar import MAX_POLYPHONY

WEIGHTS = ("auto", "float32", "bfloat16", "int8")  # what a network may be computed with, see model.quantization


def _field(default: Any, low: float | None, high: float | None, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "help": help})


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """How one piece is sampled; every field has its limits and its help in the metadata."""

    seconds: float = _field(
        40.0, 0.1, 36000.0, "length of new music, in seconds; no limit of its own where bars are asked for"
    )
    bars: int = _field(
        0, 0, 10000, "length of new music, in bars; with seconds, whichever ends first; 0 is by seconds alone"
    )
    polyphony: int = _field(0, 0, MAX_POLYPHONY, "notes that may sound at once, drums aside; 0 is any number")
    max_tokens: int = _field(8192, 1, 65536, "stop after this many new tokens, whatever the length")
    temperature: float = _field(0.9, 0.0, 10.0, "randomness; 0 always takes the likeliest token")
    top_k: int = _field(40, 0, 1000000, "sample among the k likeliest tokens; 0 is all")
    top_p: float = _field(0.95, 0.0, 1.0, "sample among the likeliest tokens that hold this much probability; 1 is all")
    min_p: float = _field(0.0, 0.0, 1.0, "drop tokens less likely than this share of the likeliest; 0 drops none")
    repetition_penalty: float = _field(1.0, 0.1, 10.0, "above 1: tokens that came before become less likely")
    guidance: float = _field(1.0, -20.0, 50.0, "how strongly to follow the conditions; 1 is plain, 3 is moderate")
    seed: int = _field(0, 0, 2**32 - 1, "the same seed gives the same music")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, low, high = getattr(self, field.name), field.metadata["low"], field.metadata["high"]
            kind = type(field.default)
            try:
                number = kind(value)
                if isinstance(value, bool) or number != float(value):
                    raise ValueError
            except (TypeError, ValueError, OverflowError):
                raise UserError(f"{field.name} is {'a whole ' if kind is int else 'a '}number, not {value!r}") from None
            if not low <= number <= high:
                raise UserError(f"{field.name} is between {low:.10g} and {high:.10g}, not {number:.10g}")
            object.__setattr__(self, field.name, number)
