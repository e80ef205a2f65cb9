"""From what a person asks for, by names and files, to pieces of music that carry what makes them again."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from amt_jax import __version__
from amt_jax.errors import UserError, near
from amt_jax.music import midi
from amt_jax.sampling.sampler import Bucket, Request, Result, Sampler
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.grammar import Grammar

if TYPE_CHECKING:
    from symusic import Score

    from amt_jax.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Order:
    """One piece as a person asks for it.

    Attributes:
      settings: how to sample it.
      conditions: condition name -> value by name, as the card spells it.
      prompt: a MIDI file to continue, None for a new piece.
      prompt_beats: continue after so many beats of it; None is after its end.
    """

    settings: GenerationSettings
    conditions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompt: Path | None = None
    prompt_beats: float | None = None

    @property
    def name(self) -> str:
        """What a person would look for: "Bach after prelude, seed 3"."""
        asked = " ".join(self.conditions.values()) or "free"
        after = f" after {self.prompt.stem}" if self.prompt else ""
        return f"{asked}{after}, seed {self.settings.seed}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece that was made.

    Attributes:
      name: for people.
      ids: all of its token ids, the prompt's first. [T] uint16
      score: the music.
      recipe: what makes it again, json.
    """

    name: str
    ids: np.ndarray
    score: Score
    recipe: Mapping[str, Any]

    @property
    def file_name(self) -> str:
        """The name, fit for a file."""
        return "".join(c if c.isalnum() or c in "-._" else "_" for c in self.name.replace(", ", "_").replace(" ", "-"))

    def save(self, folder: Path) -> Path:
        """Writes `folder`/FILE_NAME.mid with the recipe in a text event, and its ids beside it as .npy."""
        path = folder / f"{self.file_name}.mid"
        midi.save(self.score, path, text=json.dumps(self.recipe))
        np.save(path.with_suffix(".npy"), self.ids)
        return path


class Generator:
    """A trained run, ready to make music.

    Args:
      run: the run folder.
      step: which checkpoint: "best", "last" or a number.
      max_batch: pieces made together.
    """

    def __init__(self, run: RunFolder, step: str | int = "best", *, max_batch: int = 32):
        self.run, self.card, self.tokenizer = run, run.card, run.tokenizer
        self.config, params = run.load_model(step)
        self.checkpoint = _fingerprint(params)
        if self.tokenizer.spec != self.card.spec:
            raise UserError(f"run folder {run.path}: tokenizer.json and dataset.json do not belong together")
        grammar = Grammar.create(self.card.spec, self.tokenizer.names)
        self.sampler = Sampler(self.config, params, self.card.spec, grammar, max_batch=max_batch)

    def order(self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> list[Order]:
        """Orders from names and values: a line of a batch file, the body of a request, the flags of a command.

        Args:
          values: settings by their names; conditions by theirs, "all" for each value; `prompt`, `prompt_beats`; `count`
            for several seeds from `seed` on.
          defaults: what holds where `values` says nothing.

        Returns:
          The orders; UserError on an unknown name or value.
        """
        values = {**(defaults or {}), **values}
        settings = {field.name for field in dataclasses.fields(GenerationSettings)}
        known = [*settings, *self.card.conditions, "count", "prompt", "prompt_beats"]
        for name in values:
            if name not in known:
                extra = "" if self.card.conditions else "; this model was trained without conditions such as composers"
                raise UserError(f"unknown {near(name, known)}{extra}")
        base = GenerationSettings.from_mapping({name: value for name, value in values.items() if name in settings})
        choices: list[dict[str, str]] = [{}]
        for condition in self.card.conditions:
            names = self._values(condition, values.get(condition))
            choices = [{**choice, **({condition: name} if name else {})} for choice in choices for name in names]
        count, prompt = values.get("count", 1), values.get("prompt")
        if not isinstance(count, int) or not 1 <= count <= 100_000:
            raise UserError(f"count is a whole number from 1, not {count!r}")
        return [
            Order(
                dataclasses.replace(base, seed=(base.seed + index) % 2**32),
                choice,
                Path(prompt).expanduser() if prompt else None,
                values.get("prompt_beats"),
            )
            for choice in choices
            for index in range(count)
        ]

    def _values(self, condition: str, asked: Any) -> list[str | None]:
        vocabulary = self.card.conditions[condition]
        if asked in (None, ""):
            return [None]
        names = asked if isinstance(asked, list) else str(asked).split(",")
        if [str(name).strip().casefold() for name in names] == ["all"]:
            return list(vocabulary.values)
        return [vocabulary.find(condition, str(name)) for name in names]

    def generate(
        self, orders: Sequence[Order], progress: Callable[[int, float], None] = lambda tokens, share: None
    ) -> list[Piece]:
        """Makes all pieces, together where it can; see `Sampler.generate` for `progress`."""
        requests = [self._request(order) for order in orders]
        results = self.sampler.generate(requests, progress)
        return [self._piece(*each) for each in zip(orders, requests, results, strict=True)]

    def _request(self, order: Order) -> Request:
        ids = {name: self.card.conditions[name].id(value) for name, value in order.conditions.items()}
        return Request(order.settings, ids, self._prompt(order.prompt, order.prompt_beats))

    @functools.lru_cache(maxsize=8)  # noqa: B019 - one prompt serves many seeds, and generators live as long as programs
    def _prompt(self, path: Path | None, beats: float | None) -> np.ndarray:
        """The ids of a MIDI file's first `beats`. [T] uint16"""
        if path is None:
            return np.zeros(0, np.uint16)
        try:
            score = midi.load(path)
            if beats is not None:
                if not isinstance(beats, int | float) or beats <= 0:
                    raise UserError(f"prompt_beats is a number of beats above 0, not {beats!r}")
                score = score.clip(0, round(beats * score.ticks_per_quarter), clip_end=True)
            return self.tokenizer.encode(score)
        except midi.MidiError as error:
            beginning = f" in its first {beats:g} beats" if beats is not None else ""
            raise UserError(f"cannot continue {path}: {error}{beginning}") from None

    def prompt_tokens(self, order: Order) -> int:
        """How many tokens the order's prompt has."""
        return len(self._prompt(order.prompt, order.prompt_beats))

    def _piece(self, order: Order, request: Request, result: Result) -> Piece:
        recipe = {
            "amt_jax": __version__,
            "name": order.name,
            "checkpoint": self.checkpoint,
            "settings": dataclasses.asdict(order.settings),
            "conditions": dict(order.conditions),
            "prompt": base64.b64encode(zlib.compress(request.prompt.astype("<u2").tobytes())).decode(),
            "bucket": dataclasses.asdict(result.bucket),
            "row": result.row,
            "platform": jax.devices()[0].platform,
            "jax": jax.__version__,
        }
        return self._assemble(recipe, request, result)

    def _assemble(self, recipe: Mapping[str, Any], request: Request, result: Result) -> Piece:
        ids = np.concatenate([request.prompt, result.ids])
        return Piece(recipe["name"], ids, self.tokenizer.decode(ids), recipe)

    def replay(self, path: Path) -> Piece:
        """Makes the piece of a generated MIDI file again, exactly so on the same platform.

        UserError if the file carries no recipe or another checkpoint made it.
        """
        try:
            recipe = json.loads(midi.read_text(path) or "")
            settings = GenerationSettings(**recipe["settings"])
            bucket, row = Bucket(**recipe["bucket"]), int(recipe["row"])
            prompt = np.frombuffer(zlib.decompress(base64.b64decode(recipe["prompt"])), "<u2").astype(np.uint16)
            checkpoint, conditions = recipe["checkpoint"], dict(recipe["conditions"])
        except midi.MidiError as error:
            raise UserError(f"cannot replay {path}: {error}") from None
        except (ValueError, KeyError, TypeError, zlib.error):
            raise UserError(f"cannot replay {path}: it carries no recipe of amt_jax") from None
        if checkpoint != self.checkpoint:
            raise UserError(
                f"cannot replay {path}: checkpoint {checkpoint[:12]} made it, this is {self.checkpoint[:12]}; "
                "name the right --run and --checkpoint"
            )
        ids = {name: self.card.conditions[name].id(value) for name, value in conditions.items()}
        request = Request(settings, ids, prompt)
        return self._assemble(recipe, request, self.sampler.replay(request, bucket, row))


def same_platform(recipe: Mapping[str, Any]) -> bool:
    """Whether this machine promises the recipe's exact music: the same kind of device and the same jax."""
    return (recipe["platform"], recipe["jax"]) == (jax.devices()[0].platform, jax.__version__)


def _fingerprint(params: Any) -> str:
    """A sha256 of all parameters and their names."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
