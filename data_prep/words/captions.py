"""Captions: English sentences about a piece, made of what is known of its music."""

from __future__ import annotations

import dataclasses
import random

_SLOW = (("slow", "unhurried", "leisurely"), ("at a slow tempo", "at an unhurried pace", "played slowly"))
_MEDIUM = (("mid-tempo", "moderately paced"), ("at a moderate tempo", "at a medium pace", "at a moderate pace"))
_FAST = (("fast", "quick", "brisk", "up-tempo"), ("at a fast tempo", "at a brisk pace", "at a quick pace"))
_SPARSE = (("sparse", "spacious"), ("with few notes", "with a sparse texture"))
_EVEN = (("moderately dense",), ("of moderate density", "with a moderately dense texture"))
_DENSE = (("dense", "busy"), ("with many notes", "with a dense texture", "full of notes"))
# Class -> as adjectives, as phrases after the noun. amt_jax.text.understanding reads each as that class again.
_TEMPO = {"slow": _SLOW, "moderate": _MEDIUM, "fast": _FAST}
_DENSITY = {"sparse": _SPARSE, "moderate": _EVEN, "dense": _DENSE}
_POLYPHONY = {
    "monophonic": ("with a single melodic line", "with one note at a time"),
    "homophonic": ("with a homophonic texture", "with chords below the melody"),
    "polyphonic": ("with a polyphonic texture", "with several lines at once"),
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
class Caption:
    """A text, whether a person wrote it, and whether it names the key's tonic, so that transposing makes it wrong."""

    text: str
    human: bool
    names_key: bool


def captions(facts: Facts, count: int, seed: str) -> list[Caption]:
    """Different captions of one piece, each telling some of the facts; fewer than `count` if there are few facts.

    At least half of them do not name the key. The same facts and seed give the same captions.
    """
    choose = random.Random(seed)
    made: dict[str, Caption] = {}
    for number in range(count):
        for _ in range(8):
            names_key = bool(facts.key) and number % 2 == 1
            text = _caption(facts, names_key, choose)
            if text not in made:
                made[text] = Caption(text, False, names_key)
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
    value = getattr(facts, fact, "")
    match fact:
        case "moods":
            mood = choose.choice(value)
            return {"adjective": mood, "sentence": f"the mood is {mood}", "tag": mood}
        case "tempo":
            adjectives, phrases = _TEMPO[value]
            sentence = f"the tempo is {value}" if value != "moderate" else "it has a moderate tempo"
            return _said(choose.choice(adjectives), choose.choice(phrases), sentence)
        case "density":
            adjectives, phrases = _DENSITY[value]
            return _said(
                choose.choice(adjectives), choose.choice(phrases), f"the texture is {choose.choice(adjectives)}"
            )
        case "bpm":
            bpm = round(value)
            about = choose.choice(("at {} BPM", "at about {} beats per minute", "with a tempo of {} BPM")).format(bpm)
            return {"phrase": about, "sentence": f"it runs at about {bpm} BPM", "tag": f"{bpm} BPM"}
        case "era":
            return {"modifier": value, "tag": value}
        case "style":
            style = _SPELLED.get(value, value)
            return {"modifier": style, "sentence": f"it is {style} music", "tag": style}
        case "form":
            return {"noun": value, "tag": value}
        case "mode":
            mode = facts.key.split()[-1]
            phrase = choose.choice((f"in a {mode} key", f"in {mode}"))
            sentence = f"it is in a {mode} key"
            return {"modifier": f"{mode}-key", "phrase": phrase, "sentence": sentence, "tag": f"{mode} key"}
        case "key":
            key = choose.choice((facts.key, facts.key.replace("b ", "-flat ").replace("# ", "-sharp ")))
            phrase = choose.choice((f"in {key}", f"in the key of {key}"))
            return {"phrase": phrase, "sentence": f"the key is {key}", "tag": key}
        case "time_signature":
            phrase = choose.choice((f"in {value}", f"in {value} time"))
            return {"phrase": phrase, "sentence": f"the time signature is {value}", "tag": value}
        case "polyphony":
            phrase = choose.choice(_POLYPHONY[value])
            return {"phrase": phrase, "sentence": f"it is {value}", "tag": value}
        case "artist":
            like = f"in the style of {value}"
            phrase = choose.choice((like, f"by {value}")) if facts.era else like
            return {"phrase": phrase, "tag": phrase}
    return _instruments(value, choose)


def _said(adjective: str, phrase: str, sentence: str) -> dict[str, str]:
    return {"adjective": adjective, "phrase": phrase, "sentence": sentence, "tag": adjective}


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
