"""Wish: what a person asks for in words, as far as it was understood, and what follows from it for an order."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amt_jax.data.captions import read_captions
from amt_jax.data.card import Card
from amt_jax.data.conditions import SEMANTIC, TEXT
from amt_jax.errors import UserError
from amt_jax.music import instruments
from amt_jax.sampling.order import INSTRUMENTS, Order
from amt_jax.text import understanding, vocabulary
from amt_jax.text.cleaning import clean
from amt_jax.text.clusters import Clusters, normalise
from amt_jax.text.encoder import load_encoder

if TYPE_CHECKING:
    from amt_jax.text.encoder import Encoder
    from amt_jax.text.understanding import Understanding

NEAREST = 3
SHOWN = 200  # characters of a text
LABELS = {"genre": vocabulary.GENRE, "mood": vocabulary.MOOD, INSTRUMENTS: vocabulary.INSTRUMENT}


@dataclasses.dataclass(frozen=True)
class Wish:
    """A text and what is made of it.

    Attributes:
      understanding: what it says.
      nearest: captions of the training data that are most like it, with their similarity (cosine).
      unheard: what it names of genres, moods and instruments that no training text has.
      unknown: its keywords that are no words of music known here, and that no training text has either.
      known: the encoder knows a word of it.
      words: that it has.
      words_read: of these by the encoder, from the first on.
      conditions: what else the model is told: condition -> value; of an order, with what was said apart from the text.
      excluded: instruments that it says not to have, if the order does not name those that may sound.
    """

    understanding: Understanding
    nearest: tuple[tuple[str, float], ...]
    unheard: tuple[str, ...]
    unknown: tuple[str, ...]
    known: bool
    words: int
    words_read: int
    conditions: dict[str, Any]
    excluded: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        found = self.understanding
        lines = [f'text: "{_short(found.text)}"', f"keywords: {', '.join(found.keywords) or 'none'}"]
        for name, label in LABELS.items():
            named = [
                f"{'no ' if each.negated else ''}{each.value} ({each.confidence:.2f})"
                for each in found.entities
                if each.label == label
            ]
            if named:
                lines.append(f"{name}: {', '.join(named)}")
        if found.values(vocabulary.MOOD):
            lines.append(f"emotion: valence {found.valence:+.2f}, arousal {found.arousal:+.2f}")
        facts = {
            "tempo": f"{found.bpm:g} BPM" if found.bpm else found.tempo,
            "key": found.key or found.mode,
            "density": found.density,
        }
        lines += [f"{name}: {value}" for name, value in facts.items() if value]
        lines += self._notes("led by")
        lines += [f"like the training text ({likeness:.2f}): {text}" for text, likeness in self.nearest]
        told = {name: value for name, value in self.conditions.items() if name != SEMANTIC}
        if told:
            lines.append(
                "told to the model besides the text: " + "; ".join(f"{k} {_shown(v)}" for k, v in told.items())
            )
        if SEMANTIC in self.conditions:
            lines.append(f"semantic token: {self.conditions[SEMANTIC]}")
        if self.excluded:
            lines.append(f"kept out: {', '.join(self.excluded)}")
        return lines

    def lines_against(self) -> list[str]:
        """For people, of a text that the music is led away from."""
        keywords = ", ".join(self.understanding.keywords) or "none"
        return [
            f'led away from: "{_short(self.understanding.text)}" (keywords: {keywords})',
            *self._notes("led away from"),
        ]

    def _notes(self, led: str) -> list[str]:
        """What the model makes nothing of, by what it would else be: led by these words or led away from them."""
        notes, language = [], self.understanding.language
        if language not in ("en", ""):
            notes.append(f"note: this seems to be in another language ({language}); only English is understood")
        elif not self.known:
            notes.append(f"note: the model's text encoder knows none of these words; the music is not {led} them")
        if self.words_read < self.words:
            notes.append(
                f"note: the model's text encoder reads the first {self.words_read} of {self.words} words; the music is "
                f"not {led} the others"
            )
        if self.unknown and self.known:
            notes.append(f"note: not understood: {', '.join(self.unknown)}")
        if self.unheard and self.known:
            notes.append(f"note: in no text that the model was trained with: {', '.join(self.unheard)}")
        return notes


class Reader:
    """Reads wishes for one run.

    Args:
      folder: the run's folder of texts: the encoder, clusters, and the captions it was trained with.
      card: what the model's conditions are called.
      has_programs: whether its vocabulary has instruments.
      encoder: folder or name of the text encoder, if it lies elsewhere than where it was trained with.
    """

    def __init__(self, folder: Path, card: Card, has_programs: bool, encoder: str | None = None):
        self._folder, self._card, self._has_programs, self._source = folder, card, has_programs, encoder
        self._states: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._wishes: dict[str, Wish] = {}

    @functools.cached_property
    def encoder(self) -> Encoder:
        """What the model's texts are encoded by; UserError if it is not to be had."""
        return load_encoder(self._folder, self._source)

    def states(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """A text by the vectors of its tokens, [n, D], and by one for all of it, [D]; see Conditions.text."""
        if text not in self._states:
            states = self.encoder.encode([text])
            self._states[text] = states.values[0][states.mask[0]], self.encoder.pool(states)[0]
        return self._states[text]

    def read(self, text: str) -> Wish:
        """What the model and the person are told of a text."""
        if text not in self._wishes:
            self._wishes[text] = self._read(text)
        return self._wishes[text]

    def _read(self, text: str) -> Wish:
        found = understanding.understand(text)
        pooled = self.states(text)[1]
        conditions = {}
        for name, label in LABELS.items():
            known = self._card.conditions[name].values if name in self._card.conditions else ()
            if values := [value for value in found.values(label) if value in known]:
                conditions[name] = values
        if found.tempo and "tempo" in self._card.conditions:
            conditions["tempo"] = found.bpm or float(vocabulary.tables()["tempo"][found.tempo]["bpm"])
        if found.density and "density" in self._card.conditions:
            conditions["density"] = float(vocabulary.tables()["density"][found.density]["notes"])
        if len(composers := self._composers(found.wanted)) == 1:
            conditions["composer"] = composers[0]
        if SEMANTIC in self._card.conditions:
            cluster = int(Clusters.load(self._folder).assign(pooled[None])[0])
            if cluster >= 0:
                conditions[SEMANTIC] = str(cluster)
        excluded = found.values(vocabulary.INSTRUMENT, negated=True) if self._has_programs else ()
        named = dict.fromkeys((label, value) for label in LABELS.values() for value in found.values(label))
        unheard = tuple(value for label, value in named if not self._has_word_for(label, value))
        return Wish(
            found,
            self._nearest(pooled),
            unheard,
            self._unknown(found, composers),
            bool(pooled.any()),
            len(clean(text).split()),
            self.encoder.words_read(text),
            conditions,
            excluded,
        )

    def _nearest(self, pooled: np.ndarray) -> tuple[tuple[str, float], ...]:
        texts, vectors = self._trained_with
        if not len(texts) or not pooled.any():
            return ()
        likeness = vectors @ normalise(pooled[None])[0]
        best = np.argsort(-likeness, kind="stable")[:NEAREST]
        return tuple((texts[i], float(likeness[i])) for i in best)

    def _composers(self, text: str) -> list[str]:
        """Those that a text without hyphens names as the card spells them; initials would be found in any text."""
        known = self._card.conditions["composer"].values if "composer" in self._card.conditions else ()
        return [
            name
            for name in known
            if len(name) > 2 and re.search(rf"(?<!\w){re.escape(name.replace('-', ' '))}(?!\w)", text)
        ]

    def _unknown(self, found: Understanding, composers: Sequence[str]) -> tuple[str, ...]:
        said = {word for each in found.entities for word in each.words.casefold().split()}
        said |= {word for name in composers for word in re.findall(r"\w+", name.casefold())}
        return tuple(
            word
            for word in found.keywords
            if not said.issuperset(word.split()) and not re.search(rf"(?<!\w){re.escape(word)}", self._vocabulary)
        )

    def _has_word_for(self, label: str, value: str) -> bool:
        words = [re.escape(word) for word, meaning in vocabulary.forms()[label].items() if meaning == value]
        return bool(re.search(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", self._vocabulary))

    @functools.cached_property
    def _vocabulary(self) -> str:
        """All training texts in one, as vocabulary.toml spells words."""
        return re.sub(r"(?<=\w)[-_](?=\w)", " ", "\n".join(self._trained_with[0]).casefold())

    @functools.cached_property
    def _trained_with(self) -> tuple[list[str], np.ndarray]:
        try:
            captions, vectors = read_captions(self._folder), normalise(np.load(self._folder / "pooled.npy"))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"the captions in {self._folder} are damaged ({error}); copy the run again") from None
        rows = [row for row, caption in enumerate(captions) if caption.train]
        return [captions[row].text for row in rows], vectors[rows]

    def fulfil(self, order: Order) -> tuple[Order, Wish | None]:
        """The order with all that follows from its text and was not said otherwise; the wish, if it has a text."""
        if not order.conditions.get(TEXT):
            return order, None
        wish = self.read(order.conditions[TEXT])
        said = {name: value for name, value in order.conditions.items() if name != TEXT}
        excluded = () if order.instruments else wish.excluded
        told = {name: value for name, value in wish.conditions.items() if name != INSTRUMENTS or not order.instruments}
        wish = dataclasses.replace(wish, conditions=told | said, excluded=excluded)
        played = order.instruments
        if excluded:
            played = tuple(label for label in instruments.LABELS if label not in excluded)
        return dataclasses.replace(order, conditions=wish.conditions | order.conditions, instruments=played), wish


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return value if isinstance(value, str) else f"{value:g}"
