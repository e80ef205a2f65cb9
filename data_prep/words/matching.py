"""Matching: which text is about which MIDI file, by title, artist and duration."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rapidfuzz import fuzz, process
from tqdm import tqdm

from data_prep.words import names

_CLOSE = 0.04  # of confidence: a second as near as this makes a pair ambiguous
_BATCH = 10_000  # songs whose candidates are kept at a time
_CELLS = 10**8  # of a table of similarities, a byte each
_ONLY_TITLE = 0.7  # what a title is worth without an artist
_GUESSED = 0.97  # and names that were taken apart by guessing
_GUESSED_MORE = 10  # which have to score more


@dataclasses.dataclass(frozen=True)
class Song:
    """What a MIDI file or a text says it is about; `seconds` is NaN if that is not known."""

    title: str
    artist: str
    seconds: float = math.nan


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What makes a pair: scores (title 1..100, artist 0..100), seconds that durations may differ, a confidence 0..1."""

    title: float = 85
    artist: float = 80
    seconds: float = 5
    confidence: float = 0.6


@dataclasses.dataclass(frozen=True)
class Match:
    """A text that may be about a MIDI file.

    Attributes:
      text: its index.
      title, artist: scores; the artist's is NaN if one side does not know it.
      confidence: 0..1.
    """

    text: int
    title: float
    artist: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found for a MIDI file.

    Attributes:
      match: the partner, or None.
      others: further texts about the same piece that fit too, the best first.
      why: why there is none, or why it is ambiguous.
      candidates: those that an ambiguous one has, the best first.
    """

    match: Match | None
    why: str = ""
    candidates: tuple[Match, ...] = ()
    others: tuple[Match, ...] = ()

    @property
    def matches(self) -> tuple[Match, ...]:
        return (self.match, *self.others) if self.match else ()


NO_TITLE = "no text has a title like it"
OTHER_ARTIST = "the texts with its title are about other artists"
OTHER_DURATION = "the durations differ"
UNSURE = "below the confidence asked for"
SEVERAL = "several texts fit as well"


def match(midis: Sequence[Song], texts: Sequence[Song], trust: Sequence[float], limits: Thresholds) -> list[Verdict]:
    """Finds the texts of each MIDI file; a text may serve several.

    Args:
      trust: how sure it is that a text is about its own title, 0..1; no pair is surer.
    """
    index = _Index(texts)
    songs = list(dict.fromkeys(midis))
    verdicts = {}
    with tqdm(total=len(songs), desc="matching", unit="song", delay=2) as bar:
        for start in range(0, len(songs), _BATCH):
            batch = {song: names.readings(song.title, song.artist) for song in songs[start : start + _BATCH]}
            candidates = index.candidates(batch, limits.title)
            for song, readings in batch.items():
                verdicts[song] = _decide(song, readings, sorted(candidates.get(song, ())), index, trust, limits)
                bar.update()
    return [verdicts[song] for song in midis]


class _Index:
    """The texts by what their names are like."""

    def __init__(self, texts: Sequence[Song]):
        self.texts = texts
        self.readings = [names.readings(text.title, text.artist) for text in texts]
        titles, together, self._works = defaultdict(set), defaultdict(set), defaultdict(set)
        for number, readings in enumerate(self.readings):
            for reading in readings:
                titles[reading.title.compact].add(number)
                for key in _together(reading):
                    together[key].add(number)
                for key in _works(reading):
                    self._works[key].add(number)
        self._tables = [(table, sorted(table, key=_by_length)) for table in (titles, together)]

    def candidates(self, songs: Mapping[Song, Sequence[names.Reading]], score: float) -> Mapping[Song, set[int]]:
        """Texts that are worth a comparison, a song: those whose titles score enough, and works with its numbers."""
        found, titles, alone = defaultdict(set), defaultdict(list), defaultdict(list)
        for song, readings in songs.items():
            for reading in readings:
                titles[reading.title.compact].append(song)
                if not reading.artist:
                    alone[reading.title.compact].append(song)
                for work in _works(reading):
                    found[song] |= self._works.get(work, set())
        for keys, (texts, ordered) in zip((titles, alone), self._tables, strict=True):
            for key, like in _alike(sorted(keys, key=_by_length), ordered, score):
                for song in keys[key]:
                    found[song] |= texts[like]
        return found


def _decide(
    song: Song,
    readings: Sequence[names.Reading],
    candidates: Sequence[int],
    index: _Index,
    trust: Sequence[float],
    limits: Thresholds,
) -> Verdict:
    matches, why = [], set()
    for text in candidates:
        found = _compare(readings, index.readings[text], limits)
        if found is None:
            continue
        title, artist, confidence = found
        if not confidence:
            why.add(OTHER_ARTIST)
            continue
        apart = abs(song.seconds - index.texts[text].seconds)
        if apart > limits.seconds:
            why.add(OTHER_DURATION)
            continue
        if apart <= limits.seconds < math.inf:  # Where any durations do, they say nothing.
            confidence = (1 + confidence) / 2
        matches.append(Match(text, title, artist, round(min(confidence, trust[text]), 4)))
    if not matches:
        return Verdict(None, next((each for each in (OTHER_DURATION, OTHER_ARTIST) if each in why), NO_TITLE))
    matches.sort(key=lambda each: (-each.confidence, -each.title, each.text))
    best = matches[0]
    close = [each for each in matches if each.confidence >= best.confidence - _CLOSE]
    if any(_different(index.readings[best.text], index.readings[each.text]) for each in close):
        return Verdict(None, SEVERAL, tuple(close))
    if best.confidence < limits.confidence:
        return Verdict(None, UNSURE, tuple(close))
    fit = (each for each in matches[1:] if each.confidence >= limits.confidence)
    same = tuple(each for each in fit if not _different(index.readings[best.text], index.readings[each.text]))
    return Verdict(best, others=same)


def _compare(
    song: Sequence[names.Reading], text: Sequence[names.Reading], limits: Thresholds
) -> tuple[float, float, float] | None:
    """Title and artist score and confidence of the best readings, 0 if the artist is another; None: another title."""
    best = None
    for a in song:
        for b in text:
            if not (a.sure or b.sure):
                continue
            title = names.title_score(a.title, b.title)
            artist, confidence = math.nan, 0.0
            more = 0 if a.sure and b.sure else _GUESSED_MORE
            if title >= limits.title + more and a.artist and b.artist:
                artist = names.artist_score(a.artist, b.artist)
                confidence = (title + artist) / 200 if artist >= limits.artist + more else 0.0
            elif title >= max(95, limits.title) and a.sure and b.sure:
                confidence = title / 100 * _ONLY_TITLE
            elif b.artist and not a.artist and (both := names.together_score(a.title, b.title, b.artist)) >= 90:
                title = artist = both
                confidence = both / 100 * _GUESSED
            else:
                continue
            confidence *= 1 if a.sure and b.sure else _GUESSED
            if best is None or confidence > best[2]:
                best = title, artist, confidence
    return best


def _different(a: Sequence[names.Reading], b: Sequence[names.Reading]) -> bool:
    """Whether two texts are about two pieces."""
    a, b = a[0], b[0]
    return names.title_score(a.title, b.title) < 95 or bool(
        a.artist and b.artist and names.artist_score(a.artist, b.artist) < 80
    )


def _works(reading: names.Reading) -> Iterator[tuple[str, ...]]:
    """What finds works that are named by numbers: a catalogue's, or the composer with any."""
    if reading.title.catalogue:
        yield reading.title.catalogue
    if reading.artist:
        yield from ((reading.artist.split()[-1], number) for number, _ in reading.title.numbers)


def _together(reading: names.Reading) -> Iterator[str]:
    """Title and artist as a name without separator may hold them."""
    if reading.artist and reading.sure:
        artist = reading.artist.replace(" ", "")
        yield artist + reading.title.compact
        yield reading.title.compact + artist


def _alike(keys: Sequence[str], others: Sequence[str], score: float) -> Iterator[tuple[str, str]]:
    """Pairs of strings that score enough; both sorted by length, as alike strings are about as long."""
    lengths = np.array([len(other) for other in others])
    step = max(1, _CELLS // max(1, len(others)))
    for start in range(0, len(keys), step):
        block = keys[start : start + step]
        # An indel similarity of s % needs a shorter string of at least s / (200 - s) of the longer one's length.
        share = score / (200 - score)
        low, high = np.searchsorted(lengths, [len(block[0]) * share, len(block[-1]) / share + 1])
        near = others[low:high]
        table = process.cdist(block, near, scorer=fuzz.ratio, score_cutoff=score, dtype=np.uint8, workers=-1)
        for i, j in np.argwhere(table).tolist():
            yield block[i], near[j]


def _by_length(key: str) -> tuple[int, str]:
    return len(key), key


def seconds(value: Any) -> float:
    """A duration as a row has it; NaN if it has none."""
    try:
        return float(value) if value else math.nan
    except (TypeError, ValueError):
        return math.nan
