"""A BERT as a text encoder: tokenized, sorted into few shapes, run on the device there is."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from amt_jax.errors import UserError
from amt_jax.pretrained import bert
from amt_jax.text.cleaning import clean
from amt_jax.text.encoder import LENGTH, Encoder

ROWS = (1, 8, 64)  # texts a call; a single one is what generation asks for
STEP = 8  # a text is padded to a multiple of it


class BertEncoder(Encoder):
    """The last hidden states of a checkpoint."""

    kind = "bert"

    def __init__(self, source: str, *, pooling: str | None = None, length: int = LENGTH, tokenizer: str | None = None):
        """`source` is a folder or a hub name; `pooling` what the checkpoint says, else mean, if it is left out.

        `tokenizer="tf_text"` takes tensorflow-text's, which is faster on many texts and gives the same ids.
        """
        try:
            folder = bert.find_checkpoint(source)
            model, config = bert.load(folder), bert.BertConfig.load(folder)
            reference = bert.load_tokenizer(folder, config.vocab_size)
        except ImportError as error:
            raise UserError(f"reading a BERT needs {error.name}: pip install 'amt_jax[words]'") from None
        if not 2 < length <= config.max_position_embeddings:
            raise UserError(f"--max-tokens={length}: {source!r} reads 3 to {config.max_position_embeddings} tokens")
        self.name = str(folder.resolve()) if folder == Path(source).expanduser() else source
        self.pooling = pooling or _pooling(folder)
        self.length, self.width = length, config.hidden_size
        self._reference = reference
        self._tokenize: Callable[[Sequence[str]], list[list[int]]] = functools.partial(_tokenize, reference, length)
        if tokenizer == "tf_text":
            from amt_jax.text.tf_text import TfTextTokenizer

            self._tokenize = TfTextTokenizer(reference, self._tokenize, length)
        self._content = {
            "weights": _sha256(folder / "model.safetensors"),
            "vocabulary": hashlib.sha256(json.dumps(reference.get_vocab(), sort_keys=True).encode()).hexdigest(),
            "config": dataclasses.asdict(config),
            "casefold": bool(getattr(reference, "do_lower_case", False)),
        }
        graph, self._state = nnx.split(model)
        self._run = jax.jit(lambda state, ids, mask: nnx.merge(graph, state)(ids, mask))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of clean texts, between the two specials, at most `length` of them."""
        return self._tokenize(texts)

    def words_read(self, text: str) -> int:
        words = clean(text).split()

        def tokens(first: int) -> int:
            return len(_tokenize(self._reference, self.length + 1, [" ".join(words[:first])])[0])

        return bisect.bisect_right(range(1, len(words) + 1), self.length, key=tokens)

    def encode_unique(self, texts: Sequence[str]) -> list[np.ndarray]:
        ids = self.tokenize(texts)
        buckets: dict[int, list[int]] = {}
        for row, each in enumerate(ids):
            buckets.setdefault(min(-(-len(each) // STEP) * STEP, self.length), []).append(row)
        found: dict[int, np.ndarray] = {}
        for width, members in sorted(buckets.items()):
            for start in range(0, len(members), ROWS[-1]):
                chosen = members[start : start + ROWS[-1]]
                rows = next(rows for rows in ROWS if rows >= len(chosen))
                padded, mask = np.zeros((rows, width), np.int32), np.zeros((rows, width), bool)
                for place, row in enumerate(chosen):
                    padded[place, : len(ids[row])] = ids[row]
                    mask[place, : len(ids[row])] = True
                # Accelerators would round the factors of float32 products to fewer digits.
                with jax.default_matmul_precision("highest"):
                    states = np.asarray(self._run(self._state, padded, mask))
                found |= {row: states[place, : len(ids[row])] for place, row in enumerate(chosen)}
        return [found[row] for row in range(len(ids))]

    def content(self) -> Mapping[str, Any]:
        return self._content


def _tokenize(tokenizer: Any, length: int, texts: Sequence[str]) -> list[list[int]]:
    """`split_special_tokens`: a text that holds "[SEP]" is a text."""
    return tokenizer(list(texts), truncation=True, max_length=length, split_special_tokens=True)["input_ids"]


def _pooling(folder: Path) -> str:
    """What the checkpoint says in the way of sentence-transformers, the mean if it says nothing."""
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean"
    modes = json.loads(path.read_text(encoding="utf-8"))
    for pooling, mode in (("cls", "pooling_mode_cls_token"), ("mean", "pooling_mode_mean_tokens")):
        if modes.get(mode):
            return pooling
    raise UserError(f"{path} names a pooling that is not known here; choose --pooling=mean or --pooling=cls")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
