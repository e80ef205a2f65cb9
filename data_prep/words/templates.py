"""Templates: English sentences about a piece, made of what is known of its music."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

# Fact -> place in the caption -> what is said there, one of several. A tag is the first place's if it has no words.
# amt_jax.text.understanding reads each class of tempo and density as that class again.
_WAYS = {
    "moods": {"adjective": "{}", "sentence": "the mood is {}"},
    "era": {"modifier": "{}"},
    "style": {"modifier": "{}", "sentence": "it is {} music"},
    "form": {"noun": "{}"},
    "mode": {
        "modifier": "{}-key",
        "phrase": ("in a {} key", "in {}"),
        "sentence": "it is in a {} key",
        "tag": "{} key",
    },
    "key": {"phrase": ("in {}", "in the key of {}"), "sentence": "the key is {}", "tag": "{}"},
    "artist": {"phrase": "in the style of {}"},
    "composer": {"phrase": ("in the style of {}", "by {}")},
    "time_signature": {"phrase": ("in {}", "in {} time"), "sentence": "the time signature is {}", "tag": "{}"},
    "bpm": {
        "phrase": ("at {} BPM", "at about {} beats per minute", "with a tempo of {} BPM"),
        "sentence": "it runs at about {} BPM",
        "tag": "{} BPM",
    },
}
_CLASSES = {
    "tempo": {
        "slow": {
            "adjective": ("slow", "unhurried", "leisurely"),
            "phrase": ("at a slow tempo", "at an unhurried pace", "played slowly"),
            "sentence": "the tempo is slow",
        },
        "moderate": {
            "adjective": ("mid-tempo", "moderately paced"),
            "phrase": ("at a moderate tempo", "at a medium pace", "at a moderate pace"),
            "sentence": "it has a moderate tempo",
        },
        "fast": {
            "adjective": ("fast", "quick", "brisk", "up-tempo"),
            "phrase": ("at a fast tempo", "at a brisk pace", "at a quick pace"),
            "sentence": "the tempo is fast",
        },
    },
    "density": {
        "sparse": {
            "adjective": ("sparse", "spacious"),
            "phrase": ("with few notes", "with a sparse texture"),
            "sentence": ("the texture is sparse", "the texture is spacious"),
        },
        "moderate": {
            "adjective": ("moderately dense",),
            "phrase": ("of moderate density", "with a moderately dense texture"),
            "sentence": ("the texture is moderately dense",),
        },
        "dense": {
            "adjective": ("dense", "busy"),
            "phrase": ("with many notes", "with a dense texture", "full of notes"),
            "sentence": ("the texture is dense", "the texture is busy"),
        },
    },
    "polyphony": {
        "monophonic": {
            "phrase": ("with a single melodic line", "with one note at a time"),
            "sentence": "it is monophonic",
            "tag": "monophonic",
        },
        "homophonic": {
            "phrase": ("with a homophonic texture", "with chords below the melody"),
            "sentence": "it is homophonic",
            "tag": "homophonic",
        },
        "polyphonic": {
            "phrase": ("with a polyphonic texture", "with several lines at once"),
            "sentence": "it is polyphonic",
            "tag": "polyphonic",
        },
    },
}
_NOUNS, _WORKS = ("piece", "piece", "composition", "tune"), ("piece", "piece", "composition", "work")
_SPELLED = {
    "r&b": "R&B",
    "christmas": "Christmas",
    "latin": "Latin",
    "celtic": "Celtic",
    "romantic era": "Romantic-era",
}
_MAX_INSTRUMENTS = 4


@dataclasses.dataclass(frozen=True)
class Facts:
    """What captions may tell of a piece; what is empty is not told.

    Attributes:
      tempo, density: classes of amt_jax.music.classes.
      bpm: quarter notes a minute.
      key: "Eb minor".
      time_signature: "3/4".
      polyphony: monophonic, homophonic or polyphonic.
      instruments: labels, the one that matters most first.
      form: what the piece is, "waltz".
      style: a genre that is no form, "folk".
      moods: of which a caption names one.
      artist: as a caption names them.
      era: an adjective.
    """

    tempo: str = ""
    bpm: float = 0.0
    density: str = ""
    key: str = ""
    time_signature: str = ""
    polyphony: str = ""
    instruments: tuple[str, ...] = ()
    form: str = ""
    style: str = ""
    moods: tuple[str, ...] = ()
    artist: str = ""
    era: str = ""


@dataclasses.dataclass(frozen=True)
class Wording:
    """A text, whether a person wrote it, and whether it names the key's tonic, so that transposing makes it wrong."""

    text: str
    human: bool
    names_key: bool


def captions(facts: Facts, count: int, seed: str) -> list[Wording]:
    """Different captions of one piece, each telling some of the facts; fewer than `count` if there are few facts.

    At least half of them do not name the key. The same facts and seed give the same captions.
    """
    choose = random.Random(seed)
    made: dict[str, Wording] = {}
    for number in range(count):
        for _ in range(8):
            names_key = bool(facts.key) and number % 2 == 1
            text = _caption(facts, names_key, choose)
            if text not in made:
                made[text] = Wording(text, False, names_key)
                break
    return list(made.values())


def _caption(facts: Facts, names_key: bool, choose: random.Random) -> str:
    """One caption of some facts: sentences, a wish without article or full stop, or words in a row."""
    # Names in a list, never in a set: the order of sets differs from process to process.
    known = [field.name for field in dataclasses.fields(facts) if getattr(facts, field.name) and field.name != "key"]
    # Few people speak of textures, or of what is as usual.
    dull = {"polyphony"} | ({"density"} if facts.density == "moderate" else set())
    known = [name for name in known if name not in dull or choose.random() < 0.4]
    known += ["mode"] if facts.key and not names_key else []
    told = choose.sample(known, choose.randint(min(2, len(known)), min(5, len(known))))
    told += ["key"] if names_key else []
    ways = {fact: _ways(facts, fact, choose) for fact in _ORDER if fact in told}
    if "bpm" in ways and "tempo" in ways:
        del ways["tempo"]["phrase"]  # "at a brisk pace at 160 BPM"
    if "era" in ways:
        ways.pop("style", None)  # "A Classical-period classical piece"
    manner = choose.choices(("sentences", "wish", "tags"), (7, 2, 1))[0]
    if manner == "tags" and len(ways) > 1:
        tags = [way["tag"] for way in ways.values()]
        return ", ".join(choose.sample(tags, len(tags)))
    room = {"adjective": 2, "modifier": 3} | ({"phrase": 2, "sentence": 9} if manner == "sentences" else {"phrase": 9})
    parts: dict[str, list[str]] = {place: [] for place in room}
    for way in ways.values():
        places = [place for place in room if place in way and len(parts[place]) < room[place]]
        if "form" not in told and not any(parts.values()):
            places = [place for place in places if place != "sentence"]  # not "A piece. The tempo is slow."
        if places:
            place = choose.choice(places)
            parts[place].append(way[place])
    noun = ways["form"]["noun"] if "form" in told else choose.choice(_WORKS if facts.era else _NOUNS)
    thing = " ".join([*filter(None, [", ".join(parts["adjective"])]), *parts["modifier"], noun])
    first = " ".join([thing, *parts["phrase"]])
    if manner != "sentences":
        return first
    first = choose.choice(("", "", "this is ", "here is ")) + _article(thing) + " " + first
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (first, *parts["sentence"]))


# Of adjectives and of phrases in a sentence.
_ORDER = (
    "moods", "tempo", "density", "era", "mode", "style", "form", "key", "instruments", "artist", "time_signature",
    "bpm", "polyphony",
)  # fmt: skip


def _ways(facts: Facts, fact: str, choose: random.Random) -> dict[str, str]:
    """How a fact may be told: place in the caption -> words."""
    value = _value(facts, fact, choose)
    if fact == "instruments":
        return _instruments(value, choose)
    name = "composer" if fact == "artist" and facts.era else fact
    ways = _CLASSES[fact][value] if fact in _CLASSES else _WAYS[name]
    said = {place: words if isinstance(words, str) else choose.choice(words) for place, words in ways.items()}
    said.setdefault("tag", next(iter(said.values())))
    return {place: words.format(value) for place, words in said.items()}


def _value(facts: Facts, fact: str, choose: random.Random) -> Any:
    """A fact as words speak of it."""
    match fact:
        case "moods":
            return choose.choice(facts.moods)
        case "style":
            return _SPELLED.get(facts.style, facts.style)
        case "mode":
            return facts.key.split()[-1]
        case "key":
            return choose.choice((facts.key, facts.key.replace("b ", "-flat ").replace("# ", "-sharp ")))
        case "bpm":
            return round(facts.bpm)
    return getattr(facts, fact)


def _instruments(labels: tuple[str, ...], choose: random.Random) -> dict[str, str]:
    *others, last = labels if len(labels) <= _MAX_INSTRUMENTS else (*labels[:_MAX_INSTRUMENTS], "more")
    if not others:
        solo = "for solo " if not last.endswith("s") and last != "choir" else "for "
        phrase = choose.choice(("for ", solo)) + last
        sentence = choose.choice(("the only instrument is {}", "it is for {} alone", "it is played by {} alone"))
        return {"phrase": phrase, "sentence": sentence.format(last), "tag": last}
    row = f"{', '.join(others)} and {last}"
    phrase = choose.choice(("for ", "with ", "featuring ")) + row
    return {"phrase": phrase, "sentence": f"it is played by {row}", "tag": ", ".join(labels[:_MAX_INSTRUMENTS])}


def _article(words: str) -> str:
    return "an" if words[0].casefold() in "aeiou" or words.startswith(("R&B", "8")) else "a"
