"""Eras: the composers of eras.toml, by whatever form of their names a file's artist has."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Composer:
    """A well-known composer: full name, era as an adjective, and the genre of vocabulary.toml that belongs to it."""

    name: str
    era: str
    genre: str

    @property
    def surname(self) -> str:
        """What one calls them: "van Beethoven" is Beethoven."""
        return self.name.split()[-1]


def find(artist: str) -> Composer | None:
    """The composer whom an artist's name means, None if it is nobody in the table or might be somebody else.

    "Bach", "J. S. Bach", "Bach, Johann Sebastian" and "johann_sebastian_bach" are one; "Randy Bach" is nobody.
    """
    family, comma, given = artist.partition(",")
    words = _words(f"{given} {family}" if comma else artist)
    if not words:
        return None
    for composer in _table().get(words[-1], ()):
        names = _words(composer.name)[:-1]
        # In their order, whole or as initials; particles such as "van" may be left out.
        left = iter(names)
        if all(any(name == word or (len(word) == 1 and name[0] == word) for name in left) for word in words[:-1]):
            return composer
    return None


def among(artists: Iterable[str]) -> dict[str, Composer]:
    """The composers among the artists of a collection, by the artists' names.

    A surname alone ("Field") may be a band's: it is a composer's where most artists may be composers.
    """
    artists = set(artists)
    found = {artist: composer for artist in artists if (composer := find(artist))}
    return {
        artist: composer
        for artist, composer in found.items()
        if len(_words(artist)) > 1 or 2 * len(found) > len(artists)
    }


@functools.cache
def _table() -> dict[str, list[Composer]]:
    eras = tomllib.loads((Path(__file__).parent / "eras.toml").read_text(encoding="utf-8"))
    table: dict[str, list[Composer]] = {}
    for era in eras.values():
        for name in era["composers"]:
            table.setdefault(_words(name)[-1], []).append(Composer(name, era["adjective"], era["genre"]))
    return table


def _words(name: str) -> list[str]:
    """Words in lower case without accents; a hyphenated surname stays one."""
    plain = unicodedata.normalize("NFKD", name.replace("_", " ")).encode("ascii", "ignore").decode().casefold()
    return re.findall(r"[a-z]+(?:-[a-z]+)*", plain)
