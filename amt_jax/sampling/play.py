"""Plays a model that amt_jax exported, without amt_jax: python play.py --help.

This file stands beside the model's others. It needs jax, numpy, safetensors and flatbuffers; for MIDI files, not token
ids alone, also miditok and symusic.

B batch   P prompt slots   S window slots   M output tokens   L vectors of width W a condition
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.flax import load_file


class Model:
    """An exported model.

    Args:
      folder: where manifest.json and all the rest is.

    Attributes:
      about: the manifest.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        weights = load_file(self.folder / "weights.safetensors")
        # Matrices in the type that products take them in.
        dtype = self.about["dtype"]
        self._weights = {name: x.astype(dtype) if x.ndim > 1 else x for name, x in weights.items()}
        self._programs: dict[str, Any] = {}

    def generate(self, count: int = 1, prompt: Sequence[int] = (), **asked: Any) -> Iterator[np.ndarray]:
        """Makes pieces of music.

        Args:
          count: how many; their seeds are `seed` and those after it.
          prompt: token ids to continue.
          asked: settings and conditions by name, see manifest.json and `value`.

        Yields:
          The token ids of each piece, those of the prompt first, [T] uint16. ValueError for what cannot be.
        """
        batch, widths, known = self.about["batch"], self.about["widths"], self.about["conditions"]
        size = len(self.about["vocabulary"]) + len(self.about["merges"])
        if count < 1:
            raise ValueError(f"count is at least 1, not {count}")
        if len(prompt) >= widths[-1]:
            raise ValueError(f"a prompt has at most {widths[-1] - 1} tokens, not {len(prompt)}")
        if not all(0 <= id < size for id in prompt):
            raise ValueError(f"a prompt is token ids below {size}")
        conditions = {name: np.stack([self.value(name, asked.pop(name, None))] * batch) for name in known}
        settings = self._settings(asked)
        seed = int(settings["seed"][0])
        width = next(each for each in widths if each > len(prompt))
        window = np.full((batch, width), self.about["pad"], np.int32)
        window[:, width - 1 - len(prompt) :] = [self.about["bos"], *prompt]
        for start in range(0, count, batch):
            rows = min(batch, count - start)
            # Rows that nobody asked for are the last one again.
            seeds = seed + start + np.minimum(np.arange(batch), rows - 1)
            settings["seed"] = (seeds % 2**32).astype(np.uint32)
            first = np.full(batch, width - 1 - len(prompt), np.int32)
            made = self._batch(settings, conditions, window, first)
            for ids in made[:rows]:
                new = ids[~np.isin(ids, (self.about["pad"], self.about["eos"]))]
                yield np.concatenate([prompt, new]).astype(np.uint16)

    def value(self, name: str, asked: Any) -> np.ndarray:
        """A condition as the model is told it: of a name, names with commas, a number, or what is one already; None.

        [L, W] float16
        """
        about = self.about["conditions"][name]
        length, width, values = about["length"], about["width"], about["values"]
        if isinstance(asked, np.ndarray):
            return asked.astype(np.float16).reshape(length, width)
        value, vector = np.zeros((length, width), np.float16), np.zeros(width)
        value[0, 0] = 1  # nothing is asked
        if asked is None:
            return value
        if about["kind"] == "text":
            raise ValueError(f"{name} has to be an array [{length}, {width}]: its encoder is not here")
        if about["kind"] == "scalar":
            place = np.interp(float(asked), about["knots"], np.arange(width - 1))
            vector[1:] = np.maximum(1 - np.abs(np.arange(width - 1) - place), 0)
        else:
            folded = [each.casefold() for each in values]
            for each in asked.split(",") if about["kind"] == "multi_label" else [asked]:
                if each.strip().casefold() not in folded:
                    raise ValueError(f"unknown {name} {each.strip()!r}; there are {', '.join(values)}")
                vector[1 + folded.index(each.strip().casefold())] = 1
            vector /= np.linalg.norm(vector)
        value[min(1, length - 1)] = vector  # after null's where there is room
        return value

    def _settings(self, asked: dict[str, Any]) -> dict[str, np.ndarray]:
        """All settings as the programs take them, [B] each."""
        limits, settings = self.about["settings"], {}
        for name in asked:
            if name not in limits:
                raise ValueError(f"unknown {name!r}; there are {', '.join([*limits, *self.about['conditions']])}")
        if asked.get("bars") and "seconds" not in asked:
            asked["seconds"] = limits["seconds"]["high"]
        for name, limit in limits.items():
            value, whole = asked.get(name, limit["default"]), isinstance(limit["default"], int)
            if not limit["low"] <= value <= limit["high"] or (whole and value != int(value)):
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{name} is {kind} from {limit['low']:g} to {limit['high']:.10g}, not {value}")
            kind = np.uint32 if name == "seed" else np.int32 if whole else np.float32
            settings[name] = np.full(self.about["batch"], value, kind)
        return settings

    def _batch(self, settings, conditions, window, first) -> np.ndarray:
        """New ids of a batch of pieces. [B, M]"""
        context, width = self.about["context"], window.shape[1]
        budget = _power_of_two(int(settings["max_tokens"].max()))
        prefill = self._program(f"prefill_{width}")
        plan, state = prefill(self._weights, settings, conditions, window, first)
        state["output"] = jnp.full((len(window), budget), self.about["pad"], jnp.int32)
        whole = min(context, _power_of_two(width + budget))
        state = _grow(state, max(min(self.about["smallest_window"], whole), 2 * width))
        while True:
            stop = min(int(state["count"]) + self.about["steps_a_dispatch"], budget)
            state = self._program("decode")(self._weights, plan, state, np.int32(stop))
            count, index, done = jax.device_get((state["count"], state["index"], state["done"]))
            if sys.stderr.isatty():
                print(f"\r{count} tokens", end="", file=sys.stderr, flush=True)
            if done.all() or count >= budget:
                return np.asarray(state["output"])[:, :count]
            if index == context:
                state = self._program("reopen")(self._weights, plan, state)
            elif index == state["window"].shape[1]:
                state = _grow(state, min(2 * int(index), context))

    def _program(self, name: str) -> Any:
        if name not in self._programs:
            program = jax.export.deserialize(bytearray((self.folder / f"{name}.jaxexport").read_bytes()))
            self._programs[name] = jax.jit(program.call, donate_argnums=(2,) if name == "decode" else ())
        return self._programs[name]

    def save_midi(self, ids: np.ndarray, path: str | Path) -> None:
        """Writes token ids as a MIDI file; ImportError without miditok and symusic."""
        import miditok

        vocabulary, merges = len(self.about["vocabulary"]), self.about["merges"]
        ids = [base for id in ids.tolist() for base in (merges[id - vocabulary] if id >= vocabulary else [id])]
        tokens = miditok.TokSequence(ids=[id for id in ids if id > self.about["eos"]])
        tokenizer = getattr(miditok, self.about["tokenization"])(params=self.folder / "tokenizer.json")
        tokenizer.decode(tokens if self.about["one_stream"] else [tokens]).sort().dump_midi(path)


def _grow(state: dict[str, jax.Array], slots: int) -> dict[str, jax.Array]:
    """The same state with room for so many tokens in its window."""
    more = slots - state["window"].shape[1]

    def pad(x):
        return jnp.pad(x, [(0, more if axis == 1 else 0) for axis in range(x.ndim)])

    return {name: pad(x) if name == "window" or name.startswith("cache.") else x for name, x in state.items()}


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def main() -> None:
    """Reads the flags, and plays."""
    folder = Path(__file__).parent
    about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="Makes music with the model in this folder.", allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the music")
    parser.add_argument("--count", type=int, default=1, help="how many pieces, with seeds from --seed on (default 1)")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="continue this .npy of token ids")
    for name, limit in about["settings"].items():
        kind, default = type(limit["default"]), limit["default"]
        parser.add_argument(f"--{name}", type=kind, help=f"{limit['help'].replace('%', '%%')} (default {default:g})")
    for name, condition in about["conditions"].items():
        if condition["kind"] == "scalar":
            parser.add_argument(f"--{name}", type=float, help="a number")
        elif condition["kind"] != "text":
            parser.add_argument(f"--{name}", help=", ".join(condition["values"]).replace("%", "%%"))
    asked = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    output, count = asked.pop("output"), asked.pop("count")
    try:
        prompt = np.load(asked.pop("prompt")) if "prompt" in asked else ()
        output.mkdir(parents=True, exist_ok=True)
        model, seed = Model(folder), asked.get("seed", 0)
        for number, ids in enumerate(model.generate(count, prompt, **asked)):
            path = output / f"seed-{(seed + number) % 2**32}.npy"
            while path.exists():  # other music stays
                path = path.with_stem(f"{path.stem}_")
            np.save(path, ids)
            try:
                model.save_midi(ids, path.with_suffix(".mid"))
                path = path.with_suffix(".mid")
            except ImportError:
                pass  # the ids are all there is then
            print(f"{path}  {len(ids)} tokens")
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")


if __name__ == "__main__":
    main()
