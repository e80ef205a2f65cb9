"""Understanding: what a text says about music, by rules and the words of vocabulary.toml.

spaCy splits the text and finds the phrases; nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt_jax.errors import UserError
from amt_jax.music import instruments
from amt_jax.music.classes import tempo_class

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.matcher import PhraseMatcher
    from spacy.tokens import Doc, Span

GENRE, MOOD, INSTRUMENT = LABELS = ("GENRE", "MOOD", "INSTRUMENT")
TRAINED = "en_core_web_sm"
MAX_CHARACTERS = 100_000  # what comes after is not read
MAX_KEYWORDS = 64
# Confidences: the name itself; another form or word for it; misspelt, times the likeness, which is at least LIKENESS.
EXACT, FORM, LIKENESS, SHORTEST_MISSPELT = 1.0, 0.9, 0.83, 6

_ARTICLES = frozenset(("a", "an", "the", "some", "any"))
_NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # as amt_jax.music.features spells them
_KEY = re.compile(r"(?<![\w#'])([A-Ga-g])(?:[ -]?(#|♯|♭|b|sharps?|flat))?[ -]?(major|minor|maj|min|dur|moll)\b", re.I)
# "in E flat", "key of G"; "in A Night at the Opera" names no key.
_TONIC = re.compile(r"\b(?:key of|in) ([A-G])(?:[ -]?(#|♯|♭|b|sharp|flat))?(?=$|[.,;!?)]| [a-z])")
_BPM = re.compile(
    r"\b([1-9]\d{1,2}(?:\.\d+)?) ?(?:bpm\b|beats (?:per|a) minute)"
    r"|(?:♩|\bbpm|\btempo) ?(?:=|:|of|at)? ?(?:about|around)? ?([1-9]\d{1,2})\b",
    re.I,
)
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|https?://\S+|\[\d+\]")


@dataclasses.dataclass(frozen=True)
class Entity:
    """Something named in a text.

    Attributes:
      label: GENRE, MOOD or INSTRUMENT.
      value: its canonical name.
      words: as the text has them, without hyphens.
      confidence: 0..1, by EXACT, FORM and LIKENESS.
      negated: the text says not to have it.
    """

    label: str
    value: str
    words: str
    confidence: float
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class Understanding:
    """What a text says about music.

    Attributes:
      text: cleaned: NFKC, no markup or addresses, single spaces.
      keywords: words of content in the order of the text, each once.
      entities: in the order of the text, a value once (and once negated).
      valence, arousal: -1..1, the mean of the moods weighted by confidence; 0 where none is named.
      tempo: slow, moderate or fast (amt_jax.music.classes), "" if not named.
      bpm: None if not named.
      density: sparse, moderate or dense, "" if not named.
      mode: major or minor, "" if not named.
      key: "A minor" as amt_jax.music.features spells it, "A" if the tonic is named alone, "" if it is not named.
      language: "en", "" for a text without words, else the code of the language it seems to be in: then nothing in it
        is understood.
    """

    text: str
    keywords: tuple[str, ...] = ()
    entities: tuple[Entity, ...] = ()
    valence: float = 0.0
    arousal: float = 0.0
    tempo: str = ""
    bpm: float | None = None
    density: str = ""
    mode: str = ""
    key: str = ""
    language: str = "en"

    def values(self, label: str, *, negated: bool = False) -> tuple[str, ...]:
        """The values of a label that are wanted, or those that are not."""
        return tuple(each.value for each in self.entities if (each.label, each.negated) == (label, negated))

    @property
    def says_something(self) -> bool:
        """Whether anything about music is named."""
        return bool(self.entities or self.tempo or self.density or self.mode)


def understand(text: str) -> Understanding:
    """What a text says about music; UserError if spaCy is not installed."""
    return next(understand_all([text]))


def understand_all(texts: Iterable[str]) -> Iterator[Understanding]:
    """`understand` for each of many texts, faster."""
    language, matcher = _tools()
    cleaned, again = itertools.tee(clean(text) for text in texts)
    for text, doc in zip(again, language.pipe(_plain(text) for text in cleaned), strict=True):
        yield _understand(text, doc, matcher)


def sentences(text: str) -> list[str]:
    """A text's sentences, cleaned."""
    language, _ = _tools()
    from spacy.pipeline import Sentencizer

    doc = Sentencizer()(language.make_doc(clean(text)))
    return [sentence.text.strip() for sentence in doc.sents if sentence.text.strip()]


def clean(text: str) -> str:
    """A text in NFKC without markup, addresses, control and format characters, with single spaces."""
    text = (
        unicodedata.normalize("NFKC", text[:MAX_CHARACTERS])[:MAX_CHARACTERS]
        .replace("\u2019", "'")
        .replace("\u2018", "'")
    )
    text = _MARKUP.sub(" ", text)
    # Variation selectors (Mn) and joiners (Cf) would keep an emoji from its plain form.
    text = "".join(" " if c in "\t\n\r\v\f" else c for c in text if c.isspace() or not _invisible(c))
    return " ".join(text.split())


@functools.cache
def vocabulary() -> dict[str, dict[str, dict[str, Any]]]:
    """vocabulary.toml: table -> value -> its fields."""
    return tomllib.loads((Path(__file__).parent / "vocabulary.toml").read_text(encoding="utf-8"))


@functools.cache
def _words(table: str) -> frozenset[str]:
    return frozenset(vocabulary()[table]["words"])


@functools.lru_cache(65536)
def genre(name: str) -> str:
    """The genre that a whole name is a word for, "" if it is none."""
    return _forms()[GENRE].get(_plain(clean(name)).casefold(), "")


def is_form(genre: str) -> bool:
    """Whether a piece can be one: a waltz or a fugue, not jazz."""
    return vocabulary()["genres"].get(genre, {}).get("form", False)


def with_broader(genres: Iterable[str]) -> list[str]:
    """Genres and those that they always belong to: jig -> jig, folk. Unknown ones stay as they are."""
    table, found = vocabulary()["genres"], list(genres)
    for genre in found:
        if (broader := table.get(genre, {}).get("broader")) and broader not in found:
            found.append(broader)
    return found


@functools.cache
def _invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs") or character in "\ufe0e\ufe0f"


def _plain(text: str) -> str:
    """A cleaned text as it is matched: no hyphens inside words, "X-free" and "Xless" spelt out."""
    text = re.sub(r"\b(\w+)-free\b", r"no \1;", text)
    text = re.sub(r"\b(\w{3,})-?less\b", _less, text)
    text = re.sub(r"(?<=\w)[-\u2010\u2011_](?=\w)", " ", text)
    # Emoji stand close to words and to each other.
    return re.sub(r"([\u2600-\u27bf\U0001f300-\U0001faff])", r" \1 ", text)


def _less(match: re.Match) -> str:
    return f"no {match[1]};" if match[1].casefold() in _forms()[INSTRUMENT] else match[0]


@functools.cache
def _forms() -> dict[str, dict[str, str]]:
    """Label -> form (lower case) -> value."""
    words = vocabulary()
    forms: dict[str, dict[str, str]] = {label: {} for label in (*LABELS, "TEMPO", "DENSITY", "NOT", "")}
    for genre, fields in words["genres"].items():
        for word in fields["words"]:
            forms[GENRE] |= dict.fromkeys((word, _plural(word)), genre)
    forms[GENRE] |= {_plural(genre): genre for genre in words["genres"]}
    forms[GENRE] |= {genre: genre for genre in words["genres"]}
    for mood, fields in words["moods"].items():
        for word in (*fields["words"], mood):
            forms[MOOD] |= dict.fromkeys((word, *_adverb_and_noun(word)), mood)
    for name in (*instruments.LABELS, *itertools.chain(*instruments.ALIASES.values()), *instruments.NAMES):
        if name not in _words("unsaid") and not re.search(r"[(\d]", name):
            forms[INSTRUMENT] |= dict.fromkeys((_plural(name), name), instruments.find(name))
    for value, fields in words["instruments"].items():
        for word in fields["words"]:
            forms[INSTRUMENT] |= dict.fromkeys((word, _plural(word)), value)
    for label, table in (("TEMPO", "tempo"), ("DENSITY", "density")):
        for value, fields in words[table].items():
            if value != "moderate":  # by itself it may be of either
                forms[label][value] = value
            forms[label] |= dict.fromkeys(fields["words"], value)
    forms["NOT"] = dict.fromkeys(_words("negation"), "")
    forms[""] = dict.fromkeys(_words("ignored"), "")
    return forms


def _plural(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", word) + "s"


def _adverb_and_noun(word: str) -> tuple[str, str]:
    """sad -> sadly, sadness."""
    if word.endswith("le"):
        return word[:-1] + "y", word + "ness"
    stem = word[:-1] + "i" if word.endswith("y") else word
    return stem + ("ally" if word.endswith("ic") else "ly"), stem + "ness"


@functools.cache
def _tools() -> tuple[Language, PhraseMatcher]:
    """The pipeline and the matcher of all forms; a match's id is its label and value."""
    try:
        import spacy
        from spacy.matcher import PhraseMatcher
    except ModuleNotFoundError as error:
        raise UserError(f"understanding text needs {error.name}: pip install 'amt_jax[words]'") from None
    trained = spacy.util.is_package(TRAINED)
    language = spacy.load(TRAINED, exclude=["ner", "parser"]) if trained else spacy.blank("en")
    language.max_length = 4 * MAX_CHARACTERS  # each emoji gets two spaces
    matcher = PhraseMatcher(language.vocab, attr="LOWER")
    for label, forms in _forms().items():
        for value in dict.fromkeys(forms.values()):
            docs = [language.make_doc(form) for form, of in forms.items() if of == value]
            matcher.add(f"{label}|{value}", docs)
    return language, matcher


def _understand(text: str, doc: Doc, matcher: PhraseMatcher) -> Understanding:
    spans = _longest(matcher(doc, as_spans=True))
    found = [(*span.label_.split("|"), span, FORM) for span in spans]
    known = {token.i for span in spans for token in span}
    if not any(token.is_alpha for token in doc) and not found:
        return Understanding(text, language="")
    if (code := _language(text, doc, known)) != "en":
        return Understanding(text, language=code)
    found += [(*match, doc[i : i + 1], likeness) for i, match, likeness in _misspelt(doc, known)]
    found.sort(key=lambda each: each[2].start)
    negated = set().union(*(_scope(doc, span) for label, _, span, _ in found if label == "NOT"))
    entities: dict[tuple, Entity] = {}
    classes = {"TEMPO": "", "DENSITY": ""}
    for label, value, span, confidence in found:
        no = span.start in negated
        if label in LABELS:
            confidence = EXACT if span.text.casefold() == value else confidence
            entity = Entity(label, value, span.text, round(confidence, 3), no)
            if entity.confidence > getattr(entities.get((label, value, no)), "confidence", 0):
                entities[label, value, no] = entity
        elif label in classes and not no:
            classes[label] = classes[label] or value
    key, mode = _key_and_mode(text)
    bpm = next((float(match[1] or match[2]) for match in _BPM.finditer(text)), None)
    valence, arousal = _emotion(entities.values())
    return Understanding(
        text=text,
        keywords=_keywords(doc, spans),
        entities=tuple(entities.values()),
        valence=valence,
        arousal=arousal,
        tempo=tempo_class(bpm) if bpm else classes["TEMPO"],
        bpm=bpm,
        density=classes["DENSITY"],
        mode=mode,
        key=key,
    )


def _longest(spans: list[Span]) -> list[Span]:
    """Spans that do not overlap, in order; the longer wins, and a phrase to be ignored over others of its length."""
    taken: set[int] = set()
    kept = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, not span.label_.startswith("|"), span.start)):
        if taken.isdisjoint(range(span.start, span.end)):
            taken.update(range(span.start, span.end))
            kept.append(span)
    return sorted(kept, key=lambda span: span.start)


def _scope(doc: Doc, cue: Span) -> set[int]:
    """Tokens that a negation takes back."""
    scope: set[int] = set()
    words = [token.lower_ for token in doc[cue.end : cue.end + 40]]
    stops = _words("clause_ends") | _words("negation")  # The next negation has a scope of its own.
    ends = next((i for i, word in enumerate(words) if word in stops), len(words))
    for i, word in enumerate(words[:ends]):
        if word == "," and not {"or", "nor"} & set(words[i : ends + 1]):
            break
        # "no drums and a piano" wants a piano, "without a guitar and a piano" neither.
        if word == "and" and words[i + 1 : i + 2] and words[i + 1] in _ARTICLES and words[0] not in _ARTICLES:
            break
        scope.add(cue.end + i)
    return scope


def _misspelt(doc: Doc, known: set[int]) -> Iterator[tuple[int, tuple[str, str], float]]:
    for token in doc:
        if token.i not in known and token.is_alpha and not token.is_stop and len(token) >= SHORTEST_MISSPELT:
            match, likeness = _nearest(token.lower_)
            if match:
                yield token.i, match, FORM * likeness


@functools.lru_cache(65536)
def _nearest(word: str) -> tuple[tuple[str, str] | None, float]:
    """(label, value) of the form that a word seems to misspell, and how alike they are, 0..1."""
    from rapidfuzz import process
    from rapidfuzz.distance import DamerauLevenshtein

    table = _spellings().get(word[0] + word[-1], {})
    best = process.extractOne(
        word, table.keys(), scorer=DamerauLevenshtein.normalized_similarity, score_cutoff=LIKENESS
    )
    return (table[best[0]], best[1]) if best else (None, 0.0)


@functools.cache
def _spellings() -> dict[str, dict[str, tuple[str, str]]]:
    """First and last letter -> form of one long word -> label, value.

    Slips seldom touch the first and the last letter, other words of one stem differ in the last: recorded and
    recorder, American and Americana. So do not -ing, -ed and plurals, which are left out.
    """
    words = vocabulary()
    tables = ((GENRE, words["genres"]), (MOOD, words["moods"]))
    forms = {
        form: (label, value) for label, table in tables for value in table for form in (value, *table[value]["words"])
    }
    forms |= {form: (INSTRUMENT, value) for form, value in _forms()[INSTRUMENT].items()}
    table: dict[str, dict[str, tuple[str, str]]] = {}
    for form, found in forms.items():
        if form.isalpha() and len(form) >= SHORTEST_MISSPELT and not form.endswith(("ing", "ed", "s")):
            table.setdefault(form[0] + form[-1], {})[form] = found
    return table


def _language(text: str, doc: Doc, known: set[int]) -> str:
    """The code of a text's language. Words of music and small English words speak for English."""
    words = [token for token in doc if token.is_alpha]
    english = sum(token.i in known or token.is_stop for token in words)
    if 2 * english >= len(words):
        return "en"
    import py3langid

    ranks = {code: score for code, score in py3langid.rank(text) if code in _words("languages")}
    best = max(ranks, key=ranks.get)
    # Log probabilities: few words give small differences.
    return best if ranks[best] - ranks["en"] > 12 + 4 * english else "en"


def _key_and_mode(text: str) -> tuple[str, str]:
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
    genres = "|".join(map(re.escape, _forms()[GENRE]))
    return re.compile(
        rf"\b(major|minor)[ -](?:{nouns}|(?:{genres})\b)|\bin (?:a |the )?(major|minor)\b|\b(major|minor)(?:$|[.,;!?])",
        re.I,
    )


def _emotion(entities: Iterable[Entity]) -> tuple[float, float]:
    moods = [each for each in entities if each.label == MOOD and not each.negated]
    weight = sum(each.confidence for each in moods)
    table = vocabulary()["moods"]
    return tuple(
        round(sum(each.confidence * table[each.value][axis] for each in moods) / weight, 3) if weight else 0.0
        for axis in ("valence", "arousal")
    )


def _keywords(doc: Doc, spans: list[Span]) -> tuple[str, ...]:
    """Phrases of music and words of content; a trained pipeline gives lemmas and leaves out verbs and adverbs."""
    phrases = {span.start: span for span in spans if span.label_.partition("|")[0] in LABELS}
    inside = {token.i for span in spans for token in span}
    words = []
    for token in doc:
        if token.i in phrases:
            words.append(phrases[token.i].text.casefold())
        elif token.i not in inside and token.is_alpha and not token.is_stop and len(token) > 2:
            words += [token.lemma_.casefold() or token.lower_] if token.pos_ in ("", "NOUN", "PROPN", "ADJ") else []
    return tuple(word for word in dict.fromkeys(words) if word not in _words("generic"))[:MAX_KEYWORDS]
