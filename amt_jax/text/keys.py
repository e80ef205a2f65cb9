"""The key that a text names."""

from __future__ import annotations

import functools
import re

from amt_jax.text import vocabulary

_NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # as amt_jax.music.features spells them
_KEY = re.compile(r"(?<![\w#'])([A-Ga-g])(?:[ -]?(#|♯|♭|b|sharps?|flat))?[ -]?(major|minor|maj|min|dur|moll)\b", re.I)
# "in E flat", "key of G"; "in A Night at the Opera" names no key.
_TONIC = re.compile(r"\b(?:key of|in) ([A-G])(?:[ -]?(#|♯|♭|b|sharp|flat))?(?=$|[.,;!?)]| [a-z])")


def key_and_mode(text: str) -> tuple[str, str]:
    """("A minor", "minor"), ("A", "") or ("", "major"); "" for what is not named."""
    for match in _KEY.finditer(text):
        letter, accidental, mode = match.groups()
        before = text[: match.start()].rstrip().casefold()
        named = bool(re.search(r"\b(in|of|key|to|from|:)$", before))
        if letter in "aA" and not accidental:
            # "a minor key", "A major hit": the article.
            after = text[match.end() :]
            if re.match(r"[ -](key|mode|scale|tonality|mood|feel|chord)", after):
                continue
            starts = not before or before[-1] in ".!?"
            if not named and (letter == "a" or (starts and re.match(r" \w", after))):
                continue
        elif letter.islower() and not named and not accidental:
            continue
        mode = "minor" if mode.casefold() in ("minor", "min", "moll") else "major"
        return f"{_pitch_class(letter, accidental)} {mode}", mode
    match = _mode().search(text)
    mode = next(group for group in match.groups() if group).casefold() if match else ""
    if match := _TONIC.search(text):
        return _pitch_class(*match.groups()), mode
    return "", mode


def _pitch_class(letter: str, accidental: str | None) -> str:
    shift = {"#": 1, "♯": 1, "s": 1, "♭": -1, "b": -1, "f": -1}.get((accidental or " ")[0].casefold(), 0)
    return _KEYS[(_NOTES[letter.casefold()] + shift) % 12]


@functools.cache
def _mode() -> re.Pattern:
    """major or minor: before a word that has a mode, after "in", at the end of a phrase."""
    nouns = "key|mode|scale|tonality|chord|harmon|feel|sound|third|mood|piece|tune|song|melod"
    genres = "|".join(map(re.escape, vocabulary.forms()[vocabulary.GENRE]))
    return re.compile(
        rf"\b(major|minor)[ -](?:{nouns}|(?:{genres})\b)|\bin (?:a |the )?(major|minor)\b|\b(major|minor)(?:$|[.,;!?])",
        re.I,
    )
