"""Preparation: a folder of MIDI files into a dataset folder.

    find → survey (a runner) → decide → write shards (a runner) → card → commit

A runner does the heavy work, by the processes of one machine (local.py) or on a cluster (beam.py). What decides is the
same code on the same rows, so the dataset is the same bytes for any runner, number of workers, order in which they
finish, and after interruptions.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from amt_jax import storage
from amt_jax.data.card import FILE, SPLITS, Card, Split, combine
from amt_jax.data.conditions import SEMANTIC, TEXT
from amt_jax.data.record import ConditionValue
from amt_jax.errors import UserError
from amt_jax.tokens.symbolic import SymbolicTokenizer
from data_prep import files
from data_prep.dataset import composers, outcome, piece, shards, similarity
from data_prep.dataset import descriptions as described
from data_prep.dataset.decisions import Survey, TooLittle, copies, decide, told
from data_prep.dataset.journal import Journal
from data_prep.dataset.local import Local
from data_prep.dataset.metadata import Metadata
from data_prep.dataset.outcome import Outcome
from data_prep.dataset.piece import Piece
from data_prep.dataset.settings import Settings
from data_prep.dataset.staging import Staging

# Pair counts settle long before all of a large collection is seen, and training BPE takes memory.
BPE_PIECES = 4000


class Runner(Protocol):
    """The heavy part of a preparation."""

    def survey(self, folder: str, paths: Sequence[str], old: Sequence[Outcome]) -> Survey:
        """Reads, hashes and tokenizes the files at `paths`, and finds similar pieces among them and the `old` ones."""

    def pieces(self, sha256s: Sequence[str]) -> Iterator[Piece]:
        """Pieces of contents surveyed before, in this order."""

    def write(self, plans: Sequence[shards.Plan], licence: str) -> None:
        """Writes shards by shards.write with the tokenizer that lies in the draft."""


# (staging, journal, preset of the tokenizer) -> a Runner
MakeRunner = Callable[[Staging, Journal, str], Runner]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation did.

    Attributes:
      card: the dataset's card as it is now.
      outcomes: every file's, those of earlier preparations included.
      changed: False if there was nothing to do.
      added: pieces that are new in the dataset.
      missing: files of the dataset that are not in the input any more.
      unlisted: input files without a line in the metadata.
      undescribed: input files without a description, if there are descriptions.
      strays: descriptions of files that are not in the input.
      outdated: pieces that were in the dataset before, and whose description says something else now.
      unreadable: folders that could not be looked into.
    """

    card: Card
    outcomes: tuple[Outcome, ...]
    changed: bool
    added: int
    missing: int
    unlisted: int
    undescribed: int
    strays: int
    outdated: int
    unreadable: tuple[str, ...]


def prepare(
    folder: str,
    dataset: str | os.PathLike,
    settings: Settings,
    metadata: Metadata | None = None,
    descriptions: Mapping[str, Mapping[str, ConditionValue]] | None = None,
    licence: str = "",
    make_runner: MakeRunner = Local,
) -> Prepared:
    """Prepares every MIDI file under `folder` into `dataset`, or adds the new ones to the dataset that is there.

    `descriptions` tell what is known of a file by its name, as `descriptions.read` gives it.
    Both may lie in an object store; what goes to `dataset` there is made in the cache of this machine.
    Raises UserError for what the person can put right. An interrupted or failed preparation leaves the dataset as it
    was.
    """
    settings_json = settings.to_json()
    tokenizer = SymbolicTokenizer.create(settings.tokenizer)
    base = tokenizer.spec.base_size
    if settings.bpe and not base < settings.bpe <= 2**16:
        raise UserError(f"--bpe={settings.bpe}: {settings.tokenizer} has {base} ids, and with BPE up to {2**16}")
    found = files.find(folder)
    here = {files.relative(path, folder) for path in found.paths}
    listed = here if metadata is None or metadata.names is None else metadata.names
    if here.isdisjoint(listed):
        raise UserError(f"no path in the metadata is a file of {folder!r} (such as {min(here)!r}): --path-column?")
    if descriptions is not None and here.isdisjoint(descriptions):
        raise UserError(f"no path in the descriptions is a file of {folder!r} (such as {min(here)!r})")
    if descriptions and "Program" not in tokenizer.spec.ranges:  # whatever played, the model hears one piano
        descriptions = {
            name: {kind: value for kind, value in values.items() if kind != "instruments"}
            for name, values in descriptions.items()
        }
    # Before anything is touched: an interrupted preparation with other settings keeps its work.
    _card(dataset, settings_json, tokenizer)
    staging = _staging(dataset)
    # Whoever has it open is the only one to prepare into this dataset.
    journal = Journal(staging.folder / "journal.sqlite", json.dumps([settings.tokenizer, piece.VERSION]))
    try:
        staging.recover()
        card, old = _card(dataset, settings_json, tokenizer), []
        if card:
            card.verify(staging.dataset)
            old = sorted(outcome.read(staging.dataset))
        runner = make_runner(staging, journal, settings.tokenizer)
        outcomes = decide(old, runner.survey(folder, found.paths, old), settings, metadata, descriptions or {})
        if changed := outcomes != old:
            outcomes = _write(staging, runner, card, old, outcomes, settings, licence)
            staging.commit()
    except TooLittle:
        staging.remove()
        raise
    finally:
        journal.close()
    staging.remove()
    twins = copies(outcomes)
    return Prepared(
        card=Card.load(dataset),
        outcomes=tuple(outcomes),
        changed=changed,
        added=len(_added(outcomes, old)),
        missing=len({each.source for each in outcomes} - here),
        unlisted=len(here - listed),
        undescribed=len(here - set(descriptions)) if descriptions else 0,
        strays=len(set(descriptions or ()) - here),
        outdated=sum(
            each.kept and told(each.source, twins[each.piece], descriptions or {}) not in ({}, each.conditions)
            for each in old
        ),
        unreadable=found.unreadable,
    )


def _staging(dataset: str | os.PathLike) -> Staging:
    if not storage.is_remote(dataset):
        return Staging(Path(dataset))
    from data_prep.dataset.remote import RemoteStaging

    return RemoteStaging(os.fspath(dataset))


def _card(dataset: str | os.PathLike, settings: dict, tokenizer: SymbolicTokenizer) -> Card | None:
    """The dataset's card if there is one; UserError if it was made with other settings."""
    if not (storage.open_folder(dataset) / FILE).exists():
        return None
    card = Card.load(dataset)
    was = dict(card.preparation)
    differences = [
        f"{name} was {was.get(name)!r}, now {settings.get(name)!r}"
        for name in settings | was
        if was.get(name) != settings.get(name)
    ]
    if not differences and dict(card.spec.ranges) != dict(tokenizer.spec.ranges):
        differences = [f"another version of the tokenizer {tokenizer.name} made it"]
    if differences:
        raise UserError(
            f"{str(dataset)!r} was made with other settings ({'; '.join(differences)}): take those or another --output"
        )
    return card


def _added(outcomes: Iterable[Outcome], old: Iterable[Outcome]) -> list[Outcome]:
    before = {each.piece for each in old if each.kept}
    return [each for each in outcomes if each.kept and each.piece not in before]


def _write(
    staging: Staging,
    runner: Runner,
    card: Card | None,
    old: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    settings: Settings,
    licence: str,
) -> list[Outcome]:
    """Writes everything new into the draft, the card last; returns the outcomes with lengths after BPE."""
    draft, added = staging.draft, _added(outcomes, old)
    tokenizer = _tokenizer(staging.dataset, runner, card, added, settings)
    tokenizer.save(draft)
    plans = {}
    for name in SPLITS:
        first = len(card.splits[name].shards) if card else 0
        plans[name] = shards.plan([each for each in added if each.split == name], name, first)
    runner.write([plan for name in SPLITS for plan in plans[name]], licence)

    kept_before, kept = [each.piece for each in old if each.kept], [each.piece for each in outcomes if each.kept]
    place = {each: index for index, each in enumerate(kept)}
    signatures = similarity.create(draft, len(kept))
    if kept_before:
        rows = [place[each] for each in kept_before]
        signatures[rows] = similarity.load(staging.dataset, len(rows))
    splits, tokens = {}, {}
    for name in SPLITS:
        before, after, digests = card.splits[name].shards if card else (), [], []
        for plan in plans[name]:
            receipt = shards.Receipt.load(plan, staging.work)
            after.append(receipt.shard)
            digests += map(bytes, receipt.digests)
            tokens |= zip((each.piece for each in plan.rows), receipt.lengths.tolist(), strict=True)
            signatures[[place[each.piece] for each in plan.rows]] = receipt.signatures
        digests = itertools.chain(digests, shards.digests(staging.dataset, before))
        splits[name] = Split((*before, *after), combine(digests))
    signatures.flush()
    outcomes = [
        dataclasses.replace(each, tokens=tokens.get(each.piece, each.tokens)) if each.kept else each
        for each in outcomes
    ]
    pieces = [each for each in outcomes if each.kept]
    known = card.conditions.get("composer") if card else None
    vocabulary = composers.bucket(pieces, known, settings.min_count, settings.count)
    composers.write(vocabulary, pieces, draft)
    outcome.write(outcomes, draft)
    labels = described.vocabularies(pieces, card.conditions if card else {}, settings.min_count)
    encoded = {name: card.conditions[name] for name in (TEXT, SEMANTIC) if card and name in card.conditions}
    skipped = Counter(each.reason or each.outcome for each in outcomes if not each.kept)
    Card(
        spec=tokenizer.spec,
        splits=splits,
        conditions=({"composer": vocabulary} if vocabulary else {}) | labels | encoded,
        preparation=settings.to_json(),
        skipped=dict(sorted(skipped.items())),
    ).save(draft)
    return outcomes


def _tokenizer(
    dataset: Path, runner: Runner, card: Card | None, added: Iterable[Outcome], settings: Settings
) -> SymbolicTokenizer:
    """The dataset's tokenizer; of a new dataset with BPE it is learned here."""
    if card:
        return SymbolicTokenizer.load(dataset)
    tokenizer = SymbolicTokenizer.create(settings.tokenizer)
    if settings.bpe:
        # By the piece's hash: a fair sample that no order of files changes.
        train = sorted((each.piece, each.sha256) for each in added if each.split == "train")[:BPE_PIECES]
        pieces = runner.pieces([sha256 for _, sha256 in train])
        tokenizer.train_bpe((each.ids for each in pieces), settings.bpe)
    return tokenizer
