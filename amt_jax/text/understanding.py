"""Understanding: what a text says about music, by rules and the words of vocabulary.toml.

spaCy splits the text and finds the phrases; nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from amt_jax.errors import UserError
from amt_jax.music.classes import tempo_class
from amt_jax.text import vocabulary
from amt_jax.text.cleaning import clean
from amt_jax.text.keys import key_and_mode
from amt_jax.text.vocabulary import GENRE, INSTRUMENT, LABELS, MOOD, SHORTEST_MISSPELT

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.matcher import PhraseMatcher
    from spacy.tokens import Doc, Span

TRAINED = "en_core_web_sm"
MAX_CHARACTERS = 100_000  # what comes after is not read
MAX_KEYWORDS = 64
EXACT, FORM = 1.0, 0.9  # confidences: the name itself; another form or word for it, misspelt times the likeness

_ARTICLES = frozenset(("a", "an", "the", "some", "any"))
_JOINED = _ARTICLES | {"and", "or", "nor"}
_VERBS = frozenset(("is", "are", "be", "being", "should", "must", "shall", "to"))  # before "absent"
_FROM_30 = r"(?:[3-9]\d|[1-9]\d\d)"
_BPM = re.compile(
    rf"\b({_FROM_30}(?:\.\d+)?) ?(?:bpm\b|beats (?:per|a) minute)"
    rf"|(?:♩|\bbpm|\btempo) ?(?:=|:|of|at)? ?(?:about|around)? ?({_FROM_30})\b(?![ -]?bars?\b)",
    re.I,
)
_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\ufe0e": None, "\ufe0f": None})
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|https?://\S+|\[\d+\]")


@dataclasses.dataclass(frozen=True)
class Entity:
    """Something named in a text.

    Attributes:
      label: GENRE, MOOD or INSTRUMENT.
      value: its canonical name.
      words: as the text has them, without hyphens.
      confidence: 0..1, by EXACT, FORM and vocabulary.LIKENESS.
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
      text: cleaned, without markup and addresses.
      wanted: the text without hyphens and without what its negations take back first.
      keywords: words of content in the order of the text, each once.
      entities: in the order of the text, a value once (and once negated).
      valence, arousal: -1..1, the mean of the moods weighted by confidence; 0 where none is named.
      tempo: slow, moderate or fast (amt_jax.music.classes), "" if not named.
      bpm: from 30 on; None if not named.
      density: sparse, moderate or dense, "" if not named.
      mode: major or minor, "" if not named.
      key: "A minor" as amt_jax.music.features spells it, "A" if the tonic is named alone, "" if it is not named.
      language: "en", "" for a text without words, else the code of the language it seems to be in: then nothing in it
        is understood.
    """

    text: str
    wanted: str = ""
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
    for doc, text in language.pipe(((_plain(text), text) for text in map(_readable, texts)), as_tuples=True):
        yield _understand(text, doc, matcher)


def sentences(text: str) -> list[str]:
    """A text's sentences, cleaned, without markup and addresses."""
    language, _ = _tools()
    from spacy.pipeline import Sentencizer

    doc = Sentencizer()(language.make_doc(_readable(text)))
    return [sentence.text.strip() for sentence in doc.sents if sentence.text.strip()]


@functools.lru_cache(65536)
def genre(name: str) -> str:
    """The genre that a whole name is a word for, "" if it is none."""
    return vocabulary.forms()[GENRE].get(_plain(_readable(name)).casefold(), "")


def _readable(text: str) -> str:
    """A cleaned text without markup and addresses, its apostrophes straight, its emoji plain (variation selectors)."""
    text = clean(text[:MAX_CHARACTERS])[:MAX_CHARACTERS].translate(_STRAIGHT)
    return " ".join(_MARKUP.sub(" ", text).split())


def _plain(text: str) -> str:
    """A cleaned text as it is matched: no hyphens inside words, "X-free" and "Xless" spelt out."""
    text = re.sub(r"\b(\w+)-free\b", r"no \1;", text)
    text = re.sub(r"\b(\w{3,})-?less\b", _less, text)
    text = re.sub(r"(?<=\w)[-\u2010\u2011_](?=\w)", " ", text)
    # Emoji stand close to words and to each other; ♭, ♮ and ♯ are none.
    return re.sub(r"([\u2600-\u266c\u2670-\u27bf\U0001f300-\U0001faff])", r" \1 ", text)


def _less(match: re.Match) -> str:
    return f"no {match[1]};" if match[1].casefold() in vocabulary.forms()[INSTRUMENT] else match[0]


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
    for label, forms in vocabulary.forms().items():
        for value in dict.fromkeys(forms.values()):
            docs = [language.make_doc(form) for form, of in forms.items() if of == value]
            matcher.add(f"{label}|{value}", docs)
    return language, matcher


def _understand(text: str, doc: Doc, matcher: PhraseMatcher) -> Understanding:
    from spacy.util import filter_spans

    # The longest first, and of two for the same words the one to be ignored.
    spans = filter_spans(sorted(matcher(doc, as_spans=True), key=lambda span: not span.label_.startswith("|")))
    found = [(*span.label_.split("|"), span, FORM) for span in spans]
    known = {token.i for span in spans for token in span}
    if not any(token.is_alpha for token in doc) and not found:
        return Understanding(text, language="")
    if (code := _language(text, doc, known)) != "en":
        return Understanding(text, language=code)
    found += [(*match, doc[i : i + 1], likeness) for i, match, likeness in _misspelt(doc, known)]
    found.sort(key=lambda each: each[2].start)
    named = {token.i for label, _, span, _ in found if label in LABELS for token in span}
    scopes = [_scope(doc, span) for label, _, span, _ in found if label == "NOT"]
    negated = set().union(
        *scopes,
        *(_scope_before(doc, span, named) for label, _, span, _ in found if label == "ABSENT"),
    )
    entities: dict[tuple, Entity] = {}
    classes: dict[str, str] = {}
    for label, value, span, confidence in found:
        no = span.start in negated
        if label in LABELS:
            confidence = EXACT if span.text.casefold() == value else confidence
            entity = Entity(label, value, span.text, round(confidence, 3), no)
            if entity.confidence > getattr(entities.get((label, value, no)), "confidence", 0):
                entities[label, value, no] = entity
        elif not no:
            classes.setdefault(label, value)
    # "no drums in A minor" is about drums: of keys and numbers a negation takes back what it names first.
    refused = {i for scope in scopes for i in itertools.takewhile(lambda i: i not in named, sorted(scope))}
    wanted = "".join(token.text_with_ws for token in doc if token.i not in refused)
    key, mode = key_and_mode(wanted)
    bpm = next((float(match[1] or match[2]) for match in _BPM.finditer(wanted)), None)
    valence, arousal = _emotion(entities.values())
    return Understanding(
        text=text,
        wanted=wanted,
        keywords=_keywords(doc, spans),
        entities=tuple(entities.values()),
        valence=valence,
        arousal=arousal,
        tempo=tempo_class(bpm) if bpm else classes.get("TEMPO", ""),
        bpm=bpm,
        density=classes.get("DENSITY", ""),
        mode=mode,
        key=key,
    )


def _scope(doc: Doc, cue: Span) -> set[int]:
    """Tokens that a negation takes back."""
    scope: set[int] = set()
    words = [token.lower_ for token in doc[cue.end : cue.end + 40]]
    stops = vocabulary.words("clause_ends") | vocabulary.words("negation")  # The next negation has a scope of its own.
    ends = next((i for i, word in enumerate(words) if word in stops), len(words))
    for i, word in enumerate(words[:ends]):
        if word == "," and not {"or", "nor"} & set(words[i : ends + 1]):
            break
        # "no drums and a piano" wants a piano, "without a guitar and a piano" neither.
        if word == "and" and words[i + 1 : i + 2] and words[i + 1] in _ARTICLES and words[0] not in _ARTICLES:
            break
        scope.add(cue.end + i)
    return scope


def _scope_before(doc: Doc, cue: Span, named: set[int]) -> set[int]:
    """Tokens that words of absence take back, named right before them: "the drums and the bass are left out"."""
    before = itertools.dropwhile(lambda i: doc[i].lower_ in _VERBS, reversed(range(cue.start)))
    return set(itertools.takewhile(lambda i: i in named or doc[i].lower_ in _JOINED, before))


def _misspelt(doc: Doc, known: set[int]) -> Iterator[tuple[int, tuple[str, str], float]]:
    for token in doc:
        if token.i not in known and token.is_alpha and not token.is_stop and len(token) >= SHORTEST_MISSPELT:
            match, likeness = vocabulary.misspelt(token.lower_)
            if match:
                yield token.i, match, FORM * likeness


def _language(text: str, doc: Doc, known: set[int]) -> str:
    """The code of a text's language. Words of music and small English words speak for English."""
    words = [token for token in doc if token.is_alpha]
    english = sum(token.i in known or token.is_stop for token in words)
    if 2 * english >= len(words):
        return "en"
    import py3langid

    ranks = {code: score for code, score in py3langid.rank(text) if code in vocabulary.words("languages")}
    lead = ranks.pop("en")
    best = max(ranks, key=ranks.get)
    letters = [each for each in text if each.isalpha()]
    if sum(map(str.isascii, letters)) <= len(letters) / 2:
        return best
    # Log probabilities: few words give small differences.
    return best if ranks[best] - lead > 12 + 4 * english else "en"


def _emotion(entities: Iterable[Entity]) -> tuple[float, float]:
    moods = [each for each in entities if each.label == MOOD and not each.negated]
    weight = sum(each.confidence for each in moods)
    table = vocabulary.tables()["moods"]
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
        elif token.i in inside or not token.is_alpha or token.is_stop or len(token) < 3:
            continue
        elif token.pos_ in ("", "NOUN", "PROPN", "ADJ"):
            words.append(token.lemma_.casefold() or token.lower_)
    return tuple(word for word in dict.fromkeys(words) if word not in vocabulary.words("generic"))[:MAX_KEYWORDS]
