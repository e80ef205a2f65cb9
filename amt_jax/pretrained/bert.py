"""BERT (Devlin et al. 2019), read from a checkpoint of the Hugging Face layout.

B batch   T tokens   N heads   D model
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from amt_jax.errors import UserError

FILES = ("config.json", "model.safetensors", "tokenizer*", "vocab.txt", "special_tokens_map.json", "1_Pooling/*")
_EXACT, _TANH = partial(jax.nn.gelu, approximate=False), partial(jax.nn.gelu, approximate=True)
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _EXACT,
    "gelu_python": _EXACT,
    "gelu_new": _TANH,
    "gelu_fast": _TANH,
    "gelu_pytorch_tanh": _TANH,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
# Module path -> name in a checkpoint.
_NAMES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "layers": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mix": "attention.output.dense",
    "mix_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "down_norm": "output.LayerNorm",
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
}
_FIRST_NAMES = {"gamma": "weight", "beta": "bias"}
# Heads that were trained on top, and a buffer that older versions saved: nothing an encoder needs.
_NOT_NEEDED = re.compile(r"pooler\.|cls\.|classifier\.|embeddings\.position_ids$")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """What config.json says of the network, by its own names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str
    layer_norm_eps: float

    @classmethod
    def load(cls, folder: Path) -> BertConfig:
        """Reads `folder`/config.json; UserError if it is missing, damaged or of another architecture."""
        path = folder / "config.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            config = cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})
        except OSError:
            raise UserError(
                f"no config.json in {str(folder)!r}: not a checkpoint; name a folder that holds one"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} does not describe a BERT ({error!r}); name a BERT checkpoint") from None
        if data.get("model_type") != "bert":
            raise UserError(f"{path} is of a {data.get('model_type')!r} model; only BERT's architecture can be read")
        if data.get("position_embedding_type", "absolute") != "absolute":
            raise UserError(f"{path} has {data['position_embedding_type']!r} positions; only absolute ones can be read")
        if config.hidden_act not in ACTIVATIONS:
            raise UserError(f"{path} has hidden_act {config.hidden_act!r}; known: {', '.join(ACTIVATIONS)}")
        return config


class Layer(nnx.Module):
    """Attention, then a feed-forward; each adds to its input and is normalised after."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        size = config.hidden_size
        self.num_heads, self.activation = config.num_attention_heads, ACTIVATIONS[config.hidden_act]
        self.query = nnx.Linear(size, size, rngs=rngs)
        self.key = nnx.Linear(size, size, rngs=rngs)
        self.value = nnx.Linear(size, size, rngs=rngs)
        self.mix = nnx.Linear(size, size, rngs=rngs)
        self.mix_norm = _norm(config, rngs)
        self.up = nnx.Linear(size, config.intermediate_size, rngs=rngs)
        self.down = nnx.Linear(config.intermediate_size, size, rngs=rngs)
        self.down_norm = _norm(config, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        heads = (*x.shape[:2], self.num_heads, -1)
        query, key, value = (layer(x).reshape(heads) for layer in (self.query, self.key, self.value))  # [B, T, N, H]
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None, :])
        x = self.mix_norm(x + self.mix(mixed.reshape(x.shape)))
        return self.down_norm(x + self.down(self.activation(self.up(x))))


class Bert(nnx.Module):
    """The encoder: ids and which of them are tokens -> a state a token. [B, T], [B, T] -> [B, T, D] float32"""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        size = config.hidden_size
        self.words = nnx.Embed(config.vocab_size, size, rngs=rngs)
        self.positions = nnx.Embed(config.max_position_embeddings, size, rngs=rngs)
        self.types = nnx.Embed(config.type_vocab_size, size, rngs=rngs)
        self.norm = _norm(config, rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)])

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.words(ids) + self.positions(jnp.arange(ids.shape[1])) + self.types(jnp.zeros_like(ids))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def _norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, E[x²] − E[x]², costs digits that the parity with torch needs.
    return nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs)


def load(folder: Path) -> Bert:
    """Reads a checkpoint's network as float32; UserError that names what is missing, unknown or of another shape."""
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    config, path = BertConfig.load(folder), folder / "model.safetensors"
    try:
        tensors = {_plain_name(name): tensor for name, tensor in load_file(path).items()}
    except FileNotFoundError:
        raise UserError(
            f"no model.safetensors in {str(folder)!r}; save the checkpoint as safetensors, in one file"
        ) from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from None
    graph, state = nnx.split(nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0))))
    wanted = {_checkpoint_name(where): (where, variable) for where, variable in nnx.to_flat_state(state)}
    missing = sorted(wanted.keys() - tensors.keys())
    unknown = sorted(name for name in tensors.keys() - wanted.keys() if not _NOT_NEEDED.match(name))
    if missing or unknown:
        found = [f"{kind} {_few(names)}" for kind, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise UserError(f"{path} does not fit its config.json: it {' and '.join(found)}; name a BERT checkpoint")
    filled = {}
    for name, (where, variable) in wanted.items():
        tensor = tensors[name].T if where[-1] == "kernel" else tensors[name]
        if tensor.shape != variable.shape:
            raise UserError(f"{path} does not fit its config.json: {name} is {tensors[name].shape}")
        filled[where] = variable.replace(tensor.astype(jnp.float32))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    # The first checkpoints, converted from TensorFlow, kept its names.
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda found: f"LayerNorm.{_FIRST_NAMES[found[1]]}", name)


def _checkpoint_name(path: tuple[Any, ...]) -> str:
    return ".".join(_NAMES.get(part, str(part)) for part in path)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def find_checkpoint(source: str) -> Path:
    """The folder of a checkpoint: a local one, or NAME or NAME@REVISION on the Hugging Face hub, downloaded once.

    UserError if there is no such folder or name, or it is not on this machine and cannot be downloaded.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise UserError(f"no folder {source!r}; name the folder of a checkpoint or its name on the Hugging Face hub")
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # whatever its HTTP library had to say
        reason = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        raise UserError(
            f"cannot get {source!r} from the Hugging Face hub ({reason}); check the name and the network, or copy the "
            f"checkpoint ({', '.join(FILES[:2])} and its tokenizer) into a folder and name that, or use tfidf"
        ) from error


def load_tokenizer(folder: Path, vocab_size: int) -> Any:
    """A checkpoint's tokenizer (transformers); UserError if there is none or it does not fit the network."""
    # Said whenever torch is missing, which is the case on purpose.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read the tokenizer in {str(folder)!r} ({reason}); copy its files there") from error
    # Without its files transformers makes up a tokenizer of five tokens. Some tables are padded to a round number.
    if not 0 <= vocab_size - len(tokenizer) < 128:
        raise UserError(
            f"the tokenizer in {str(folder)!r} has {len(tokenizer)} tokens, the network {vocab_size}; "
            "copy tokenizer.json or vocab.txt of this checkpoint there"
        )
    return tokenizer
