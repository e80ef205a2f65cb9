"""Prose: plain English text of a bounded length out of whatever was written."""

from __future__ import annotations

import re

from amt_jax.text.cleaning import clean
from amt_jax.text.understanding import understand_all

# A stop ends a sentence unless it belongs to an initial or a short title: J. S. Bach, No. 5, Op. 27, Dr. Dre, Vol. 2.
_SENTENCE = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)(?<!\b(?:Mrs|Vol)\.)(?<!\bfeat\.)(?<=[.!?])[\"')\]\u201d\u2019]*\s+"
)


def english(text: str, max_words: int) -> tuple[str, str]:
    """The English lines of `text`, cut after the last sentence that ends within `max_words`, or "" and why.

    Lines are cleaned and joined. A first sentence that is longer is cut after `max_words`.
    """
    lines = list(filter(None, map(clean, text.splitlines())))
    if not lines:
        return "", "no text"
    lines = [line for line in lines if any(map(str.isalpha, line))]
    if not lines:
        return "", "no letters"
    lines = [line for line, said in zip(lines, understand_all(lines), strict=True) if said.language == "en"]
    if not lines:
        return "", "not English"
    return _cut(" ".join(lines), max_words), ""


def _cut(text: str, max_words: int) -> str:
    if len(text.split()) <= max_words:
        return text
    end = 0
    for match in _SENTENCE.finditer(text):
        if len(text[: match.end()].split()) > max_words:
            break
        end = match.end()
    return text[:end].rstrip() or " ".join(text.split()[:max_words])
