"""Preparation: a folder of MIDI files into a dataset folder.

    find and hash → prepare each new file (a pool, a journal) → drop duplicates → families and splits → write → commit

Every stage but the pool looks at files in sorted order and takes its randomness from hashes, so the dataset is the same
bytes whatever the number of workers, the order they finish in, or the interruptions.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from amt_jax.data.card import FILE, SPLITS, Card, Split, content_hash
from amt_jax.data.record import Record
from amt_jax.errors import UserError
from amt_jax.tokens.symbolic import SymbolicTokenizer
from data_prep import composers, files, outcome, piece, pool, shards, similarity
from data_prep.families import Families, assign_splits, folder_key
from data_prep.journal import Journal
from data_prep.metadata import Metadata
from data_prep.outcome import DUPLICATE, KEPT, SKIPPED, Outcome
from data_prep.staging import Staging

SIGNATURES = "signatures.npy"
MIN_PIECES = 3
BRIDGE = "bridges two splits"
# These say more about the day than about the file: they are tried again when the folder is prepared again.
PASSING = (pool.TIMED_OUT, pool.CRASHED, "unreadable")
# Pair counts settle long before all of a large collection is seen, and training BPE takes memory.
BPE_PIECES = 4000


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the content of a dataset; one that exists is only added to with the same ones.

    Attributes:
      tokenizer: preset of SymbolicTokenizer.
      bpe: vocabulary size to reach by BPE, 0 for none.
      valid: share of the families in the validation split.
      test: share of the families in the test split.
      seed: chooses which.
      min_count: what a composer needs for an id of its own ...
      count: ... `files` or `works`.
    """

    tokenizer: str = "remi"
    bpe: int = 0
    valid: float = 0.05
    test: float = 0.05
    seed: int = 0
    min_count: int = 10
    count: str = "files"

    def __post_init__(self):
        if not (0 <= self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise UserError(
                f"--valid={self.valid:g} and --test={self.test:g} are shares that must leave some for training"
            )
        if self.count not in composers.COUNTS:
            raise UserError(f"--count is files or works, not {self.count!r}")
        if self.min_count < 1:
            raise UserError(f"--min-count is at least 1, not {self.min_count}")

    def to_json(self) -> dict[str, str | int | float]:
        return {"command": "data_prep.midi", "version": piece.VERSION, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a preparation did.

    Attributes:
      card: the dataset's card as it is now.
      outcomes: every file's, those of earlier preparations included.
      changed: False if there was nothing to do.
      added: pieces that are new in the dataset.
      missing: files of the dataset that are not in the input any more.
      unlisted: input files without a line in the metadata.
      unreadable: folders that could not be looked into.
    """

    card: Card
    outcomes: tuple[Outcome, ...]
    changed: bool
    added: int
    missing: int
    unlisted: int
    unreadable: tuple[str, ...]


class _TooLittle(UserError):
    """No dataset can be made of what there is."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while files were prepared: `done` of `total` are safe in the journal."""

    def __init__(self, done: int, total: int):
        super().__init__()
        self.done, self.total = done, total


def prepare(
    folder: str,
    dataset: Path,
    settings: Settings,
    metadata: Metadata | None = None,
    licence: str = "",
    workers: int = 1,
    timeout: float = 60.0,
) -> Report:
    """Prepares every MIDI file under `folder` into `dataset`, or adds the new ones to the dataset that is there.

    Raises UserError for what the person can put right, Interrupted on Ctrl-C.
    """
    settings_json = settings.to_json()
    tokenizer = SymbolicTokenizer.create(settings.tokenizer)
    base = tokenizer.spec.base_size
    if settings.bpe and not base < settings.bpe <= 2**16:
        raise UserError(f"--bpe={settings.bpe}: {settings.tokenizer} has {base} ids, and with BPE up to {2**16}")
    found = files.find(folder)
    here = {files.relative(path, folder) for path in found.paths}
    listed = {*metadata.composers, *metadata.families} if metadata else here
    if here.isdisjoint(listed):
        raise UserError(f"no path in the metadata is a file of {folder!r} (such as {min(here)!r}): --path-column?")
    # Before anything is touched: an interrupted preparation with other settings keeps its work.
    _existing(dataset, settings_json, tokenizer)
    staging = Staging(dataset)
    journal = Journal(staging.folder / "journal.sqlite", json.dumps([settings.tokenizer, piece.VERSION]))
    try:
        staging.recover()
        card, old = _existing(dataset, settings_json, tokenizer)
        sources = [files.identify(path, folder) for path in tqdm(found.paths, "reading", unit="file", leave=False)]
        sources.sort(key=lambda source: (source.name, source.sha256))
        failures = _run(sources, old, journal, settings.tokenizer, workers, timeout)
        new = _Dataset(dataset, card, old, settings, metadata, licence)
        new.take(sources, journal, failures)
        if changed := new.outcomes != old:
            new.write(staging.draft, tokenizer, journal)
            staging.commit()
    except _TooLittle:
        staging.remove()
        raise
    finally:
        journal.close()
    staging.remove()
    return Report(
        card=Card.load(dataset),
        outcomes=tuple(new.outcomes),
        changed=changed,
        added=len(new.added),
        missing=len({each.source for each in new.outcomes} - here),
        unlisted=len(here - listed),
        unreadable=found.unreadable,
    )


def _existing(dataset: Path, settings: dict, tokenizer: SymbolicTokenizer) -> tuple[Card | None, list[Outcome]]:
    """The card and outcomes of the dataset if there is one; UserError if it was made with other settings."""
    if not (dataset / FILE).exists():
        return None, []
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
    card.verify(dataset)
    return card, sorted(outcome.read(dataset))


def _run(
    sources: list[files.Source], old: list[Outcome], journal: Journal, preset: str, workers: int, timeout: float
) -> dict[str, pool.Failure]:
    """Prepares all files whose content neither the dataset nor the journal knows. Returns failures by sha256."""
    known = {each.sha256 for each in old if each.reason not in PASSING}
    paths = {source.sha256: source.path for source in sources if source.sha256 and source.sha256 not in known}
    todo = {path: sha256 for sha256, path in paths.items() if sha256 not in journal}
    failures = {}
    if not todo:
        return failures
    tasks = ((path, preset) for path in todo)
    runs = pool.run_all(piece.from_file, tasks, min(workers, len(todo)), timeout, ["miditok", "data_prep.piece"])
    bar = tqdm(total=len(paths), initial=len(paths) - len(todo), desc="tokenizing", unit="file", smoothing=0.1)
    try:
        for (path, _), result in runs:
            if isinstance(result, pool.Failure):
                failures[todo[path]] = result
            else:
                journal[todo[path]] = result
            bar.update()
    except KeyboardInterrupt:
        raise Interrupted(bar.n, bar.total) from None
    finally:
        runs.close()
        bar.close()
        journal.commit()
    return failures


class _Dataset:
    """A dataset being made or added to."""

    def __init__(
        self,
        folder: Path,
        card: Card | None,
        old: list[Outcome],
        settings: Settings,
        metadata: Metadata | None,
        licence: str,
    ):
        self.folder = folder
        self.card = card
        self.settings = settings
        self.metadata = metadata
        self.licence = licence
        self.outcomes = old
        self.old = [each for each in old if each.kept]
        self.added: list[Outcome] = []
        self.signatures = self._old_signatures()

    def _old_signatures(self) -> dict[str, np.ndarray]:
        if not self.old:
            return {}
        try:
            table = np.load(self.folder / SIGNATURES)
            return {each.piece: row for each, row in zip(self.old, table, strict=True)}
        except (OSError, ValueError) as error:
            path = str(self.folder / SIGNATURES)
            raise UserError(f"cannot read {path!r} ({error}); prepare into a new folder") from None

    def take(self, sources: list[files.Source], journal: Journal, failures: dict[str, pool.Failure]) -> None:
        """Decides what becomes of every source: sets `outcomes` and `added`."""
        settled = {(each.source, each.sha256): each for each in self.outcomes if each.reason not in PASSING}
        twins = {each.sha256: each for each in settled.values()}
        first = {each.piece: each.source for each in self.old}
        skipped, duplicates, candidates = [], [], []
        for source in sources:
            if (source.name, source.sha256) in settled:
                continue
            each = self._judge(source, twins.get(source.sha256), failures.get(source.sha256), journal)
            if each.reason:
                skipped.append(each)
            elif each.piece in first:
                duplicates.append(
                    dataclasses.replace(each, outcome=DUPLICATE, original=first[each.piece], tokens=0, seconds=0.0)
                )
            else:
                first[each.piece] = each.source
                candidates.append(each)
        if len(self.old) + len(candidates) < MIN_PIECES:
            reasons = Counter(each.reason for each in skipped) + Counter({DUPLICATE: len(duplicates)})
            listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            usable = f"{len(candidates) or 'none'} of {len(sources)} MIDI files can be used"
            listing = f"; the others: {listing}" if listing else ""
            raise _TooLittle(f"{usable}, at least {MIN_PIECES} are needed{listing}")
        candidates = self._split(candidates, duplicates)
        self.added = [each for each in candidates if each.kept]
        kept = {each.piece: each for each in self.old + self.added}
        duplicates = [
            dataclasses.replace(each, family=kept[each.piece].family, split=kept[each.piece].split)
            if each.piece in kept
            else dataclasses.replace(each, outcome=SKIPPED, reason=BRIDGE, original="")
            for each in duplicates
        ]
        decided = skipped + duplicates + candidates
        # A passing failure makes way for what came of the new try, also under another content.
        again = {each.source for each in decided}
        stay = [each for each in self.outcomes if each.reason not in PASSING or each.source not in again]
        self.outcomes = sorted(stay + decided)

    def _judge(
        self, source: files.Source, twin: Outcome | None, failure: pool.Failure | None, journal: Journal
    ) -> Outcome:
        """What a new file is by itself, `twin` being an older one with the same bytes: skipped, or a piece."""
        each = Outcome(source.name, source.sha256, SKIPPED)
        for found in (source, failure, twin):
            if found is not None and found.reason:
                return dataclasses.replace(each, reason=found.reason, details=found.details)
        each = dataclasses.replace(each, composer=self._composer(source.name), work=self._work(source.name))
        if twin is not None:
            return dataclasses.replace(each, piece=twin.piece)
        result = journal[source.sha256]
        if result.reason:
            return dataclasses.replace(each, reason=result.reason, details=result.details)
        self.signatures.setdefault(result.piece, result.signature)
        return dataclasses.replace(each, piece=result.piece, tokens=len(result.ids), seconds=result.seconds)

    def _composer(self, name: str) -> str:
        if self.metadata is not None and self.metadata.composers:
            return self.metadata.composers.get(name, "")
        return name.partition("/")[0] if "/" in name else ""

    def _work(self, name: str) -> str:
        if self.metadata is not None and self.metadata.families:
            return self.metadata.families.get(name, "")
        return folder_key(name)

    def _split(self, candidates: list[Outcome], duplicates: list[Outcome]) -> list[Outcome]:
        """Gives each candidate its family and split, or the reason why it can have none."""
        everything = self.old + candidates
        table = [self.signatures[each.piece] for each in everything]
        similar = similarity.similar([row if row.any() else row[:0] for row in table])
        families = Families()
        works = defaultdict(list)
        for each in self.outcomes + duplicates:
            works[each.piece].append(each.work)
        for each in self.old:
            families.add_known(each.family, each.split, [key for key in (*works[each.piece], each.source) if key])
        results = []
        for index, each in enumerate(everything):
            if index < len(self.old):
                families.add_alias(index, each.family)
                continue
            keys = list(dict.fromkeys(key for key in (each.work, *works[each.piece], each.source) if key))
            if families.add(index, keys, sorted(similar[index])):
                results.append((index, each))
            else:
                results.append((None, dataclasses.replace(each, reason=BRIDGE, tokens=0, seconds=0.0)))
        named = [
            each if index is None else dataclasses.replace(each, outcome=KEPT, family=families.family(index))
            for index, each in results
        ]
        kept = self.old + [each for each in named if each.kept]
        splits = assign_splits(
            [each.family for each in kept],
            {each.family: each.split for each in self.old},
            {"test": self.settings.test, "valid": self.settings.valid},
            self.settings.seed,
        )
        return [dataclasses.replace(each, split=splits[each.family]) if each.kept else each for each in named]

    def write(self, draft: Path, tokenizer: SymbolicTokenizer, journal: Journal) -> None:
        """Writes everything new into `draft`, the card last."""
        if self.settings.bpe:
            tokenizer = self._learn_bpe(tokenizer, journal)
        splits, tokens = {}, {}
        for name in SPLITS:
            before = self.card.splits[name].shards if self.card else ()
            rows = [each for each in sorted(self.added) if each.split == name]
            after = shards.write(self._records(rows, tokenizer, journal, tokens), draft, name, len(before))
            stored = itertools.chain(shards.read(self.folder, before), shards.read(draft, after))
            splits[name] = Split((*before, *after), content_hash(stored))
        self.outcomes = [
            dataclasses.replace(each, tokens=tokens.get(each.piece, each.tokens)) if each.kept else each
            for each in self.outcomes
        ]
        kept = [each for each in self.outcomes if each.kept]
        known = self.card.conditions.get("composer") if self.card else None
        vocabulary = composers.bucket(kept, known, self.settings.min_count, self.settings.count)
        composers.write(vocabulary, kept, draft)
        outcome.write(self.outcomes, draft)
        empty = np.zeros(similarity.HASHES, np.uint32)
        table = [self.signatures[each.piece] for each in kept]
        np.save(draft / SIGNATURES, np.stack([row if len(row) else empty for row in table]))
        tokenizer.save(draft)
        skipped = Counter(each.reason or each.outcome for each in self.outcomes if not each.kept)
        Card(
            spec=tokenizer.spec,
            splits=splits,
            conditions={"composer": vocabulary} if vocabulary else {},
            preparation=self.settings.to_json(),
            skipped=dict(sorted(skipped.items())),
        ).save(draft)

    def _learn_bpe(self, tokenizer: SymbolicTokenizer, journal: Journal) -> SymbolicTokenizer:
        if self.card:
            return SymbolicTokenizer.load(self.folder)
        # By the piece's hash: a fair sample that no order of files changes.
        train = sorted((each.piece, each.sha256) for each in self.added if each.split == "train")
        tokenizer.train_bpe((journal[sha256].ids for _, sha256 in train[:BPE_PIECES]), self.settings.bpe)
        return tokenizer

    def _records(
        self, rows: list[Outcome], tokenizer: SymbolicTokenizer, journal: Journal, tokens: dict[str, int]
    ) -> Iterator[Record]:
        """The records of `rows`; notes the length of each in `tokens`."""
        for each in tqdm(rows, "writing", unit="piece", leave=False, delay=2):
            ids = tokenizer.merge(journal[each.sha256].ids)
            tokens[each.piece] = len(ids)
            conditions = {"composer": each.composer} if each.composer else {}
            yield Record(ids, conditions, each.piece, each.family, each.source, self.licence)
