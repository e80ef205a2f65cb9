"""The words of music: vocabulary.toml, the forms that its words take, and what a misspelt one stands for."""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amt_jax.music import instruments

GENRE, MOOD, INSTRUMENT = LABELS = ("GENRE", "MOOD", "INSTRUMENT")
LIKENESS, SHORTEST_MISSPELT = 0.83, 6  # of words that differ by a slip, 0..1; letters


@functools.cache
def tables() -> dict[str, dict[str, dict[str, Any]]]:
    """vocabulary.toml: table -> value -> its fields."""
    return tomllib.loads((Path(__file__).parent / "vocabulary.toml").read_text(encoding="utf-8"))


@functools.cache
def words(table: str) -> frozenset[str]:
    """The words of a table that is a list of them."""
    return frozenset(tables()[table]["words"])


def is_form(genre: str) -> bool:
    """Whether a piece can be one: a waltz or a fugue, not jazz."""
    return tables()["genres"].get(genre, {}).get("form", False)


def with_broader(genres: Iterable[str]) -> list[str]:
    """Genres and those that they always belong to: jig -> jig, folk. Unknown ones stay as they are."""
    table, found = tables()["genres"], list(genres)
    for genre in found:
        if (broader := table.get(genre, {}).get("broader")) and broader not in found:
            found.append(broader)
    return found


@functools.cache
def forms() -> dict[str, dict[str, str]]:
    """Label -> form (lower case) -> value."""
    table = tables()
    found: dict[str, dict[str, str]] = {label: {} for label in (*LABELS, "TEMPO", "DENSITY")}
    for genre, fields in table["genres"].items():
        for word in fields["words"]:
            found[GENRE] |= dict.fromkeys((word, _plural(word)), genre)
    found[GENRE] |= {_plural(genre): genre for genre in table["genres"]}
    found[GENRE] |= {genre: genre for genre in table["genres"]}
    for mood, fields in table["moods"].items():
        for word in (*fields["words"], mood):
            found[MOOD] |= dict.fromkeys((word, *_adverb_and_noun(word)), mood)
    for name in (*instruments.LABELS, *itertools.chain(*instruments.ALIASES.values()), *instruments.NAMES):
        if name not in words("unsaid") and not re.search(r"[(\d]", name):
            found[INSTRUMENT] |= dict.fromkeys((_plural(name), name), instruments.find(name))
    for value, fields in table["instruments"].items():
        for word in fields["words"]:
            found[INSTRUMENT] |= dict.fromkeys((word, _plural(word)), value)
    for label, classes in (("TEMPO", table["tempo"]), ("DENSITY", table["density"])):
        for value, fields in classes.items():
            if value != "moderate":  # by itself it may be of either
                found[label][value] = value
            found[label] |= dict.fromkeys(fields["words"], value)
    for label, name in (("NOT", "negation"), ("ABSENT", "absence"), ("", "ignored")):
        found[label] = dict.fromkeys(words(name), "")
    return found


def _plural(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", word) + "s"


def _adverb_and_noun(word: str) -> tuple[str, str]:
    """sad -> sadly, sadness."""
    if word.endswith("le"):
        return word[:-1] + "y", word + "ness"
    stem = word[:-1] + "i" if word.endswith("y") else word
    return stem + ("ally" if word.endswith("ic") else "ly"), stem + "ness"


@functools.lru_cache(65536)
def misspelt(word: str) -> tuple[tuple[str, str] | None, float]:
    """(label, value) of the form that a word seems to misspell, and how alike they are, 0..1."""
    from rapidfuzz import process
    from rapidfuzz.distance import DamerauLevenshtein

    table = _spellings().get(word[0] + word[-1], {})
    best = process.extractOne(
        word, table.keys(), scorer=DamerauLevenshtein.normalized_similarity, score_cutoff=LIKENESS
    )
    return (table[best[0]], best[1]) if best else (None, 0.0)


@functools.cache
def _spellings() -> dict[str, dict[str, tuple[str, str]]]:
    """First and last letter -> form of one long word -> label, value.

    Slips seldom touch the first and the last letter, other words of one stem differ in the last: recorded and
    recorder, American and Americana. So do not -ing, -ed and plurals, which are left out.
    """
    found = {
        form: (label, value)
        for label, table in ((GENRE, tables()["genres"]), (MOOD, tables()["moods"]))
        for value in table
        for form in (value, *table[value]["words"])
    }
    found |= {form: (INSTRUMENT, value) for form, value in forms()[INSTRUMENT].items()}
    spellings: dict[str, dict[str, tuple[str, str]]] = {}
    for form, meaning in found.items():
        if form.isalpha() and len(form) >= SHORTEST_MISSPELT and not form.endswith(("ing", "ed", "s")):
            spellings.setdefault(form[0] + form[-1], {})[form] = meaning
    return spellings
