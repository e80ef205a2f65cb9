"""Description: what is said of each piece, from a table of facts and from texts that were paired with it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from amt_jax import storage
from amt_jax.errors import UserError
from amt_jax.music import classes, midi
from amt_jax.text import understanding, vocabulary
from amt_jax.text.vocabulary import GENRE, MOOD
from data_prep.collecting import portrait
from data_prep.flags import check_music
from data_prep.rows import read_metadata
from data_prep.words import eras, names
from data_prep.words import pairs as paired
from data_prep.words.templates import Facts, Wording, captions

FACTS = ("tempo", "key", "time_signature", "instruments", "density", "polyphony")
# Longer texts are cut: encoders read fewer words still, and of an article few sentences are about the sound.
MAX_SENTENCES, MAX_WORDS = 3, 60
_TIME_SIGNATURES = frozenset(
    ("2/2", "3/2", "2/4", "3/4", "4/4", "5/4", "6/4", "7/4", "3/8", "6/8", "7/8", "9/8", "12/8")
)
# A tempo that so many of so many pieces share is their recorder's or publisher's, not theirs. 120 is what MIDI means
# where a file says nothing.
_SHARED, _ENOUGH = 0.1, 100
# Signs of valence and arousal -> moods that are guessed, from these magnitudes on and where a tempo is marked.
_MOODS = {
    (True, True): ("cheerful", "lively", "happy"),
    (True, False): ("peaceful", "calm", "gentle"),
    (False, True): ("tense", "dramatic", "agitated"),
    (False, False): ("sad", "melancholic", "somber"),
}
_SURE_VALENCE, _SURE_AROUSAL = 0.3, 0.25
# Genres that only say when a composer lived.
_ERAS = frozenset(("baroque", "romantic era", "impressionist"))


@dataclasses.dataclass(frozen=True)
class Described:
    """What became of a table's pieces.

    Attributes:
      pieces: described.
      captions, human, distinct: of all pieces; by people; different ones.
      lacking: pieces of which the table lacks some of FACTS.
      skipped: by reason; each is in skipped_file.
    """

    pieces: int
    captions: int
    human: int
    distinct: int
    lacking: int
    skipped: Counter[str]
    skipped_file: str


def describe(metadata: str, pairs: str | None, folder: str | None, output: Path, count: int, seed: int) -> Described:
    """Writes a description of each line of a table of facts to `output`, and what was left out beside it.

    Args:
      metadata: midi_metadata.jsonl.
      pairs: automated_paired_data.json, or None.
      folder: the MIDI files, to read facts from that lines lack, or None; then a line without its file is left out.
      output: descriptions.jsonl.
      count: captions to make of each piece's music.
      seed: chooses their words.

    Raises UserError if a table cannot be read or used.
    """
    if folder is not None:
        check_music(folder)
    lines = _lines(metadata)
    skipped: list[tuple[str, str, str]] = []
    texts = _texts(pairs, lines, skipped) if pairs else {}
    if folder is not None:
        lines = [line for line in lines if _complete(line, folder, skipped)]
        if not lines:
            path, reason, _ = skipped[-1]
            raise UserError(
                f"no piece of {metadata} can be described: {reason}, {path!r} last; collect the folder again"
            )
    unmarked = unmarked_tempos(line["tempo"] for line in lines if line.get("tempo"))
    composers = eras.among(line["artist"] for line in lines if line.get("artist"))
    described = []
    for line in tqdm(lines, desc="describing", unit="piece", delay=2):
        own = [*texts.get(line["path"], ()), *(texts.get(line["family"], ()) if line.get("family") else ())]
        composer = composers.get(line.get("artist") or "")
        described.append(description(line, own, composer, unmarked, count, seed, skipped))
    beside = output.with_name(f"{output.stem}_skipped.jsonl")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        left_out = ({"path": path, "reason": reason, "details": details} for path, reason, details in skipped)
        storage.write_text(beside, _json_lines(left_out))
        storage.write_text(output, _json_lines(described))
    except OSError as error:
        raise UserError(f"cannot write {str(output)!r}: {error.strerror}") from None
    all_captions = [caption for each in described for caption in each["captions"]]
    return Described(
        pieces=len(described),
        captions=len(all_captions),
        human=sum(caption["human"] for caption in all_captions),
        distinct=len({caption["text"] for caption in all_captions}),
        lacking=sum(any(line.get(name) is None for name in FACTS) for line in lines),
        skipped=Counter(reason for _, reason, _ in skipped),
        skipped_file=str(beside),
    )


def description(
    line: Mapping[str, Any],
    texts: Iterable[Mapping[str, Any]],
    composer: eras.Composer | None,
    unmarked: frozenset[float],
    count: int,
    seed: int,
    skipped: list[tuple[str, str, str]],
) -> dict[str, Any]:
    """The description of one piece.

    Args:
      line: of midi_metadata.jsonl.
      texts: entries of automated_paired_data.json about it.
      composer: of it, if it is one of eras.toml.
      unmarked: tempos that are not told.
      count: captions to make of its music.
      seed: chooses their words.
      skipped: gets path, reason and details of a text that cannot be used.
    """
    told, said = [], []
    for text, human in _given(line, texts):
        caption, understood = _cut(text, human)
        if caption is None:
            skipped.append((line["path"], "text is not English", text[:80]))
        elif caption not in told:
            told.append(caption)
            said += understood
    named = [name for entry in texts for name in paired.genres(entry)]
    genres = _path_genres(line, composer is not None)
    genres += [understanding.genre(name) or name.casefold() for name in named]
    genres += [value for each in said for value in each.values(GENRE)]
    genres = vocabulary.with_broader(dict.fromkeys([*genres, *([composer.genre] if composer else [])]))
    moods = list(dict.fromkeys(value for each in said for value in each.values(MOOD)))
    tempo, density, key = line.get("tempo"), line.get("density"), line.get("key") or ""
    marked = tempo if tempo and round(tempo, 2) not in unmarked else None
    if moods:
        feeling = [each for each in said if each.values(MOOD)]
        valence, arousal = (
            sum(getattr(each, axis) for each in feeling) / len(feeling) for axis in ("valence", "arousal")
        )
        guessed = ()
    else:
        valence, arousal = classes.emotion(key.rpartition(" ")[2], marked, density or 0.0)
        sure = abs(valence) >= _SURE_VALENCE and abs(arousal) >= _SURE_AROUSAL
        guessed = _MOODS[valence > 0, arousal > 0] if sure and key and density and marked else ()
    facts = Facts(
        tempo=classes.tempo_class(marked) if marked else "",
        bpm=marked or 0.0,
        density=classes.density_class(density) if density else "",
        key=key,
        time_signature=_time_signature(line, marked),
        polyphony=line.get("polyphony") or "",
        instruments=tuple(line.get("instruments") or ()),
        form=next(filter(vocabulary.is_form, genres), ""),
        style=next((genre for genre in genres if not vocabulary.is_form(genre) and genre not in _ERAS), ""),
        moods=tuple(moods) or guessed,
        artist=_artist(line, composer),
        era=composer.era if composer else "",
    )
    told += captions(facts, count, f"{seed}:{line['path']}")
    described = {
        "path": line["path"],
        "captions": [dataclasses.asdict(caption) for caption in told],
        "genre": genres,
        "mood": moods or list(guessed),
        "mood_from": "words" if moods else "music",
        "instruments": list(facts.instruments),
        "tempo": marked,
        "density": density,
        "valence": round(valence, 3),
        "arousal": round(arousal, 3),
    }
    described |= {"composer": line["artist"]} if composer else {}
    return described | {name: line[name] for name in ("family", "licence") if line.get(name)}


def unmarked_tempos(tempos: Iterable[float]) -> frozenset[float]:
    """Tempos that say nothing of a piece: MIDI's default, and those that too many pieces share."""
    counts = Counter(round(tempo, 2) for tempo in tempos)
    total = counts.total()
    shared = {tempo for tempo, count in counts.items() if total >= _ENOUGH and count >= _SHARED * total}
    return frozenset({120.0} | shared)


def _lines(metadata: str) -> list[dict[str, Any]]:
    lines = read_metadata(metadata, ["path"])
    seen = set()
    for number, line in enumerate(lines, 1):
        if line["path"] in seen:
            raise UserError(
                f"piece {number} of {metadata} has the path {line['path']!r} again; data_prep.collect makes such tables"
            )
        seen.add(line["path"])
    return sorted(lines, key=lambda line: line["path"])


def _texts(
    file: str, lines: list[dict[str, Any]], skipped: list[tuple[str, str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """Path, or family of windows -> its entries of automated_paired_data.json."""
    known = {line["path"] for line in lines} | {line.get("family") for line in lines}
    texts: dict[str, list[dict[str, Any]]] = {}
    for entry in paired.read(file):
        if entry["midi_path"] in known:
            texts.setdefault(entry["midi_path"], []).append(entry)
        else:
            skipped.append((entry["midi_path"], "paired MIDI is not in the metadata", entry["text"][:80]))
    return texts


def _complete(line: dict[str, Any], folder: str, skipped: list[tuple[str, str, str]]) -> bool:
    """Reads what a line lacks from its MIDI file; False if there is none or it is no music."""
    path = os.path.join(folder, line["path"])
    if not os.path.isfile(path):
        skipped.append((line["path"], "MIDI is not in --input", ""))
        return False
    if all(line.get(name) is not None for name in FACTS):
        return True
    try:
        facts = portrait.facts(midi.load(path))
    except midi.MidiError as error:
        skipped.append((line["path"], error.reason, error.details))
        return False
    line |= {name: value for name, value in facts.items() if line.get(name) is None}
    return True


def _given(line: Mapping[str, Any], texts: Iterable[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """Texts about a piece, and whether people wrote them."""
    captions = line.get("captions") or []
    return [(entry["text"], True) for entry in texts] + [(each["text"], bool(each.get("human"))) for each in captions]


def _cut(text: str, human: bool) -> tuple[Wording | None, list[understanding.Understanding]]:
    """The sentences of a text that say something about music, else its first ones; None if it is not English."""
    sentences = understanding.sentences(text)
    understood = [each for each in understanding.understand_all(sentences) if each.language == "en"]
    chosen, words = [], 0
    for each in ([each for each in understood if each.says_something] or understood)[:MAX_SENTENCES]:
        words += len(each.text.split())
        if words > MAX_WORDS and chosen:
            break
        chosen.append(each)
    if not chosen:
        return None, []
    cut = " ".join(" ".join(each.text for each in chosen).split()[:MAX_WORDS])
    return Wording(cut, human, any(each.key for each in chosen)), chosen


def _path_genres(line: Mapping[str, Any], composer: bool) -> list[str]:
    """Genres where names are sure of them.

    A folder's name, and a file's name or title with a number, that is else nothing but a genre ("Bossa Nova/",
    "jigs12.mid", "reelsa-c3.mid", a part of an alphabet), and a form in a name ("Fugue_bwv_846") if the artist is a
    composer: a song may be called House.
    """
    found = []
    # Of a window, the file that it was cut from: its number is the window's. "Carol.1.mid" is another Carol.
    folders, file = line["path"].split("/")[:-1], os.path.basename(line.get("family") or line["path"])
    names = [re.sub(r"\.\d+$", "", name) for name in (os.path.splitext(file)[0], line.get("title") or "")]
    for name in (*folders, *names):
        if name in folders or name[-1:].isdigit():
            words = re.sub(r"[\d_\W]+$", "", name.casefold())
            for form in (words, re.sub(r"(?<=\w)[a-z]-[a-z]$", "", words)):
                found.append(understanding.genre(form))
        if composer:
            forms = map(understanding.genre, re.findall(r"[^\W\d_]+", name))
            found += filter(vocabulary.is_form, forms)
    return list(dict.fromkeys(filter(None, found)))


def _time_signature(line: Mapping[str, Any], marked: float | None) -> str:
    signature = line.get("time_signature") or ""
    # 4/4 is what MIDI means where a file says nothing; a file that has a tempo of its own may well say it.
    return signature if signature in _TIME_SIGNATURES and (marked or signature != "4/4") else ""


def _artist(line: Mapping[str, Any], composer: eras.Composer | None) -> str:
    """As captions name them: composers as one does; genres, and names for nobody, are nobody."""
    artist = line.get("artist") or ""
    if composer:
        return composer.surname if len(artist.split()) == 1 else composer.name
    return "" if understanding.genre(artist) or names.is_nobody(artist) else artist


def _json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
