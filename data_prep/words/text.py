"""Text: words about one piece of music, and where they come from."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Text:
    """Words about one piece.

    Attributes:
      source: wikipedia, fma or captions.
      revision: which version of the page at `url`; 0 if it has none.
      confidence: 0 to 1, how sure it is that the words are about this title by this artist.
      duration: seconds.
      path: the MIDI file they belong to, where the source names one; relative to the folder of MIDI files.
    """

    title: str
    artist: str
    text: str
    source: str
    url: str = ""
    revision: int = 0
    licence: str = ""
    confidence: float = 1.0
    genre: tuple[str, ...] = ()
    bpm: float | None = None
    duration: float | None = None
    path: str = ""

    @property
    def sort_key(self) -> tuple[str, ...]:
        return self.path, self.artist, self.title, self.source, self.text

    def to_json(self) -> str:
        """One line; genre, bpm, duration and path only where they are known."""
        optional = {"genre", "bpm", "duration", "path"}
        fields = dataclasses.asdict(self).items()
        return json.dumps({name: each for name, each in fields if each or name not in optional}, ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class Missing:
    """A title without words, and why.

    Attributes:
      reason: one of few short phrases, for counting.
      path: the MIDI file, where the source names one.
    """

    source: str
    title: str
    artist: str
    reason: str
    details: str = ""
    path: str = ""

    def to_json(self) -> str:
        """One line; path only where it is known."""
        fields = dataclasses.asdict(self).items()
        return json.dumps({name: each for name, each in fields if each or name != "path"}, ensure_ascii=False)
