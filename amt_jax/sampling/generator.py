"""Generator: a trained run that takes orders and makes pieces of music that carry what makes them again."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from amt_jax import __version__
from amt_jax.data.conditions import SEMANTIC, TEXT, Conditions
from amt_jax.errors import UserError
from amt_jax.model.params import fingerprint
from amt_jax.music import instruments, midi
from amt_jax.parallel.mesh import ONE_DEVICE, MeshConfig, local_mesh
from amt_jax.sampling import order as ordering
from amt_jax.sampling.order import Order
from amt_jax.sampling.request import Bucket, Request, Result
from amt_jax.sampling.sampler import Sampler
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.sampling.wish import Reader, Wish
from amt_jax.tokens.grammar import Grammar

if TYPE_CHECKING:
    from symusic import Score

    from amt_jax.training.run_folder import RunFolder

REPLAYABLE = "name a .mid file that amt_jax.generate made"
LONGEST_NAME = 80  # bytes of a file's name before its seed; file systems count bytes, and take 255


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece that was made.

    Attributes:
      name: for people.
      ids: all of its token ids, the prompt's first. [T] uint16
      prompt_length: how many of them are the prompt's.
      score: the music.
      recipe: what makes it again, json.
    """

    name: str
    ids: np.ndarray
    prompt_length: int
    score: Score
    recipe: Mapping[str, Any]

    @property
    def file_name(self) -> str:
        """The name, fit for a file."""
        asked, seed = self.name.rsplit(", ", 1)
        asked = asked.encode()[:LONGEST_NAME].decode(errors="ignore")
        name = f"{asked}_{seed}".replace(", ", "_").replace(" ", "-")
        return "".join(c if c.isalnum() or c in "-._" else "_" for c in name)

    def save(self, folder: Path) -> Path:
        """Writes `folder`/FILE_NAME.mid with the recipe in a text event, and its ids beside it as .npy.

        Other music of that name is left alone: the file then is FILE_NAME_2.mid and so on.
        """
        text = json.dumps(self.recipe)
        for number in itertools.count(1):
            path = folder / f"{self.file_name}{f'_{number}' if number > 1 else ''}.mid"
            if not path.exists() or _text(path) == text:
                break
        midi.save(self.score, path, text=text)
        np.save(path.with_suffix(".npy"), self.ids)
        return path


class Generator:
    """A trained run, ready to make music.

    Args:
      run: the run folder.
      step: which checkpoint: "best", "last" or a number.
      max_batch: pieces made together.
      mesh: the devices that share the work.
      weights: what to compute with, see `quantization.convert`.
      encoder: folder or name of its text encoder, if it lies elsewhere now.

    Attributes:
      card: the run's, with only those conditions that the model was trained with.
      config: of the network as it is computed with.
      weights: what it is computed with.
      wishes: what was understood of the texts of all orders so far, by `Order.asked`.
    """

    def __init__(
        self,
        run: RunFolder,
        step: str | int = "best",
        *,
        max_batch: int = 32,
        mesh: MeshConfig = ONE_DEVICE,
        weights: str = "auto",
        encoder: str | None = None,
    ):
        if max_batch < 1:
            raise UserError(f"max_batch is at least 1, not {max_batch}")
        card, self.tokenizer = run.card, run.tokenizer
        if self.tokenizer.spec != card.spec:
            raise UserError(f"run folder {run.path}: tokenizer.json and dataset.json do not belong together")
        devices = local_mesh(mesh, run.model_config)
        config, params = run.load_model(step, devices)
        self.checkpoint = fingerprint(params)
        lengths = {each.name: each.length for each in config.conditions}
        # Of all that its dataset tells of pieces, what this model was trained with. A text is also read for its token.
        known = {*lengths, *([TEXT] if SEMANTIC in lengths else [])}
        conditions = {name: each for name, each in card.conditions.items() if name in known}
        self.card = dataclasses.replace(card, conditions=conditions)
        self.conditions = Conditions({name: conditions[name] for name in lengths}, lengths)
        self.wishes: dict[str, Wish] = {}
        self.reader = Reader(run.text_path, self.card, "Program" in self.card.spec.ranges, encoder)
        grammar = Grammar.create(self.card.spec, self.tokenizer.names)
        self.sampler = Sampler(
            config, params, self.card.spec, grammar, max_batch=max_batch, mesh=devices, weights=weights
        )
        self.config = self.sampler.config
        self.weights = "int8" if self.config.quantized else self.config.dtype

    def orders(self, values: Mapping[str, Any]) -> list[Order]:
        """Orders for this run; see `order.make_orders` and, for those with a text, `wish.Reader.fulfil`."""
        return self._fulfilled(ordering.make_orders(self.card, self.tokenizer, values))

    def read_batch(self, path: str | os.PathLike, defaults: Mapping[str, Any]) -> list[Order]:
        """The orders of a batch file for this run; see `order.read_batch`."""
        return self._fulfilled(ordering.read_batch(self.card, self.tokenizer, path, defaults))

    def _fulfilled(self, orders: Sequence[Order]) -> list[Order]:
        found = [self.reader.fulfil(order) for order in orders]
        self.wishes |= {order.asked: wish for order, wish in found if wish}
        return ordering.guided([order for order, _ in found], set(self.conditions.lengths))

    def generate(
        self, orders: Sequence[Order], progress: Callable[[float], None] = lambda share: None
    ) -> Iterator[Piece]:
        """Makes pieces, batch by batch, in order; see `Sampler.generate` for `progress`."""
        requests = [self._request(order) for order in orders]
        for order, request, result in zip(orders, requests, self.sampler.generate(requests, progress), strict=True):
            recipe = {
                "amt_jax": __version__,
                "name": order.name,
                "checkpoint": self.checkpoint,
                "weights": self.weights,
                "settings": dataclasses.asdict(order.settings),
                "conditions": dict(order.conditions),
                "guide": dict(order.guide),
                "negative": order.negative,
                "instruments": list(order.instruments),
                "prompt": base64.b64encode(zlib.compress(order.prompt.astype("<u2").tobytes())).decode(),
                "bucket": dataclasses.asdict(result.bucket),
                "row": result.row,
                "platform": jax.devices()[0].platform,
                "jax": jax.__version__,
            }
            yield self._piece(recipe, request, result)

    def replay(self, path: Path) -> Piece:
        """Makes the piece of a generated MIDI file again, exactly so on the same platform.

        UserError if the file carries no recipe, or another checkpoint or other weights made it.
        """
        try:
            recipe = json.loads(midi.read_text(path) or "")
            settings = GenerationSettings(**recipe["settings"])
            bucket, row = Bucket(**recipe["bucket"]), int(recipe["row"])
            prompt = np.frombuffer(zlib.decompress(base64.b64decode(recipe["prompt"])), "<u2").astype(np.uint16)
            checkpoint, weights = recipe["checkpoint"], recipe["weights"]
            order = Order(
                settings,
                dict(recipe["conditions"]),
                prompt,
                guide=recipe["guide"],
                negative=recipe["negative"],
                instruments=tuple(recipe["instruments"]),
            )
        except midi.MidiError as error:
            why = error.reason if error.reason == midi.NOT_MIDI else error  # the parser's words help nobody here
            raise UserError(f"cannot replay {path}: {why}; {REPLAYABLE}") from None
        except (ValueError, KeyError, TypeError, zlib.error):
            raise UserError(f"cannot replay {path}: it carries no recipe of amt_jax; {REPLAYABLE}") from None
        if checkpoint != self.checkpoint:
            raise UserError(
                f"cannot replay {path}: checkpoint {checkpoint[:12]} made it, this is {self.checkpoint[:12]}; "
                "name the right --run and --checkpoint"
            )
        if weights != self.weights:
            raise UserError(
                f"cannot replay {path}: it was made in {weights}, not {self.weights}; add --weights={weights}"
            )
        request = self._request(order)
        return self._piece(recipe, request, self.sampler.replay(request, bucket, row))

    def _request(self, order: Order) -> Request:
        against = {}
        if order.negative:
            semantic = self.reader.read(order.negative).conditions.get(SEMANTIC)
            against = {TEXT: order.negative} if TEXT in self.conditions.lengths else {SEMANTIC: semantic}
        told = self._values(order.conditions)
        guides = [([name for name in names if name in told], scale) for names, scale in order.guides]
        return Request(
            order.settings,
            told,
            order.prompt,
            tuple(program for label in order.instruments for program in instruments.programs(label)) or None,
            [each for each in guides if each[0]],
            self._values(against),
        )

    def _values(self, asked: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What the model is told; a text that it only reads for its semantic token is not."""
        return {
            name: self.conditions.text(*self.reader.states(value))
            if name == TEXT
            else self.conditions.value(name, value)
            for name, value in asked.items()
            if name in self.conditions.lengths
        }

    def _piece(self, recipe: Mapping[str, Any], request: Request, result: Result) -> Piece:
        ids = np.concatenate([request.prompt, result.ids])
        return Piece(recipe["name"], ids, len(request.prompt), self.tokenizer.decode(ids), recipe)


def same_platform(recipe: Mapping[str, Any]) -> bool:
    """Whether this machine promises the recipe's exact music: the same kind of device and the same jax."""
    return (recipe["platform"], recipe["jax"]) == (jax.devices()[0].platform, jax.__version__)


def _text(path: Path) -> str | None:
    try:
        return midi.read_text(path)
    except midi.MidiError:
        return None
