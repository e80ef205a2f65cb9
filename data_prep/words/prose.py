"""Prose: plain English text of a bounded length out of whatever was written."""

from __future__ import annotations

import functools
import re
import unicodedata

# Languages that prose about music comes in. With all 140 of the model's, a short English line is called Mirandese or
# Naija; with these, the share that English gets was at least 0.03 on made English lines of 9 letters and more, and at
# most 0.02 on lines of the others (tests/data_prep/test_prose.py).
LANGUAGES = "ar cs da de el en es fi fr he hi hu id it ja ko la nl no pl pt ro ru sv tr uk vi zh"
MIN_ENGLISH = 0.025
MIN_LETTERS = 9  # A shorter line says too little to tell its language; only its script counts.

# A stop ends a sentence unless it belongs to an initial or a short title: J. S. Bach, No. 5, Op. 27, Dr. Dre, Vol. 2.
_SENTENCE = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)(?<!\b(?:Mrs|Vol)\.)(?<!\bfeat\.)(?<=[.!?])[\"')\]\u201d\u2019]*\s+"
)


def clean(text: str, max_words: int) -> tuple[str, str]:
    """The English lines of `text`, cut after the last sentence that ends within `max_words`, or "" and why.

    NFKC, control and format characters out, white space single, lines joined. A first sentence that is longer is cut
    after `max_words`.
    """
    lines = [" ".join(_readable(line).split()) for line in unicodedata.normalize("NFKC", text).splitlines()]
    if not any(lines):
        return "", "no text"
    lines = [line for line in lines if any(map(str.isalpha, line))]
    if not lines:
        return "", "no letters"
    lines = [line for line in lines if is_english(line)]
    if not lines:
        return "", "not English"
    return _cut(" ".join(lines), max_words), ""


def is_english(line: str) -> bool:
    """Whether a line can be English."""
    letters = [each for each in line if each.isalpha()]
    if sum(map(str.isascii, letters)) <= len(letters) / 2:
        return False
    return len(letters) < MIN_LETTERS or dict(_identifier().rank(line[:500]))["en"] >= MIN_ENGLISH


@functools.cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # half a second

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES.split())
    return identifier


def _readable(line: str) -> str:
    """Without control, format and private characters; tabs are spaces."""
    if line.isprintable():
        return line
    line = line.replace("\t", " ")
    return "".join(each for each in line if unicodedata.category(each)[0] != "C")


def _cut(text: str, max_words: int) -> str:
    if len(text.split()) <= max_words:
        return text
    end = 0
    for match in _SENTENCE.finditer(text):
        if len(text[: match.end()].split()) > max_words:
            break
        end = match.end()
    return text[:end].rstrip() or " ".join(text.split()[:max_words])
