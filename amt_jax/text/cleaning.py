"""Cleaning: one spelling for texts that say the same."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """One spelling a character (NFKC), nothing invisible, single spaces."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    if text.isprintable():
        return text
    return " ".join("".join(each for each in text if unicodedata.category(each)[0] != "C").split())
