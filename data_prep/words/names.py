"""Names: titles and artists, as files, folders and web pages spell them, made comparable.

Scores are 0..100 as rapidfuzz's.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from anyascii import anyascii
from rapidfuzz import fuzz

_TABLES = tomllib.loads((Path(__file__).parent / "names.toml").read_text(encoding="utf-8"))
_RECORDING = frozenset(_TABLES["recording"])
_ALIKE = {word: str(each) for table in ("words", "numbers", "roman") for word, each in _TABLES[table].items()}
_BEFORE_NUMBERS = "".join(rf"(?<!\b{word})" for word in _TABLES["numbered"])
_FILE = re.compile(  # "Help.mid", "Copy of Help", "Help.1", "Help (2)", "Help-1", but "Symphony No.5"
    rf"\.(midi?|kar)$|^copy of |{_BEFORE_NUMBERS}\.\d{{1,2}}$| ?\(\d\)$|(?<=\D)-\d$", re.I
)
_TRACK = re.compile(r"^(0\d|\d{1,3} ?[.)-](?! ?\d)|\d{1,3} - )[ .)-]*(?=\w)")  # "01 Help", "7. Help", "12 - 99 Red"
_NUMBER_FIRST = re.compile(r"^\d{1,2} +(?=\w)")  # a track's number or the title's: "12 Time", "99 Luftballons"
_DASH = re.compile(r"\s+[-\u2013\u2014~]+\s+")
_BRACKETS = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}]")
_GUESTS = re.compile(r"[(\[]? ?\b(feat|ft|featuring)\b.*", re.I)
_BY = re.compile(r"(?:in the style of|made (?:famous|popular) by|performed by|^(?:originally )?by) (.*)", re.I)
_OF_ARTIST = re.compile(r"^(.*?) ?\b(?:song|single|album|composition|instrumental|EP)\b", re.I)
# Numbers that catalogues give: one names one work (an opus often holds several).
_CATALOGUE = re.compile(r"\b(bwv|hwv|rv|woo|twv|hob [ivx\d]+|[kds](?= \d\d)) (\d{1,4})\b")
# In plain words: "in c sharp minor", "fis moll", "prelude in c"; "in a" is not about keys as a rule.
_KEY = re.compile(
    r"\b(?:in )?([a-h])(is|e?s| flat| sharp)? (major|minor|maj|min|dur|moll)\b|\bin (?:([a-g])( flat| sharp)|([b-g]))\b"
)


def plain(text: str) -> str:
    """Lower-case ASCII words and numbers with a space between: "Déjà_Vu (Pt. II)" -> "deja vu part 2"."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", anyascii(text))  # "MoonRiver"; Chinese comes as "QingTian"
    text = re.sub(r"\b([a-g])#", r"\1 sharp", text.lower().replace("'", "").replace("&", " and "))
    return " ".join(_ALIKE.get(word, word) for word in re.findall(r"[a-z]+|\d+", text))


def is_nobody(artist: str) -> bool:
    """Whether a name says that the artist is not known."""
    words = [word for word in plain(artist).split() if word not in ("artist", "artists")]
    return "karaoke" in words or " ".join(words) in _TABLES["nobody"]


@dataclasses.dataclass(frozen=True)
class Title:
    """What of a title is compared.

    Attributes:
      words: plain words without articles and key.
      compact: the same without spaces, as "Moonriver" and "Moon River" are one.
      numbers: the numbers among them, each with how often it came before.
      catalogue: ("bwv", "846") for a work that a catalogue numbers.
      opus, key: "10", "c minor", if they are named.
    """

    words: str
    compact: str
    numbers: frozenset[tuple[str, int]]
    catalogue: tuple[str, str] | None
    opus: str
    key: str

    @classmethod
    @functools.lru_cache(maxsize=1 << 18)
    def of(cls, text: str) -> Title:
        words = plain(text)
        found = _KEY.search(words)
        key = _key(found) if found else ""
        bare = re.sub(r"\bno (?=\d)", "", _KEY.sub(" ", words)).split()
        bare = [word for word in bare if word not in ("the", "a", "an")] or words.split()
        catalogue = _CATALOGUE.search(" ".join(bare))
        work = catalogue.groups() if catalogue else None
        numbers = frozenset((word, bare[:i].count(word)) for i, word in enumerate(bare) if word.isdigit())
        opus = bare[bare.index("op") + 1 :][:1] if "op" in bare else []
        return cls(" ".join(bare), "".join(bare), numbers, work, "".join(opus), key)


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way to understand a name.

    Attributes:
      artist: "" if it is unknown.
      sure: False if something was guessed: which half of "X - Y" is the title, say.
    """

    title: Title
    artist: str
    sure: bool


def readings(title: str, artist: str) -> tuple[Reading, ...]:
    """The ways to read a title and an artist, the most literal first; none if there is no title to speak of."""
    found = {}
    for words, by, sure in _readings(title, artist):
        words, by = Title.of(words), "" if is_nobody(by) else plain(by)
        said = " ".join(word for word in words.words.split() if not word.isdigit())
        if words.words and (by or said not in _TABLES["untitled"]):
            found.setdefault((words, by), Reading(words, by, sure))
    return tuple(found.values())


def _readings(title: str, artist: str) -> Iterator[tuple[str, str, bool]]:
    """Title, artist, and whether that is sure."""
    if is_nobody(artist):
        artist = ""
    name = " ".join(title.replace("_", " ").split())
    for _ in range(3):  # "Copy of Help.1.mid"
        name = _FILE.sub("", name).strip()
    name = _TRACK.sub("", name)
    guestless = _GUESTS.sub("", name).strip() or name
    inside = [each.strip() for each in _BRACKETS.findall(guestless)]
    kept = _BRACKETS.sub(lambda each: " " if _is_noise(each[1]) else each[0], guestless)
    bare = _BRACKETS.sub(" ", guestless)
    for text in dict.fromkeys((kept, bare)):
        parts = [part.strip() for part in _DASH.split(text)]
        parts = [part for i, part in enumerate(parts) if part and not (_is_suffix(part) and (i or len(parts) > 2))]
        if len(parts) < 2 and not artist and text.count("-") == 1:
            parts = [part.strip() for part in text.split("-") if part.strip()]
        yield " ".join(parts), artist, True
        if len(parts) > 1:
            yield parts[-1], parts[0], False
            yield parts[0], parts[-1], False
            yield parts[-1], artist, False
            yield parts[0], artist, False
        if _NUMBER_FIRST.match(text):
            yield _NUMBER_FIRST.sub("", text), artist, False
        if " by " in text:
            yield *text.rsplit(" by ", 1), False
    for each in inside:
        if by := _BY.search(each):
            yield bare, by[1], True
        elif of := _OF_ARTIST.search(each):
            yield bare, of[1] if of[1] and not artist else artist, True
        elif not _is_noise(each):
            yield each, artist, False
            if not artist:
                yield bare, each, False
    if artist:
        yield artist, name, False


def title_score(a: Title, b: Title) -> float:
    """How likely two titles name one piece; 0 where a number, a key or a word contradicts it."""
    if a.catalogue and b.catalogue and a.catalogue[0] == b.catalogue[0]:
        return 95.0 if a.catalogue == b.catalogue else 0.0
    score = fuzz.ratio(a.compact, b.compact)
    if score < 60 and not (a.opus and b.opus):
        return score
    fewer, more = sorted((a.numbers, b.numbers), key=len)
    named = (a.opus, b.opus), (a.key, b.key)
    if not fewer <= more or any(x and y and x != y for x, y in named) or ("medley" in a.words) != ("medley" in b.words):
        return 0.0
    words = a.words.split(), b.words.split()
    if fewer and a.opus and (set(words[0]) <= set(words[1]) or set(words[1]) <= set(words[0])):
        return max(92.0, score)
    if score < 95 and _other_word(*words) and _other_word(*reversed(words)):
        return 0.0
    return score - 8 * (fewer != more)


@functools.lru_cache(maxsize=1 << 20)
def artist_score(a: str, b: str) -> float:
    """How likely two plain names of artists are one, or one is among the other's."""
    whole = max(fuzz.ratio(_the(a).replace(" ", ""), _the(b).replace(" ", "")), fuzz.token_sort_ratio(_the(a), _the(b)))
    if whole >= 95:
        return whole
    parts = max((fuzz.ratio(x, y) - 5 for x in _members(a) for y in _members(b)), default=0.0)
    return max(whole if not _contradict(a, b) else 0.0, parts, _surname_score(_the(a).split(), _the(b).split()))


def together_score(title: Title, other: Title, artist: str) -> float:
    """How likely a title without an artist holds both: "dire straits money for nothing"."""
    if other.words not in title.words:
        return 0.0
    return fuzz.token_sort_ratio(title.words, f"{_the(artist)} {other.words}")


def _other_word(words: list[str], others: list[str]) -> bool:
    """Whether one of the words is like none of the others, not even misspelt."""
    return any(max((fuzz.ratio(word, other) for other in others), default=0.0) < 60 for word in words)


def _members(artist: str) -> list[str]:
    """Those whom a name joins: "bob marley and the wailers" -> bob marley, wailers."""
    parts = re.split(r"\b(?:feat|ft|featuring|with|vs|and)\b", artist)
    return [_the(part.strip()) for part in parts if len(part.strip()) > 2]


def _surname_score(a: list[str], b: list[str]) -> float:
    """Persons by surname and as much of the first names as there is: "j s bach", "bach"."""
    alike = fuzz.ratio(a[-1], b[-1])
    if alike < 100 and (alike < 82 or min(len(a[-1]), len(b[-1])) < 9):
        return 0.0
    if len(a) == 1 or len(b) == 1:
        return alike - 5 if len(a[-1]) > 3 else 0.0
    same = all(_one_first_name(x, y) for x, y in zip(a[:-1], b[:-1], strict=False))
    return alike - 6 if same else 0.0


def _contradict(a: str, b: str) -> bool:
    """Whether two names share a surname but no first name: "c p e bach", "j s bach"."""
    a, b = a.split(), b.split()
    return len(a) > 1 and len(b) > 1 and a[-1] == b[-1] and not _one_first_name(a[0], b[0])


def _one_first_name(a: str, b: str) -> bool:
    return a[0] == b[0] and (1 in (len(a), len(b)) or fuzz.ratio(a, b) >= 60)


def _the(name: str) -> str:
    return " ".join(word for word in name.split() if word != "the") or name


def _is_noise(text: str) -> bool:
    """Whether what stands in brackets is about the recording, or says what kind of thing the name is."""
    words = plain(text).split()
    return not words or not _RECORDING.isdisjoint(words) or words[0] in ("live", "from", "with")


def _is_suffix(text: str) -> bool:
    """Whether what stands behind a dash is about the recording, or a track's number."""
    words = plain(text).split()
    live = words[:1] == ["live"] and words[1:2] in (["at"], ["in"], ["from"])
    return live or all(word == "live" or word.isdigit() or word in _RECORDING for word in words)


def _key(found: re.Match[str]) -> str:
    tonic, accidental, mode = found[1] or found[4] or found[6], found[2] or found[5] or "", found[3] or "major"
    accidental = " sharp" if accidental in ("is", " sharp") else " flat" if accidental else ""
    return f"{tonic}{accidental} {'minor' if mode in ('minor', 'min', 'moll') else 'major'}"
