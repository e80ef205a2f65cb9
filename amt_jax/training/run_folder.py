"""RunFolder: everything a training run left, enough to generate and to resume."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from etils import epath
from jax.sharding import Mesh

from amt_jax import __version__, storage
from amt_jax.data import card as cards
from amt_jax.data.cache import folder_for
from amt_jax.data.card import Card
from amt_jax.data.conditions import TEXT
from amt_jax.errors import UserError
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, tempered
from amt_jax.parallel.mesh import one_device, parameter_shardings
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.config import TrainConfig, transformer_config

if TYPE_CHECKING:
    from amt_jax.tokens.tokenizer import Tokenizer

VERSION = 6  # 1 had the columns of queries, keys and values in another order, 3 a yes or no for model.remat,
# 4 no optimizer.name, model.clock, model.history, augmentation.transposed,
# 5 a number for model.history, and no calibrate
TOKENIZER = "tokenizer.json"
TEXT_FILES = ("encoder.json", "clusters.json", "captions.jsonl", "pooled.npy")


class RunFolder:
    """A run folder: config.json, dataset.json, tokenizer.json, checkpoints/, metrics.jsonl, tensorboard/, profile/.

    It is on this machine or in an object store; UserError if that cannot be reached.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = storage.open_folder(path)

    def exists(self) -> bool:
        return (self.path / "config.json").exists()

    def create(self, config: TrainConfig, card: Card) -> None:
        """Makes the folder or renews one without checkpoints; UserError if it holds something else."""
        if self.path.exists() and not self.exists() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and no run folder; name another with --run")
        tokenizer = storage.open_folder(config.dataset) / TOKENIZER
        if not tokenizer.exists():
            raise UserError(
                f"dataset {config.dataset} has no {TOKENIZER}; copy it there, or prepare the dataset in a new folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        (self.path / TOKENIZER).write_bytes(tokenizer.read_bytes())
        card.save(self.path)
        if TEXT in card.conditions:
            _copy_texts(storage.open_folder(config.dataset) / TEXT, self.path / TEXT)
        self.metrics_path.unlink(missing_ok=True)
        epath.Path(self.tensorboard_path).rmtree(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other trainings out of the folder, which it makes if need be; UserError if one is at work.

        Object stores have no locks that end with their process, so there it keeps nobody out.
        """
        if storage.is_remote(self.path):
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if jax.process_index() != 0:
            yield
            return
        try:
            with storage.lock(self.path, wait=False):
                yield
        except BlockingIOError:
            raise UserError(f"another training is at work in {self.path}; name another --run") from None
        finally:
            with contextlib.suppress(OSError):
                self.path.rmdir()  # if nothing came of it

    def write_config(self, config: TrainConfig) -> None:
        data = {"version": VERSION, "amt_jax": __version__, "config": config.to_json()}
        storage.write_text(self.path / "config.json", json.dumps(data, indent=1) + "\n")

    def config_json(self) -> dict[str, Any]:
        """The config as saved, unchecked; UserError if there is none, or it is damaged or newer."""
        path = self.path / "config.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version, config = data["version"], data["config"]
            if version == 3:
                config["model"]["remat"] = "full" if config["model"]["remat"] else "none"
            if version < 5:
                config["model"] |= {"clock": "tokens", "history": ()}
                config["optimizer"]["name"] = "adamw"
                config["augmentation"]["transposed"] = 1.0
            if version == 5:
                config["model"]["history"] = tuple(range(1, 1 + config["model"]["history"]))
                if not config["model"].get("relative"):  # else it stays, as a field that is not known any more
                    config["model"].pop("relative", None)
            if version < 6:
                config["calibrate"] = False
        except FileNotFoundError:
            raise UserError(
                f"no run in {str(self.path)!r}; make one with python -m amt_jax.train --run={self.path}"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r})") from None
        if version > VERSION:
            raise UserError(f"{path} has version {version}, this program knows {VERSION}; update amt_jax")
        if version < 3:
            raise UserError(f"{path} is of an older amt_jax, whose network was laid out otherwise; train it again")
        return config

    @functools.cached_property
    def config(self) -> TrainConfig:
        return TrainConfig.from_json(self.config_json())

    @functools.cached_property
    def card(self) -> Card:
        self.config_json()  # says so if there is no run at all
        if not (self.path / cards.FILE).exists():
            raise UserError(f"run folder {self.path} has no {cards.FILE}; copy it there from its dataset")
        return Card.load(self.path)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        from amt_jax.tokens import tokenizer  # symusic takes a while to import

        self.config_json()  # says so if there is no run at all
        if not (self.path / TOKENIZER).exists():
            raise UserError(f"run folder {self.path} has no {TOKENIZER}; copy it there from its dataset")
        if not storage.is_remote(self.path):
            return tokenizer.load(self.path)
        with tempfile.TemporaryDirectory() as here:  # MidiTok reads nothing but local files
            (Path(here) / TOKENIZER).write_bytes((self.path / TOKENIZER).read_bytes())
            return tokenizer.load(here)

    @functools.cached_property
    def text_path(self) -> Path:
        """What of the dataset's texts is needed to understand others: their encoder, their clusters, the captions.

        Of a run in an object store it is a copy on this machine.
        """
        if not storage.is_remote(self.path):
            return self.path / TEXT
        copy = folder_for("texts", os.fspath(self.path))
        copy.mkdir(parents=True, exist_ok=True)
        with storage.lock(copy, wait=True):
            _copy_texts(self.path / TEXT, copy)
        return copy

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard_path(self) -> Path:
        return self.path / "tensorboard"

    @property
    def profile_path(self) -> Path:
        return self.path / "profile"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @functools.cached_property
    def model_config(self) -> TransformerConfig:
        return transformer_config(self.config, self.card)

    def load_model(self, step: str | int = "best", mesh: Mesh | None = None) -> tuple[TransformerConfig, Any]:
        """A checkpoint's network and parameters.

        Args:
          step: "best" (lowest validation loss), "last", or a step.
          mesh: the devices to spread them over, this process's first if not given.

        Returns:
          The network's config and its parameters (their average if the run keeps one, calibrated if its config says
          so), a nested dict of float32.
          UserError if there is no such checkpoint.
        """
        config = self.model_config
        missing = UserError(
            f"run {self.path} has no checkpoint yet; python -m amt_jax.train --run={self.path} makes one"
        )
        if not self.checkpoints_path.exists():
            raise missing
        checkpoints = Checkpoints(self.checkpoints_path)
        try:
            steps = sorted(checkpoints.steps)
            if not steps:
                raise missing
            chosen = {"best": checkpoints.best, "last": checkpoints.latest}.get(str(step), step)
            if str(chosen) not in map(str, steps):
                raise UserError(
                    f"run {self.path} has no checkpoint {step!r}; it has best, last, {', '.join(map(str, steps))}"
                )
            model = abstract_model(config)
            like = jax.tree.map(
                lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
                model.shapes,
                parameter_shardings(mesh or one_device(), model.axes),
            )
            params = checkpoints.load_params(int(chosen), like, averaged=self.config.ema > 0)
            validated = checkpoints.validated.get(int(chosen))
            return config, params if validated is None else tempered(params, validated.temperature)
        finally:
            checkpoints.close()


def _copy_texts(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in TEXT_FILES:
        if (source / name).exists():
            (target / name).write_bytes((source / name).read_bytes())
