"""Local: preparation by the processes of this machine, with a journal that makes an interrupted one go on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from amt_jax import storage
from amt_jax.tokens.symbolic import SymbolicTokenizer
from data_prep import files, pool
from data_prep.dataset import decisions, piece, shards, similarity
from data_prep.dataset.decisions import Survey
from data_prep.dataset.journal import Journal
from data_prep.dataset.outcome import Outcome
from data_prep.dataset.piece import Finding, Piece
from data_prep.dataset.staging import Staging

# Files of an object store that are read at once: it answers late, but many.
REQUESTS = 16


class Local:
    """The runner for one machine; see preparation.Runner."""

    def __init__(self, staging: Staging, journal: Journal, preset: str, workers: int = 1, timeout: float = 60.0):
        self._staging = staging
        self._journal = journal
        self._preset = preset
        self._workers = workers
        self._timeout = timeout

    def survey(self, folder: str, paths: Sequence[str], old: Sequence[Outcome]) -> Survey:
        with ThreadPoolExecutor(REQUESTS) as threads:
            run = threads.map if storage.is_remote(folder) else map
            read = run(functools.partial(files.identify, folder=folder), paths)
            sources = list(tqdm(read, "reading", len(paths), unit="file", leave=False))
        sources.sort(key=lambda source: (source.name, source.sha256))
        known = decisions.known(old)
        paths = {source.sha256: source.path for source in sources if source.sha256 and source.sha256 not in known}
        failures = self._prepare(paths)
        findings = {sha256: failures.get(sha256) or self._journal.finding(sha256) for sha256 in paths}
        return Survey(sources, findings, self._links(sources, findings, [each for each in old if each.kept]))

    def _prepare(self, paths: dict[str, str]) -> dict[str, Finding]:
        """Brings the files of all sha256s into the journal; returns those that failed."""
        todo = {path: sha256 for sha256, path in paths.items() if sha256 not in self._journal}
        failures = {}
        if not todo:
            return failures
        tasks = ((path, self._preset) for path in todo)
        workers = min(self._workers, len(todo))
        runs = pool.run_all(piece.from_file, tasks, workers, self._timeout, ["miditok", "data_prep.dataset.piece"])
        done = len(paths) - len(todo)
        try:
            with pool.progress("tokenizing", "file", len(paths), done) as bar, contextlib.closing(runs):
                for (path, _), result in runs:
                    if isinstance(result, pool.Failure):
                        failures[todo[path]] = Finding(reason=result.reason, details=result.details)
                    else:
                        self._journal[todo[path]] = result
                    bar.update()
        finally:
            self._journal.commit()
        return failures

    def _links(
        self, sources: Sequence[files.Source], findings: dict[str, Finding], old: Sequence[Outcome]
    ) -> set[tuple[str, str]]:
        table = similarity.load(self._staging.dataset, len(old)) if old else ()
        signatures = {each.piece: row for each, row in zip(old, table, strict=True)}
        for source in sources:
            finding = findings.get(source.sha256)
            if finding and finding.piece and finding.piece not in signatures:
                signatures[finding.piece] = self._journal[source.sha256].signature
        pieces = list(signatures)
        links = similarity.similar(list(signatures.values()))
        return {(pieces[one], pieces[other]) for one, other in links}

    def pieces(self, sha256s: Sequence[str]) -> Iterator[Piece]:
        return (self._journal[sha256] for sha256 in sha256s)

    def write(self, plans: Sequence[shards.Plan], licence: str) -> None:
        tokenizer = SymbolicTokenizer.load(self._staging.draft)
        bar = tqdm(total=sum(len(plan.rows) for plan in plans), desc="writing", unit="piece", leave=False, delay=2)
        for plan in plans:
            pieces = self._counted(plan.rows, bar)
            shards.write(plan, pieces, tokenizer, licence, self._staging.shards, self._staging.work)
        bar.close()

    def _counted(self, rows: Sequence[Outcome], bar: tqdm) -> Iterator[Piece]:
        for each in self.pieces([row.sha256 for row in rows]):
            yield each
            bar.update()
