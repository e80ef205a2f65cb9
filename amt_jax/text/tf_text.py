"""Bulk tokenization by tensorflow-text: the ids of a checkpoint's own tokenizer, faster on many texts.

The only module that imports TensorFlow, which takes seconds and gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amt_jax.errors import UserError


class TfTextTokenizer:
    """Clean texts -> their ids between the two specials, at most `length` of them."""

    def __init__(self, reference: Any, slow: Callable[[Sequence[str]], list[list[int]]], length: int):
        """`slow` tokenizes what is not ASCII: there the two libraries know different versions of Unicode.

        `reference` is the checkpoint's tokenizer of transformers; UserError if it is not BERT's word pieces, or
        tensorflow-text is not there.
        """
        vocabulary = sorted(reference.get_vocab(), key=reference.get_vocab().get)
        if type(reference).__name__ != "BertTokenizer" or reference.get_vocab()[vocabulary[-1]] != len(vocabulary) - 1:
            raise UserError("--tokenizer=tf_text reads BERT's word pieces only, not this checkpoint's; leave it out")
        try:
            import tensorflow_text
        except ImportError as error:
            raise UserError(f"--tokenizer=tf_text: {error}; pip install 'amt_jax[text]', or leave it out") from error
        self._slow, self._length = slow, length
        self._specials = reference.cls_token_id, reference.sep_token_id
        self._tokenizer = tensorflow_text.FastBertTokenizer(
            vocab=vocabulary,
            unknown_token=reference.unk_token,
            lower_case_nfd_strip_accents=reference.do_lower_case,
        )

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        first, last = self._specials
        plain = [text for text in texts if text.isascii()]
        other = [text for text in texts if not text.isascii()]
        ids = self._tokenizer.tokenize(plain).merge_dims(1, -1)[:, : self._length - 2].to_list() if plain else ()
        fast, slow = iter(ids), iter(self._slow(other) if other else ())
        return [[first, *next(fast), last] if text.isascii() else next(slow) for text in texts]
