"""Order: one piece as a person asks for it, by names and files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from amt_jax.data.card import Card, Vocabulary
from amt_jax.data.conditions import SEMANTIC, TEXT
from amt_jax.errors import UserError, near
from amt_jax.music import instruments, midi
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.symbolic import PRESETS
from amt_jax.tokens.tokenizer import Tokenizer

NO_PROMPT = np.zeros(0, np.uint16)
SETTINGS = tuple(field.name for field in dataclasses.fields(GenerationSettings))
PROMPT = ("prompt", "prompt_beats", "prompt_tokens")
GUIDANCE = ("guide", "negative")
INSTRUMENTS = "instruments"
TOLD = ("composer", TEXT, SEMANTIC, "genre", "mood", "tempo", "density")  # what some models are told
SCALES = next(field.metadata for field in dataclasses.fields(GenerationSettings) if field.name == "guidance")
LONGEST = {field.name: field.metadata["high"] for field in dataclasses.fields(GenerationSettings)}["seconds"]


@dataclasses.dataclass(frozen=True)
class Order:
    """One piece to make.

    Attributes:
      settings: how to sample it.
      conditions: condition name -> value: a name as the card spells it, names, a number or a text.
      prompt: ids to continue; empty starts a new piece. [T] uint16
      prompt_name: what the prompt is called.
      guide: condition name -> how strongly to follow it; the others by settings.guidance.
      negative: a text to be led away from.
      instruments: labels of the only instruments that new notes may have; none for any.
    """

    settings: GenerationSettings
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompt: np.ndarray = dataclasses.field(default_factory=lambda: NO_PROMPT)
    prompt_name: str = ""
    guide: Mapping[str, float] = dataclasses.field(default_factory=dict)
    negative: str = ""
    instruments: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """The same for orders that ask for the same and differ in how it is sampled, guided or begun."""
        return repr((sorted(self.conditions.items()), self.instruments))

    @property
    def guides(self) -> list[tuple[list[str], float]]:
        """The groups of conditions and their scales, see request.Request; empty if one scale serves all."""
        if not self.guide:
            return []
        rest = [name for name in self.conditions if name not in self.guide]
        groups = [([name], scale) for name, scale in self.guide.items()]
        return groups + ([(rest, self.settings.guidance)] if rest else [])

    @property
    def name(self) -> str:
        """What a person would look for: "Bach after prelude, seed 3"."""
        after = f"after {self.prompt_name}" if self.prompt_name else ""
        told = {TEXT: self.conditions[TEXT]} if TEXT in self.conditions else self.conditions
        asked = [_spoken(name, value) for name, value in told.items()]
        name = f"{' '.join(filter(None, [*asked, after])) or 'free'}, seed {self.settings.seed}"
        return name.encode(errors="replace").decode()  # what a shell gave in another encoding, no font can draw


def make_orders(card: Card, tokenizer: Tokenizer, values: Mapping[str, Any]) -> list[Order]:
    """Orders from names and values: a line of a batch file, the body of a request, the flags of a command.

    Args:
      card: what the model's conditions are called.
      tokenizer: reads the prompt.
      values: settings by their names; conditions by theirs: of composers a name or its id, several in a list or with
        commas, or "all"; of labels such as moods the names of one piece, in a list or with commas; a number; a text, or
        several in a list; `instruments`, names in a list or with commas, the only ones that may sound; `guide`,
        {"text": 4} or "text=4,composer=2"; `negative`, a text; `prompt`, a MIDI file to continue after its first
        `prompt_beats` or `prompt_tokens`, or after its end; `count` for several seeds from `seed` on. None is as good
        as nothing. Where `bars` are asked for, `seconds` has no default.

    Returns:
      An order a value and seed; UserError on an unknown name or a value that cannot be.
    """
    values = {name: value for name, value in values.items() if value is not None}
    known = [*SETTINGS, *PROMPT, *GUIDANCE, INSTRUMENTS, "count", *card.conditions]
    for name in values:
        if name in TOLD and name not in known:
            others = (
                f"it knows {', '.join(card.conditions)}" if card.conditions else "it was trained without conditions"
            )
            way = "; README, Words, says how to train one that was" if name in (TEXT, SEMANTIC) else ""
            raise UserError(f"this model was not trained with {name}: {others}{way}")
        if name not in known:
            raise UserError(f"unknown {near(name, known, 'see python -m amt_jax.generate --help')}")
    settings = GenerationSettings(**{name: values[name] for name in SETTINGS if name in values})
    if settings.bars and "seconds" not in values:
        settings = dataclasses.replace(settings, seconds=LONGEST)
    count = values.get("count", 1)
    if type(count) is not int or not 1 <= count <= 100_000:
        raise UserError(f"count is a whole number from 1 to 100000, not {count!r}")
    choices: list[dict[str, Any]] = [{}]
    played = _instruments(tokenizer, values.get(INSTRUMENTS))
    for condition, vocabulary in card.conditions.items():
        if condition == INSTRUMENTS:  # the others are kept out; those that the model knows are also told to it
            asked = [[label for label in played if label in vocabulary.values] or None]
        else:
            asked = _asked(condition, vocabulary, values.get(condition))
        choices = [choice | ({} if value is None else {condition: value}) for choice in choices for value in asked]
    guide = _guide(values.get("guide"))
    negative = _negative(card, values.get("negative"), settings, guide)
    prompt, prompt_name = _read_prompt(tokenizer, *(values.get(name) for name in PROMPT))
    return [
        Order(
            dataclasses.replace(settings, seed=(settings.seed + index) % 2**32),
            choice,
            prompt,
            prompt_name,
            guide,
            negative,
            played,
        )
        for choice in choices
        for index in range(count)
    ]


def guided(orders: Sequence[Order], told: Set[str]) -> list[Order]:
    """The orders, each guided by those conditions that it asks for, of all that the model is told.

    A model that is told of a text only its semantic token follows that as strongly as the text is to be. UserError if
    an order's guide names one that none of them asks for.
    """
    if TEXT not in told and SEMANTIC in told:
        orders = [dataclasses.replace(each, guide=_by_semantic(each.guide)) for each in orders]
    asked = {name for order in orders for name in order.conditions if name in told}
    for name in dict.fromkeys(name for order in orders for name in order.guide):
        if name in told and name not in asked:
            said = TEXT if name == SEMANTIC and TEXT not in told else name
            raise UserError(
                f"guide: what was said asks for no {said} that the model knows (it asks for "
                f"{', '.join(sorted(asked)) or 'nothing'}); say what {said} to follow, or leave {said} out of the guide"
            )
        if name not in asked:
            raise UserError(f"guide: nothing is asked of {near(name, sorted(asked), 'nothing is asked for')}")
    kept = ({name: scale for name, scale in order.guide.items() if name in order.conditions} for order in orders)
    return [dataclasses.replace(order, guide=guide) for order, guide in zip(orders, kept, strict=True)]


def _by_semantic(guide: Mapping[str, float]) -> dict[str, float]:
    return {SEMANTIC if name == TEXT and SEMANTIC not in guide else name: scale for name, scale in guide.items()}


def read_batch(card: Card, tokenizer: Tokenizer, path: str | os.PathLike, defaults: Mapping[str, Any]) -> list[Order]:
    """The orders of a batch file: a json object a line, or in a .txt file a text.

    What a line does not say is as in `defaults`.
    """
    orders = []
    for place, values in _lines(Path(path).expanduser()):
        try:
            orders += make_orders(card, tokenizer, {**defaults, **values})
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    if not orders:
        raise UserError(f"{path} holds no requests")
    return orders


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        if path.suffix.lower() == ".txt":
            yield place, {TEXT: line.strip()}
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place}: not json ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f'{place}: a json object like {{"composer": "Bach"}} is needed')
        yield place, values


def _asked(condition: str, vocabulary: Vocabulary, asked: Any) -> list[Any]:
    """The values that a person meant, one a piece; None for unconditional."""
    if asked in (None, "", []):
        return [None]
    if vocabulary.kind == "scalar":
        if (number := _number(condition, asked)) <= 0:
            raise UserError(f"{condition} is above 0, not {number:g}")
        return [number]
    if vocabulary.kind == "text":
        texts = asked if isinstance(asked, list) else [asked]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{condition} is a text or a list of texts, not {asked!r}")
        return [text.strip() or None for text in texts]
    if isinstance(asked, list):
        names = [str(name) for name in asked]
    elif _is_value(vocabulary, str(asked)):
        names = [str(asked)]  # a name may hold a comma
    else:
        names = [name for name in str(asked).split(",") if name.strip()]
    if not names:
        return [None]
    if vocabulary.kind == "multi_label":
        return [sorted({vocabulary.find(condition, name) for name in names})]
    if [name.strip().casefold() for name in names] == ["all"] and not _is_value(vocabulary, "all"):
        # A value that no piece has was never trained.
        return [value for value, count in zip(vocabulary.values, vocabulary.counts, strict=True) if count]
    return [_value(condition, vocabulary, name.strip()) for name in names]


def _number(name: str, asked: Any) -> float:
    try:
        if isinstance(asked, bool) or not np.isfinite(float(asked)):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"{name} is a number, not {asked!r}") from None
    return float(asked)


def _guide(asked: Any) -> dict[str, float]:
    """Scales by the names of conditions."""
    if asked in (None, "", {}):
        return {}
    if isinstance(asked, str):
        pairs = [part.partition("=") for part in asked.split(",")]
        if not all(equals for _, equals, _ in pairs):
            raise UserError(f"guide is like text=4,composer=2, not {asked!r}")
        asked = {name.strip(): scale for name, _, scale in pairs}
    if not isinstance(asked, Mapping):
        raise UserError(f'guide is like {{"text": 4, "composer": 2}}, not {asked!r}')
    found = {}
    for name, scale in asked.items():
        found[name] = _number(f"guide {name}", scale)
        if not SCALES["low"] <= found[name] <= SCALES["high"]:
            raise UserError(f"guide {name} is between {SCALES['low']:g} and {SCALES['high']:g}, not {found[name]:g}")
    return found


def _negative(card: Card, text: Any, settings: GenerationSettings, guide: Mapping[str, float]) -> str:
    if text in (None, ""):
        return ""
    if not isinstance(text, str):
        raise UserError(f"negative is a text, not {text!r}")
    if all(vocabulary.kind != "text" for vocabulary in card.conditions.values()):
        raise UserError("negative needs a model that was trained with texts")
    if settings.guidance == 1 and not guide:
        raise UserError("negative only matters with guidance: add guidance 3, say")
    return text.strip()


def _spoken(condition: str, value: Any) -> str:
    """A condition's value for people: "Bach", "calm and sad", "tempo 90"."""
    if isinstance(value, list):
        return " and ".join(value)
    return value if isinstance(value, str) else f"{condition} {value:g}"


def _value(condition: str, vocabulary: Vocabulary, name: str) -> str | None:
    # Semantic tokens are called by numbers from 0 on: there none is the id of another.
    if not name.isdecimal() or _is_value(vocabulary, name) or condition == SEMANTIC:
        return vocabulary.find(condition, name)
    if int(name) >= vocabulary.size:
        raise UserError(f"{condition} {name} is unknown; this model's are 0 (none) to {vocabulary.size - 1}")
    return vocabulary.values[int(name) - 1] if int(name) else None


def _is_value(vocabulary: Vocabulary, name: str) -> bool:
    return name.strip().casefold() in map(str.casefold, vocabulary.values)


def _instruments(tokenizer: Tokenizer, asked: Any) -> tuple[str, ...]:
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


def _read_prompt(tokenizer: Tokenizer, path: Any, beats: Any, tokens: Any) -> tuple[np.ndarray, str]:
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
