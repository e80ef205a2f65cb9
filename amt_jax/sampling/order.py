"""Order: one piece as a person asks for it, by names and files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amt_jax.data.card import Card, Vocabulary
from amt_jax.errors import UserError, near
from amt_jax.music import instruments, midi
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.symbolic import PRESETS, SymbolicTokenizer

NO_PROMPT = np.zeros(0, np.uint16)
SETTINGS = tuple(field.name for field in dataclasses.fields(GenerationSettings))
PROMPT = ("prompt", "prompt_beats", "prompt_tokens")
LONGEST = {field.name: field.metadata["high"] for field in dataclasses.fields(GenerationSettings)}["seconds"]


@dataclasses.dataclass(frozen=True)
class Order:
    """One piece to make.

    Attributes:
      settings: how to sample it.
      conditions: condition name -> value, as the card spells it.
      prompt: ids to continue; empty starts a new piece. [T] uint16
      prompt_name: what the prompt is called.
      instruments: labels of the only instruments that new notes may have; none for any.
    """

    settings: GenerationSettings
    conditions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompt: np.ndarray = dataclasses.field(default_factory=lambda: NO_PROMPT)
    prompt_name: str = ""
    instruments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a person would look for: "Bach after prelude, seed 3"."""
        after = f"after {self.prompt_name}" if self.prompt_name else ""
        return f"{' '.join(filter(None, [*self.conditions.values(), after])) or 'free'}, seed {self.settings.seed}"


def make_orders(card: Card, tokenizer: SymbolicTokenizer, values: Mapping[str, Any]) -> list[Order]:
    """Orders from names and values: a line of a batch file, the body of a request, the flags of a command.

    Args:
      card: what the model's conditions are called.
      tokenizer: reads the prompt.
      values: settings by their names; conditions by theirs: a value or its id, several in a list or with commas, or
        "all"; `prompt`, a MIDI file to continue after its first `prompt_beats` or `prompt_tokens`, or after its end;
        `instruments`, names in a list or with commas; `count` for several seeds from `seed` on. None is as good as
        nothing. Where `bars` are asked for, `seconds` has no default.

    Returns:
      An order a value and seed; UserError on an unknown name or a value that cannot be.
    """
    values = {name: value for name, value in values.items() if value is not None}
    known = [*SETTINGS, *PROMPT, "instruments", "count", *card.conditions]
    for name in values:
        if name not in known:
            extra = "" if card.conditions else "; this model was trained without conditions such as composers"
            raise UserError(f"unknown {near(name, known)}{extra}")
    settings = GenerationSettings(**{name: values[name] for name in SETTINGS if name in values})
    if settings.bars and "seconds" not in values:
        settings = dataclasses.replace(settings, seconds=LONGEST)
    count = values.get("count", 1)
    if type(count) is not int or not 1 <= count <= 100_000:
        raise UserError(f"count is a whole number from 1 to 100000, not {count!r}")
    choices: list[dict[str, str]] = [{}]
    for condition, vocabulary in card.conditions.items():
        asked = _asked(condition, vocabulary, values.get(condition))
        choices = [choice | ({condition: value} if value else {}) for choice in choices for value in asked]
    prompt, prompt_name = _read_prompt(tokenizer, *(values.get(name) for name in PROMPT))
    played = _instruments(tokenizer, values.get("instruments"))
    return [
        Order(dataclasses.replace(settings, seed=(settings.seed + index) % 2**32), choice, prompt, prompt_name, played)
        for choice in choices
        for index in range(count)
    ]


def read_batch(
    card: Card, tokenizer: SymbolicTokenizer, path: str | os.PathLike, defaults: Mapping[str, Any]
) -> list[Order]:
    """The orders of a batch file, a json object a line; what a line does not say is as in `defaults`."""
    orders = []
    for place, values in _lines(Path(path)):
        try:
            orders += make_orders(card, tokenizer, {**defaults, **values})
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    if not orders:
        raise UserError(f"{path} holds no requests")
    return orders


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place}: not json ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f'{place}: a json object like {{"composer": "Bach"}} is needed')
        yield place, values


def _asked(condition: str, vocabulary: Vocabulary, asked: Any) -> list[str | None]:
    """The values that a person meant, None for unconditional."""
    if asked in (None, "", []):
        return [None]
    if isinstance(asked, list):
        names = [str(name) for name in asked]
    elif _is_value(vocabulary, str(asked)):
        names = [str(asked)]  # a name may hold a comma
    else:
        names = str(asked).split(",")
    if [name.strip().casefold() for name in names] == ["all"] and not _is_value(vocabulary, "all"):
        # A value that no piece has was never trained.
        return [value for value, count in zip(vocabulary.values, vocabulary.counts, strict=True) if count]
    return [_value(condition, vocabulary, name.strip()) for name in names]


def _value(condition: str, vocabulary: Vocabulary, name: str) -> str | None:
    if not name.isdecimal() or _is_value(vocabulary, name):
        return vocabulary.find(condition, name)
    if int(name) >= vocabulary.size:
        raise UserError(f"{condition} {name} is unknown; this model's are 0 (none) to {vocabulary.size - 1}")
    return vocabulary.values[int(name) - 1] if int(name) else None


def _is_value(vocabulary: Vocabulary, name: str) -> bool:
    return name.strip().casefold() in map(str.casefold, vocabulary.values)


def _instruments(tokenizer: SymbolicTokenizer, asked: Any) -> tuple[str, ...]:
    """The labels of the instruments that a person named."""
    names = asked.split(",") if isinstance(asked, str) else asked or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"instruments are names in a list or with commas, not {asked!r}")
    labels = tuple(dict.fromkeys(instruments.find(name) for name in names if name.strip()))
    if "Program" not in tokenizer.spec.ranges and set(labels) - {"piano"}:
        able = [name for name, preset in PRESETS.items() if preset.programs]
        raise UserError(
            f"instruments: this model plays the piano alone; prepare a dataset with --tokenizer={' or '.join(able)}"
        )
    return labels


def _read_prompt(tokenizer: SymbolicTokenizer, path: Any, beats: Any, tokens: Any) -> tuple[np.ndarray, str]:
    """The ids of a MIDI file's beginning, and what to call it."""
    for name, value, kinds in (("prompt_beats", beats, (int, float)), ("prompt_tokens", tokens, (int,))):
        if value is not None and (type(value) not in kinds or not 0 < value < float("inf")):
            raise UserError(f"{name} is a {'whole ' if float not in kinds else ''}number above 0, not {value!r}")
    if path in (None, ""):
        return NO_PROMPT, ""
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"prompt is the path of a MIDI file, not {path!r}")
    path = Path(path).expanduser()
    try:
        score = midi.load(path)
        if beats is not None:
            score = score.clip(0, round(beats * score.ticks_per_quarter), clip_end=True)
        return tokenizer.encode(score)[:tokens], path.stem
    except midi.MidiError as error:
        beginning = f" in its first {beats:g} beats" if beats is not None else ""
        raise UserError(f"cannot continue {path}: {error}{beginning}") from None
