"""Wikipedia: what its page about a song or a work says first."""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from urllib.parse import urlsplit

from rapidfuzz import fuzz, process

from data_prep.words.mediawiki import Refused, Wiki
from data_prep.words.text import Missing, Text

LICENCE = "CC BY-SA 4.0"  # Wikipedia's; other wikis have their own
MIN_CONFIDENCE = 0.65
CANDIDATES = 5  # All their introductions come in one answer, which is some 10 kB in the cache.

# Works have catalogue numbers and forms, and titles that differ between languages and catalogues; songs have names.
_WORK = re.compile(
    r"\b(?:bwv|kv?|op(?:us)?|hob|hwv|rv|woo|wwv|d)[ .]*\d"
    r"|\b(?:sonatas?|sonatina|preludes?|fugues?|etudes?|nocturnes?|ballades?|scherzos?|impromptus?|concertos?|symphony|"
    r"partita|mazurkas?|polonaises?|bagatelles?|inventions?|rhapsody|toccata)\b"
)
_MUSIC = (
    r"songs?|singles?|instrumental|compositions?|composed|aria|lied|hymn|carol|anthem|tune|ballad|standard|"
    r"pieces?|sonatas?|sonatina|preludes?|fugues?|etudes?|nocturnes?|ballades?|scherzos?|impromptus?|concertos?|"
    r"symphony|symphonic|suite|waltz(?:es)?|mazurkas?|polonaises?|bagatelles?|inventions?|rhapsody|toccata"
)
_OTHER = (
    r"albums?|ep|soundtrack|film|movie|series|episode|novel|book|play|musical|opera|video|game|band|group|duo|singer|"
    r"songwriter|musician|composer|rapper|company|city|town|village|river|battle|ship|character|tour|discography"
)
_KIND = re.compile(rf"\b(?:(?P<music>{_MUSIC})|{_OTHER})\b")
_BRACKETS = re.compile(r"\s*[(\[][^)\]]*[)\]]")
_NUMBERS = re.compile(r"^\d\d?[ ._]*-\s*|\.\d+$")  # of a track on its record, of a file among those of one song
_SMALL = {"the", "a", "and", "feat", "featuring", "ft", "with"}


def find(wiki: Wiki, artist: str, title: str) -> Text | Missing:
    """The introduction of the page that is most surely about `title` by `artist`; NoAnswer if the wiki gives none.

    The confidence is how well the titles agree (0 below four fifths, or if a number is not on the page), times
    0.6 × the share of the artist's names in the page's title or introduction (half of it if no artist is known) + 0.4
    if the page is about music: as its title says in brackets, or else the first such word of its introduction.
    """
    best, best_page = 0.0, None
    for search in searches(artist, title):
        try:
            pages = wiki.pages(
                generator="search",
                gsrsearch=search,
                gsrlimit=str(CANDIDATES),
                prop="extracts|info|pageprops",
                exintro="1",
                explaintext="1",
                exlimit="max",
                inprop="url",
                ppprop="disambiguation",
                redirects="1",
            )
        except Refused as error:
            return Missing("wikipedia", title, artist, "the wiki refuses the question", str(error))
        for page in pages:
            if (confidence := score(page, artist, title)) > best:
                best, best_page = confidence, page
        if best >= MIN_CONFIDENCE:
            break
    if best_page is None:
        reason = "no page" if searches(artist, title) else "no letters or digits to search for"
        return Missing("wikipedia", title, artist, reason)
    if best < MIN_CONFIDENCE:
        return Missing("wikipedia", title, artist, "no page is sure enough", f"{best_page['title']} ({best:.2f})")
    url = best_page["fullurl"]
    return Text(
        title,
        artist,
        best_page["extract"],
        "wikipedia",
        url=url,
        revision=best_page["lastrevid"],
        licence=LICENCE if urlsplit(url).netloc.endswith(".wikipedia.org") else "",
        confidence=round(best, 2),
    )


def searches(artist: str, title: str) -> list[str]:
    """What to search for, one after the other; no character that CirrusSearch takes for an operator.

    Nothing for names without letters and digits, such as "!!!": a wiki refuses an empty search.
    """
    plain = " ".join(re.findall(r"[\w'&]+", f"{artist} {_bare(title)}".replace("_", " ")))[:250]
    if not re.search(r"\w", plain):
        return []
    return [plain] if _WORK.search(_fold(title)) else [f"{plain} (song)", plain]


def score(page: dict[str, Any], artist: str, title: str) -> float:
    """How sure it is that a page is about `title` by `artist`; 0 for one that is missing, empty or a list of pages."""
    extract = page.get("extract") or ""
    if page.get("missing") or "disambiguation" in page.get("pageprops", {}) or not extract.strip():
        return 0.0
    name = _words(page["title"])
    wanted, there = _words(_bare(title)), name + _words(extract[:1500])
    numbers = {word for word in wanted if word.isdigit()}
    if not numbers <= set(there):
        return 0.0
    if _WORK.search(_fold(title)):
        same = _share(wanted, there) * (1.0 if numbers <= set(name) else 0.9)  # Pages speak of their neighbours.
    else:
        names = [page["title"], *page.get("aliases", ())]
        same = max(fuzz.ratio(" ".join(wanted), " ".join(_words(_bare(name)))) / 100 for name in names)
    if same < 0.8:
        return 0.0
    kind = _kind(" ".join(_BRACKETS.findall(page["title"]))) or _kind(extract[:400])
    names = [word for word in _words(artist) if word not in _SMALL] or _words(artist)
    by = _share(names, there) if names else 0.5
    return same * (0.6 * by + 0.4 * (kind == "music"))


def _kind(text: str) -> str:
    match = _KIND.search(_fold(text))
    return "" if match is None else "music" if match["music"] else "other"


def _share(wanted: list[str], there: list[str]) -> float:
    """Share of the words that are there, or one that is spelt nearly so."""
    found = sum(process.extractOne(word, there, scorer=fuzz.ratio, score_cutoff=85) is not None for word in wanted)
    return found / max(1, len(wanted))


def _bare(title: str) -> str:
    """A title without what stands in brackets and numbers of files, unless that is all."""
    return _NUMBERS.sub("", _BRACKETS.sub("", title)).strip() or title


def _fold(text: str) -> str:
    """Small letters without accents."""
    letters = unicodedata.normalize("NFKD", text.replace("_", " ").casefold())
    return "".join(each for each in letters if not unicodedata.combining(each))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _fold(text).replace("'", "").replace("\u2019", ""))
