"""Decisions: what becomes of every file, from small rows alone, whoever read the files.

    drop exact duplicates → families by folders, metadata and similarity → splits

Files are looked at in sorted order and all randomness comes from hashes, so the outcomes are the same for every runner,
number of workers and order in which they finished.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from amt_jax.data.record import ConditionValue
from amt_jax.errors import UserError
from data_prep import pool
from data_prep.dataset.families import Families, assign_splits, folder_key
from data_prep.dataset.metadata import Metadata
from data_prep.dataset.outcome import DUPLICATE, KEPT, SKIPPED, Outcome
from data_prep.dataset.piece import Finding
from data_prep.dataset.settings import Settings
from data_prep.files import Source

MIN_PIECES = 3
BRIDGE = "bridges two splits"
# These say more about the day than about the file: they are tried again when the folder is prepared again.
PASSING = (pool.TIMED_OUT, pool.CRASHED, "unreadable")


class TooLittle(UserError):
    """No dataset can be made of what there is."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """What there is to decide about.

    Attributes:
      sources: every file of the input, sorted by name, then sha256.
      findings: sha256 -> what a file of these bytes is, for all that `known` does not hold.
      links: pairs of pieces that are similar, new or known; every pair once, in any order.
    """

    sources: Sequence[Source]
    findings: Mapping[str, Finding]
    links: Iterable[tuple[str, str]]


def known(old: Iterable[Outcome]) -> set[str]:
    """The sha256s of contents that need not be looked at again."""
    return {each.sha256 for each in old if each.reason not in PASSING}


def decide(
    old: Sequence[Outcome],
    survey: Survey,
    settings: Settings,
    metadata: Metadata | None,
    descriptions: Mapping[str, Mapping[str, ConditionValue]],
) -> list[Outcome]:
    """The outcome of every file, those of the `old` ones included, sorted; raises TooLittle.

    What is new and kept has its family, its split and what `descriptions` say of it, by source (see `told`). What was
    decided before stays, save for PASSING failures.
    """
    settled = {(each.source, each.sha256): each for each in old if each.reason not in PASSING}
    seen = {each.sha256: each for each in settled.values()}
    pieces = [each for each in old if each.kept]
    first = {each.piece: each.source for each in pieces}
    skipped, duplicates, candidates = [], [], []
    for source in survey.sources:
        if (source.name, source.sha256) in settled:
            continue
        each = _judge(source, seen.get(source.sha256), survey.findings, metadata)
        if each.reason:
            skipped.append(each)
        elif each.piece in first:
            duplicates.append(
                dataclasses.replace(each, outcome=DUPLICATE, original=first[each.piece], tokens=0, seconds=0.0)
            )
        else:
            first[each.piece] = each.source
            candidates.append(each)
    if len(pieces) + len(candidates) < MIN_PIECES:
        reasons = Counter(each.reason for each in skipped) + Counter({DUPLICATE: len(duplicates)})
        listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        usable = f"{len(candidates) or 'none'} of {len(survey.sources)} MIDI files can be used"
        listing = f"; the others: {listing}" if listing else ""
        raise TooLittle(f"{usable}, at least {MIN_PIECES} are needed{listing}")
    twins = copies(duplicates)
    candidates = [
        dataclasses.replace(each, conditions=told(each.source, twins[each.piece], descriptions)) for each in candidates
    ]
    works = defaultdict(list)
    for each in (*old, *duplicates):
        works[each.piece].append(each.work)
    candidates = _place(pieces, candidates, works, survey.links, settings)
    kept = {each.piece: each for each in (*pieces, *candidates) if each.kept}
    duplicates = [
        dataclasses.replace(each, family=kept[each.piece].family, split=kept[each.piece].split)
        if each.piece in kept
        else dataclasses.replace(each, outcome=SKIPPED, reason=BRIDGE, original="")
        for each in duplicates
    ]
    decided = skipped + duplicates + candidates
    # A passing failure makes way for what came of the new try, also under another content.
    again = {each.source for each in decided}
    stay = [each for each in old if each.reason not in PASSING or each.source not in again]
    return sorted(stay + decided)


def copies(outcomes: Iterable[Outcome]) -> Mapping[str, Sequence[str]]:
    """The sources of duplicates, by their piece."""
    found = defaultdict(list)
    for each in outcomes:
        if each.outcome == DUPLICATE:
            found[each.piece].append(each.source)
    return found


def told(
    source: str, twins: Iterable[str], descriptions: Mapping[str, Mapping[str, ConditionValue]]
) -> Mapping[str, ConditionValue]:
    """What is said of a piece: its own description, and what people said of its `twins`, files of the same music."""
    own = descriptions.get(source, {})
    captions = list(own.get("text", ()))
    for twin in sorted(twins):
        theirs = descriptions.get(twin, {}).get("text", ())
        captions += [each for each in theirs if each["human"] and each not in captions]
    return {**own, "text": captions} if captions else own


def _judge(source: Source, twin: Outcome | None, findings: Mapping[str, Finding], metadata: Metadata | None) -> Outcome:
    """What a new file is by itself, `twin` being an older one with the same bytes: skipped, or a piece."""
    each = Outcome(source.name, source.sha256, SKIPPED)
    for found in (source, twin or findings.get(source.sha256)):
        if found is not None and found.reason:
            return dataclasses.replace(each, reason=found.reason, details=found.details)
    each = dataclasses.replace(
        each,
        composer=_composer(source.name, metadata),
        work=_work(source.name, metadata),
        licence=_licence(source.name, metadata),
    )
    if twin is not None:
        return dataclasses.replace(each, piece=twin.piece)
    finding = findings[source.sha256]
    return dataclasses.replace(each, piece=finding.piece, tokens=finding.tokens, seconds=finding.seconds)


def _composer(name: str, metadata: Metadata | None) -> str:
    if metadata is not None and metadata.composers is not None:
        return metadata.composers.get(name, "")
    return name.partition("/")[0] if "/" in name else ""


def _work(name: str, metadata: Metadata | None) -> str:
    families = metadata.families if metadata is not None else None
    return (families or {}).get(name) or folder_key(name)


def _licence(name: str, metadata: Metadata | None) -> str:
    licences = metadata.licences if metadata is not None else None
    return (licences or {}).get(name, "")


def _place(
    old: Sequence[Outcome],
    candidates: Sequence[Outcome],
    works: Mapping[str, Sequence[str]],
    links: Iterable[tuple[str, str]],
    settings: Settings,
) -> list[Outcome]:
    """Gives each candidate its family and split, or the reason why it can have none.

    `works` are names of works by piece, from every file that holds it.
    """
    similar = defaultdict(set)
    for one, other in links:
        similar[one].add(other)
        similar[other].add(one)
    families = Families()
    for each in old:
        families.add_known(each.family, each.split, [key for key in (*works[each.piece], each.source) if key])
    for each in old:
        families.add_alias(each.piece, each.family)
    joined = []
    for each in candidates:
        keys = list(dict.fromkeys(key for key in (each.work, *works[each.piece], each.source) if key))
        joined.append(families.add(each.piece, keys, sorted(similar[each.piece])))
    named = [
        dataclasses.replace(each, outcome=KEPT, family=families.family(each.piece))
        if fits
        else dataclasses.replace(each, reason=BRIDGE, tokens=0, seconds=0.0, conditions={})
        for each, fits in zip(candidates, joined, strict=True)
    ]
    splits = assign_splits(
        [each.family for each in (*old, *named) if each.kept],
        {each.family: each.split for each in old},
        {"test": settings.test, "valid": settings.valid},
        settings.seed,
    )
    return [dataclasses.replace(each, split=splits[each.family]) if each.kept else each for each in named]
