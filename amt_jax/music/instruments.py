"""Instruments: General MIDI programs, their names, and the labels by which a person speaks of them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from amt_jax.errors import UserError, near

if TYPE_CHECKING:
    from symusic import Score

DRUMS = 128  # The program of percussion tracks, which the standard tells apart by their channel.

# General MIDI level 1, sound set.
NAMES = (
    "acoustic grand piano", "bright acoustic piano", "electric grand piano", "honky-tonk piano",
    "electric piano 1", "electric piano 2", "harpsichord", "clavinet",
    "celesta", "glockenspiel", "music box", "vibraphone", "marimba", "xylophone", "tubular bells", "dulcimer",
    "drawbar organ", "percussive organ", "rock organ", "church organ",
    "reed organ", "accordion", "harmonica", "tango accordion",
    "acoustic guitar (nylon)", "acoustic guitar (steel)", "electric guitar (jazz)", "electric guitar (clean)",
    "electric guitar (muted)", "overdriven guitar", "distortion guitar", "guitar harmonics",
    "acoustic bass", "electric bass (finger)", "electric bass (pick)", "fretless bass",
    "slap bass 1", "slap bass 2", "synth bass 1", "synth bass 2",
    "violin", "viola", "cello", "contrabass", "tremolo strings", "pizzicato strings", "orchestral harp", "timpani",
    "string ensemble 1", "string ensemble 2", "synth strings 1", "synth strings 2",
    "choir aahs", "voice oohs", "synth voice", "orchestra hit",
    "trumpet", "trombone", "tuba", "muted trumpet", "french horn", "brass section", "synth brass 1", "synth brass 2",
    "soprano sax", "alto sax", "tenor sax", "baritone sax", "oboe", "english horn", "bassoon", "clarinet",
    "piccolo", "flute", "recorder", "pan flute", "blown bottle", "shakuhachi", "whistle", "ocarina",
    "lead 1 (square)", "lead 2 (sawtooth)", "lead 3 (calliope)", "lead 4 (chiff)",
    "lead 5 (charang)", "lead 6 (voice)", "lead 7 (fifths)", "lead 8 (bass + lead)",
    "pad 1 (new age)", "pad 2 (warm)", "pad 3 (polysynth)", "pad 4 (choir)",
    "pad 5 (bowed)", "pad 6 (metallic)", "pad 7 (halo)", "pad 8 (sweep)",
    "fx 1 (rain)", "fx 2 (soundtrack)", "fx 3 (crystal)", "fx 4 (atmosphere)",
    "fx 5 (brightness)", "fx 6 (goblins)", "fx 7 (echoes)", "fx 8 (sci-fi)",
    "sitar", "banjo", "shamisen", "koto", "kalimba", "bagpipe", "fiddle", "shanai",
    "tinkle bell", "agogo", "steel drums", "woodblock", "taiko drum", "melodic tom", "synth drum", "reverse cymbal",
    "guitar fret noise", "breath noise", "seashore", "bird tweet",
    "telephone ring", "helicopter", "applause", "gunshot",
)  # fmt: skip

# Label -> its programs, each program once. "Drums" are the kit and what General MIDI has of it among the programs.
LABELS = {
    "piano": (0, 1, 2, 3),
    "electric piano": (4, 5, 7),
    "harpsichord": (6,),
    "bells": (8, 9, 10, 14, 112),
    "mallets": (11, 12, 13, 15, 108, 114),
    "organ": (16, 17, 18, 19, 20),
    "accordion": (21, 23),
    "harmonica": (22,),
    "guitar": (24, 25, 26, 27, 28, 29, 30, 31),
    "bass": (32, 33, 34, 35, 36, 37, 38, 39, 43),
    "violin": (40, 110),
    "viola": (41,),
    "cello": (42,),
    "strings": (44, 45, 48, 49, 50, 51),
    "harp": (46,),
    "timpani": (47,),
    "choir": (52, 53, 54),
    "trumpet": (56, 59),
    "trombone": (57,),
    "tuba": (58,),
    "horn": (60,),
    "brass": (61, 62, 63),
    "saxophone": (64, 65, 66, 67),
    "oboe": (68, 69, 111),
    "bassoon": (70,),
    "clarinet": (71,),
    "flute": (72, 73, 75, 77),
    "whistle": (74, 76, 78, 79),
    "synth lead": (80, 81, 82, 83, 84, 85, 86, 87),
    "synth pad": (88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102, 103),
    "sitar": (104,),
    "banjo": (105,),
    "koto": (106, 107),
    "bagpipes": (109,),
    "sound effects": (55, 120, 121, 122, 123, 124, 125, 126, 127),
    "drums": (113, 115, 116, 117, 118, 119, DRUMS),
}

# What else people say; the names above are understood too.
ALIASES = {
    "piano": ("grand piano", "upright piano", "acoustic piano", "honky tonk", "keyboard"),
    "electric piano": ("rhodes", "wurlitzer", "e piano", "clavi"),
    "harpsichord": ("cembalo",),
    "bells": ("chimes", "celeste"),
    "mallets": ("mallet", "vibes", "steel drum", "steelpan", "thumb piano", "hammered dulcimer"),
    "organ": ("hammond", "hammond organ", "pipe organ", "harmonium"),
    "accordion": ("bandoneon", "concertina", "piano accordion"),
    "harmonica": ("mouth organ", "blues harp", "bass harmonica"),
    "guitar": (
        "acoustic guitar", "electric guitar", "classical guitar", "nylon guitar", "steel guitar", "jazz guitar",
        "distorted guitar", "rhythm guitar", "lead guitar",
    ),
    "bass": (
        "bass guitar", "electric bass", "double bass", "upright bass", "string bass", "slap bass", "synth bass",
        "basses",
    ),
    "cello": ("violoncello", "celli"),
    "strings": ("string section", "string ensemble", "string orchestra", "orchestra", "synth strings"),
    "timpani": ("kettledrum",),
    "choir": ("voice", "vocal", "vocals", "chorus", "singing", "singer"),
    "trombone": ("bass trombone", "tenor trombone"),
    "horn": ("horns",),
    "brass": ("brass ensemble", "synth brass"),
    "saxophone": (
        "sax", "saxes", "soprano saxophone", "alto saxophone", "tenor saxophone", "baritone saxophone",
        "bass saxophone", "bass sax",
    ),
    "oboe": ("cor anglais", "shawm"),
    "clarinet": ("bass clarinet", "alto clarinet", "basset horn"),
    "flute": ("panpipe", "pan pipes", "alto flute", "bass flute", "bass recorder"),
    "whistle": ("tin whistle", "penny whistle"),
    "synth lead": ("synth", "synthesizer", "synthesiser", "lead synth"),
    "synth pad": ("pad", "synth effects"),
    "bagpipes": ("bag pipe",),
    "sound effects": ("sfx",),
    "drums": ("drum", "percussion", "drum kit", "drum set", "bass drum", "drumkit", "tom", "cymbal", "taiko"),
}  # fmt: skip

_OF_PROGRAM = {program: label for label, programs in LABELS.items() for program in programs}


def _key(name: str) -> str:
    """A name as it is looked up: case, hyphens, brackets and spaces do not matter."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text).split())


_FOUND = (
    {_key(name): _OF_PROGRAM[program] for program, name in enumerate(NAMES)}
    | {_key(alias): label for label, aliases in ALIASES.items() for alias in aliases}
    | {_key(label): label for label in LABELS}
)


def find(name: str) -> str:
    """The label a person means by `name`: a label, a General MIDI name or a common word, in singular or plural.

    Raises UserError that names the nearest known ones.
    """
    key = _key(name)
    for form in (key, key.removesuffix("s"), key.removesuffix("es")):
        if form in _FOUND:
            return _FOUND[form]
    raise UserError(f"no instrument {near(key, list(_FOUND))}; the labels are {', '.join(LABELS)}")


def programs(label: str) -> tuple[int, ...]:
    """The programs of a label, ascending, DRUMS for the drum kit; other names are looked up as in `find`."""
    return LABELS[find(label)]


def label(program: int) -> str:
    """The label of a program, 0 to 127 or DRUMS."""
    return _OF_PROGRAM[program]


def labels(score: Score) -> list[str]:
    """The labels that sound in a score, the one whose notes last longest together first."""
    ticks = Counter()
    for track in score.tracks:
        if len(track.notes):
            ticks[label(DRUMS if track.is_drum else track.program)] += int(track.notes.numpy()["duration"].sum())
    return sorted(ticks, key=lambda each: (-ticks[each], each))
