"""A model as a folder that plays without this package: weights as safetensors, programs by jax.export, play.py.

B batch   G guidance branches   P prompt slots   S window slots   M output tokens   V vocabulary
L vectors of width W a condition
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors.flax import save
from tqdm import tqdm

from amt_jax import __version__, storage
from amt_jax.data.card import Vocabulary
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model, fingerprint
from amt_jax.parallel.mesh import one_device
from amt_jax.sampling import decode as programs
from amt_jax.sampling.constraints import ENDLESS, Limits
from amt_jax.sampling.decode import DecodeState, Plan
from amt_jax.sampling.filters import Controls
from amt_jax.sampling.sampler import MAX_CANDIDATES, SMALLEST_WINDOW, STEPS_A_DISPATCH
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.grammar import DRUMS, Grammar
from amt_jax.tokens.symbolic import PRESETS, SymbolicTokenizer

PLAYER = "play.py"
README = """A music model, {checkpoint}, exported by amt_jax {amt_jax} for {platforms}.

    pip install "jax>={jax}" numpy safetensors flatbuffers  # jax[cuda13] or jax[tpu] for an accelerator
    pip install "miditok>=3.1,<3.2" "symusic>=0.6,<0.7"  # for MIDI files, not token ids alone
    python play.py --help
    python play.py --output=music --count=4 --seed=0 --seconds=40
    JAX_COMPILATION_CACHE_DIR=compiled python play.py --output=music    # compiles once, not each time

In Python:

    from play import Model
    model = Model(".")
    for ids in model.generate(count=4, seed=0, seconds=40.0):
        print(len(ids), ids[:8])

weights.safetensors: the weights. *.jaxexport: the programs. manifest.json: sizes, names, what programs take and give.
"""


def named(tree: Any) -> dict[str, Any]:
    """A tree's leaves by their places in it: "layers.0.attention.qkv.kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def unnamed(like: Any, leaves: Mapping[str, Any]) -> Any:
    """The inverse of `named`, for a tree like that one."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in named(like)])


def save_weights(folder: Path, config: TransformerConfig, params: Any, half: bool = False) -> str:
    """Writes parameters by name, with the network's config as json beside them; returns their fingerprint.

    They are float32 as in a run, or matrices are bfloat16 where `half` is enough.
    """
    digest = fingerprint(params)
    about = {"amt_jax": __version__, "config": json.dumps(dataclasses.asdict(config)), "fingerprint": digest}
    weights = {name: x.astype("bfloat16") if half and x.ndim > 1 else x for name, x in named(params).items()}
    (folder / "weights.safetensors").write_bytes(save(weights, about))
    return digest


def save_programs(
    folder: Path,
    config: TransformerConfig,
    tokenizer: SymbolicTokenizer,
    vocabularies: Mapping[str, Vocabulary],
    checkpoint: str,
    *,
    batch: int,
    guided: bool,
    platforms: Sequence[str],
) -> None:
    """Writes all that plays a model but its weights.

    Args:
      folder: where to.
      config: its network.
      tokenizer: its vocabulary, one of MidiTok's.
      vocabularies: of its conditions, by name.
      checkpoint: the fingerprint of its weights.
      batch: B.
      guided: whether it can play with guidance, which doubles the work.
      platforms: where it shall play: cpu, cuda, rocm, tpu.
    """
    spec, model = tokenizer.spec, Programs(config, tokenizer, batch, guided)
    signatures = {}
    for name, program in tqdm(model.export(platforms), total=len(model.widths) + 2, desc="programs", leave=False):
        (folder / f"{name}.jaxexport").write_bytes(program.serialize())
        (_, *takes), _ = jax.tree.unflatten(program.in_tree, map(str, program.in_avals))
        gives = jax.tree.unflatten(program.out_tree, map(str, program.out_avals))
        signatures[name] = {"takes": ["the weights", *takes], "gives": gives}
    conditions = {
        each.name: {
            **{name: getattr(vocabularies[each.name], name) for name in ("kind", "values", "knots")},
            "length": each.length,
            "width": each.width,
        }
        for each in config.conditions
    }
    about = {
        "amt_jax": __version__,
        "jax": jax.__version__,
        "checkpoint": checkpoint,
        "platforms": list(platforms),
        "batch": batch,
        "dtype": config.dtype,
        "context": config.context_length,
        "widths": model.widths,
        "smallest_window": SMALLEST_WINDOW,
        "steps_a_dispatch": STEPS_A_DISPATCH,
        "pad": spec.pad,
        "bos": spec.bos,
        "eos": spec.eos,
        "tokenization": PRESETS[tokenizer.name].tokenization,
        "one_stream": PRESETS[tokenizer.name].programs,
        "settings": model.settings,
        "conditions": conditions,
        "programs": signatures,
        "vocabulary": tokenizer.names,
        "merges": spec.merges,
    }
    tokenizer.save(folder)
    shutil.copyfile(Path(__file__).with_name(PLAYER), folder / PLAYER)
    storage.write_text(folder / "manifest.json", json.dumps(about, indent=1) + "\n")
    shown = about | {"checkpoint": checkpoint[:12], "platforms": ", ".join(platforms)}
    storage.write_text(folder / "README.txt", README.format_map(shown))


class Programs:
    """The sampler's programs with all sizes but the window's and the output's fixed; trees are dicts by name.

    So any jax can read what they take and give, without the types of this package.

    Args:
      config: the network.
      tokenizer: the vocabulary.
      batch: B.
      guided: G is 2, nothing asked and what is asked.

    Attributes:
      widths: of prompts, BOS included, as the sampler chooses them.
      settings: name -> default and limits, of those that the programs know.
    """

    def __init__(self, config: TransformerConfig, tokenizer: SymbolicTokenizer, batch: int, guided: bool):
        self.config, self.batch, self.branches = config, batch, 1 + guided
        self.spec, self.grammar = tokenizer.spec, Grammar.create(tokenizer.spec, tokenizer.names)
        self.mesh, model = one_device(), abstract_model(config)
        self.graph, self.params = model.graph, model.shapes
        self.candidates = min(MAX_CANDIDATES, self.spec.vocab_size)
        half = config.context_length // 2
        self.widths = [1, *(1 << power for power in range(5, half.bit_length()) if 1 << power < half), half]
        self.settings = {
            field.name: {"default": field.default, **field.metadata}
            for field in dataclasses.fields(GenerationSettings)
            if field.name != "polyphony" and (field.name != "guidance" or guided)
        }
        self.settings["top_k"] |= {"low": 1, "high": self.candidates, "help": "sample among the k likeliest tokens"}
        self.plan, self.state = jax.eval_shape(self.start, *self.prompts(1))

    def export(self, platforms: Sequence[str]) -> Iterator[tuple[str, jax.export.Exported]]:
        """All programs by their names, for these platforms."""

        def export(function, *shapes):
            return jax.export.export(jax.jit(function), platforms=platforms)(*shapes)

        for width in self.widths:
            yield f"prefill_{width}", export(self.prefill, *self.prompts(width))
        slots, budget = jax.export.symbolic_shape("slots, budget")
        weights, plan, stop = self.weights(), named(self.plan), _shape("int32")
        yield "decode", export(self.decode, weights, plan, self.window(slots, budget), stop)
        yield "reopen", export(self.reopen, weights, plan, self.window(self.config.context_length, budget))

    def prefill(self, weights, settings, conditions, window, first):
        """The plan of a batch and its state after its prompts [B, P], which begin with BOS at slots `first`."""
        plan, state = map(named, self.start(weights, settings, conditions, window, first))
        del state["output"]  # the caller's, who knows how long it will be
        return plan, state

    def decode(self, weights, plan, state, stop):
        """See decode.decode."""
        args = unnamed(self.params, weights), unnamed(self.plan, plan), unnamed(self.state, state), stop
        static = {"candidates": self.candidates, "pad": self.spec.pad, "mesh": self.mesh}
        return named(programs.decode(self.graph, *args, grammar=self.grammar, **static))

    def reopen(self, weights, plan, state):
        """Makes the newer half of a full window the prompt of the next."""
        plan, state = unnamed(self.plan, plan), unnamed(self.state, state)
        context = self.config.context_length
        keep = context // 2
        window, first = state.window[:, -keep:], jnp.maximum(state.first - (context - keep), 0)
        cache, logits, heard = self.open(weights, plan.conditions, window, first, context)
        window = jnp.pad(window, ((0, 0), (0, context - keep)), constant_values=self.spec.pad)
        opened = {"cache": cache, "logits": logits, "heard": heard}
        return named(state._replace(**opened, window=window, index=jnp.int32(keep), first=first))

    def start(self, weights, settings, conditions, window, first) -> tuple[Plan, DecodeState]:
        width = window.shape[1]
        clock = self.grammar.start((self.batch,), jnp)
        clock, _ = jax.lax.scan(lambda clock, id: (self.grammar.advance(clock, id, jnp), None), clock, window.T)
        begin_bar = jnp.maximum(clock.bar, 0) + (first < width - 1)  # a bar that a prompt has begun is not new
        plan = Plan(
            controls=Controls(*(settings[name] for name in Controls._fields)),
            scales=settings["guidance"][None] if self.branches > 1 else jnp.zeros((0, self.batch)),
            conditions={each.name: self.told(each.null(), conditions[each.name]) for each in self.config.conditions},
            max_tokens=settings["max_tokens"],
            limits=Limits(
                begin=clock.seconds,
                end=clock.seconds + settings["seconds"],
                begin_bar=begin_bar,
                end_bar=begin_bar + jnp.where(settings["bars"] == 0, ENDLESS, settings["bars"]),
                playable=jnp.tile(self.grammar.playable(range(DRUMS + 1)), (self.batch, 1)),
            ),
        )
        cache, logits, heard = self.open(weights, plan.conditions, window, first, width)
        seen = jnp.zeros((self.batch, self.spec.vocab_size), bool).at[jnp.arange(self.batch)[:, None], window].set(True)
        return plan, DecodeState(
            cache=cache,
            logits=logits,
            window=window,
            index=jnp.int32(width),
            first=first,
            output=jnp.zeros((self.batch, 0), jnp.int32),
            count=jnp.int32(0),
            done=jnp.zeros(self.batch, bool),
            seen=seen.at[:, (self.spec.pad, self.spec.bos)].set(False),
            clock=clock._replace(ends=clock.ends[:, :0]),  # polyphony is not limited
            heard=heard,
        )

    def open(self, weights, conditions, window, first, slots):
        params = unnamed(self.params, weights)
        return programs.prefill(self.graph, params, conditions, window, first, slots=slots, mesh=self.mesh)

    def told(self, null, values):
        """What the branches are told. [B, L, W] -> [B · G, 1, L, W]"""
        branches = [jnp.broadcast_to(null, values.shape), values][-self.branches :]
        return jnp.stack(branches, axis=1).reshape(-1, 1, *null.shape)

    def weights(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Matrices in the type that products take anyway, as in the sampler."""
        return {
            name: _shape(self.config.dtype if len(each.shape) > 1 else each.dtype, *each.shape)
            for name, each in named(self.params).items()
        }

    def prompts(self, width: int) -> tuple:
        """What `prefill` takes for prompts of so many slots."""
        kinds = {name: "float32" if type(each["default"]) is float else "int32" for name, each in self.settings.items()}
        settings = {name: _shape(kind, self.batch) for name, kind in (kinds | {"seed": "uint32"}).items()}
        nulls = {each.name: each.null() for each in self.config.conditions}
        conditions = {name: _shape(null.dtype, self.batch, *null.shape) for name, null in nulls.items()}
        return self.weights(), settings, conditions, _shape("int32", self.batch, width), _shape("int32", self.batch)

    def window(self, slots, budget) -> dict[str, jax.ShapeDtypeStruct]:
        """A state with so many slots and room for so many tokens."""

        def resized(name, x):
            if name.startswith("cache."):
                return _shape(x.dtype, x.shape[0], self.config.prefix_slots + slots, *x.shape[2:])
            size = {"window": slots, "output": budget}.get(name)
            return x if size is None else _shape(x.dtype, self.batch, size)

        return {name: resized(name, x) for name, x in named(self.state).items()}


def _shape(dtype, *sizes) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)
