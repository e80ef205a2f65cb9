"""Beam: preparation by Apache Beam, on this machine or by Dataflow, Flink or Spark.

    survey   files → by content, in groups → prepared pieces → by piece: exact duplicates → by band: similar pairs
    write    plans of shards → shards

Every worker sees the input and the dataset under the same paths: on a cluster they lie on a shared disk or in an object
store. A task may run twice and tasks may run in any order: what they leave there gets its name when it is whole.

The driver holds what decisions.py decides on, the name, hashes and outcome of every file and the similar pairs: 2 to 3
KB a file, so 10 M files need a driver with 30 GB. Adding to a dataset, it also reads the old shards, to check them.
Music and signatures (20 KB a piece) stay with the workers and in the files they leave. Similarity sends each signature
through `HASHES / ROWS_PER_BAND` groups: 40 KB a piece go through Beam's shuffle, which Beam on one machine keeps in
memory.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import itertools
import json
import os
import shlex
import shutil
import tempfile
import threading
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.pvalue import TaggedOutput
from tqdm import tqdm

from amt_jax import storage
from amt_jax.errors import UserError
from amt_jax.tokens import symbolic
from amt_jax.tokens.symbolic import SymbolicTokenizer
from data_prep import files, pool
from data_prep.dataset import decisions, piece, shards, similarity
from data_prep.dataset.decisions import Survey
from data_prep.dataset.journal import Journal
from data_prep.dataset.outcome import Outcome
from data_prep.dataset.piece import Finding, Piece
from data_prep.dataset.staging import Staging

# Files prepared by one call: one file of pieces on the disk, one step of the progress bar.
GROUP_FILES = 256
# Lines of one of the files by which rows go into a pipeline and come out of it.
LINES = 10_000
# Part of Beam. What Beam calls DirectRunner may fetch another runner's program from the network.
EMBEDDED = "FnApiRunner"
LOG = "beam.log"
PRELOAD = ["miditok", "data_prep.dataset.piece"]


def parse_options(text: str, workers: int) -> PipelineOptions:
    """Beam's options from its own flags in one `text`; `workers` are those of a runner on this machine.

    Raises UserError for flags that Beam does not take.
    """
    # Threads, because each tokenizes files in a process of its own. Of two equal flags the last counts.
    defaults = [f"--runner={EMBEDDED}", f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions([*defaults, *shlex.split(text)])
            beam.Pipeline(options=options)  # Knows which runners there are, and what theirs cannot do without.
            given, known = options.get_all_options(retain_unknown_options=True), options.get_all_options()
    except (SystemExit, ValueError) as error:
        reason = said.getvalue().strip().rpartition("error: ")[2] or error
        raise UserError(f"--beam-options: {' '.join(str(reason).split())}") from None
    unknown = sorted(given.keys() - known.keys())
    # A cluster's runner passes on what Beam's Python side does not know.
    if unknown and options.view_as(StandardOptions).runner in StandardOptions.LOCAL_RUNNERS:
        raise UserError(f"--beam-options: Beam has no flag --{unknown[0]}")
    return options


class Beam:
    """The runner on Beam; see preparation.Runner. Unlike Local it starts anew after an interruption."""

    def __init__(
        self, staging: Staging, journal: Journal, preset: str, options: PipelineOptions, timeout: float = 60.0
    ):
        staging.share()
        self._staging = staging
        self._work = staging.work
        self._preset = preset
        self._options = options
        self._timeout = timeout
        self._groups = 0
        self._group_files: dict[int, str] = {}

    def survey(self, folder: str, paths: Sequence[str], old: Sequence[Outcome]) -> Survey:
        groups = self._groups = -(-len(paths) // GROUP_FILES)
        kept = [each for each in old if each.kept]
        table = similarity.load(self._staging.dataset, len(kept)) if kept else ()
        entries = (
            (each.piece, (0, each.source, each.sha256), base64.b64encode(row.tobytes()).decode())
            for each, row in zip(kept, table, strict=True)
        )
        pool.start_server(PRELOAD)
        with self._pipeline("tokenizing", "file", len(paths), "group-*.npz", GROUP_FILES) as pipeline:
            sources = (
                self._lines(pipeline, "paths", paths)
                | "spread" >> beam.Reshuffle()
                | "identify" >> beam.Map(_identify, folder, groups)
            )
            known = self._lines(pipeline, "known", decisions.known(old)) | "grouped" >> beam.Map(_of_group, groups)
            prepared = (
                {"sources": sources, "known": known}
                | "group" >> beam.CoGroupByKey()
                | "prepare"
                >> beam.FlatMap(_prepare, str(self._work), self._preset, self._timeout).with_outputs(
                    "sources", "findings", "groups", "entries"
                )
            )
            before = self._lines(pipeline, "old", entries) | "old entries" >> beam.Map(_old_entry)
            links = (
                (prepared.entries, before)
                | "all entries" >> beam.Flatten()
                # Of exact duplicates the first is the one that counts; an older one comes before all new ones.
                | "by piece" >> beam.CombinePerKey(min)
                | "bands" >> beam.FlatMap(_bands)
                | "by band" >> beam.GroupByKey()
                | "similar" >> beam.FlatMap(_similar)
                | "distinct" >> beam.Distinct()
            )
            for name in ("sources", "findings", "groups"):
                self._save(prepared[name], name)
            self._save(links, "links")
        self._group_files = dict(self._read("groups"))
        sources = sorted(
            (files.Source(*row) for row in self._read("sources")), key=lambda each: (each.name, each.sha256)
        )
        findings = {sha256: Finding(*fields) for sha256, *fields in self._read("findings")}
        return Survey(sources, findings, self._read("links"))

    def pieces(self, sha256s: Sequence[str]) -> Iterator[Piece]:
        return _pieces(self._work, [(self._group_file(each), each) for each in sha256s])

    def write(self, plans: Sequence[shards.Plan], licence: str) -> None:
        for plan in plans:
            rows = ((self._group_file(each.sha256), dataclasses.asdict(each)) for each in plan.rows)
            _write_lines(self._work, plan.file, map(json.dumps, rows))
        with storage.sending(self._work) as folder:
            shutil.copy(self._staging.draft / symbolic.FILE, folder)
        with self._pipeline("writing", "shard", len(plans), "*.array_record.npz") as pipeline:
            _ = (
                pipeline
                | "plans" >> beam.Create([plan.file for plan in plans])
                | "spread" >> beam.Reshuffle()
                | "write" >> beam.Map(_write_shard, licence, str(self._staging.shards), str(self._work))
            )

    def _group_file(self, sha256: str) -> str:
        return self._group_files[_group(sha256, self._groups)]

    def _lines(self, pipeline: beam.Pipeline, name: str, rows: Iterable[Any]) -> beam.PCollection:
        """`rows` as lines of JSON, by way of files: a pipeline's own description has to be small."""
        lines, names = map(json.dumps, rows), []
        while part := list(itertools.islice(lines, LINES)):
            names.append(f"{name}-{len(names)}.jsonl")
            _write_lines(self._work, names[-1], part)
        return pipeline | name >> beam.Create(names) | f"read {name}" >> beam.FlatMap(_read_lines, str(self._work))

    def _save(self, lines: beam.PCollection, name: str) -> None:
        """Leaves lines for `_read`, in files that get a name of their own each time a task runs.

        Only Beam knows which of them count, those of tasks whose outcome it took: it lists them in the file `name`.
        """
        work = str(self._work)
        _ = (
            lines
            | f"batch {name}" >> beam.BatchElements(LINES, LINES)
            | f"write {name}" >> beam.Map(_save_lines, work)
            | f"gather {name}" >> beam.combiners.ToList()
            | f"list {name}" >> beam.Map(lambda names: _write_lines(work, name, names))
        )

    def _read(self, name: str) -> Iterator[Any]:
        """The rows that the pipeline has saved under `name`."""
        for file in _read_lines(name, self._work):
            yield from map(json.loads, _read_lines(file, self._work))

    @contextlib.contextmanager
    def _pipeline(self, doing: str, unit: str, total: int, done: str, each: int = 1) -> Iterator[beam.Pipeline]:
        """A pipeline that runs at the end of the block, shown by the files `done` in `work`, which are `each` units.

        Raises UserError if it fails.
        """
        pipeline = beam.Pipeline(options=self._options)
        yield pipeline
        result, log = None, self._staging.folder / LOG
        try:
            # Workers in this process print each failure of theirs as well.
            with _progress(doing, unit, total, lambda: each * sum(1 for _ in self._work.glob(done))), _stderr_to(log):
                result = pipeline.run()
                state = result.wait_until_finish()
        except KeyboardInterrupt:
            if result is not None:
                result.cancel()
            raise
        except Exception as error:  # Each runner raises its own; what went wrong in a worker is in the text.
            with open(log, "a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
            reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"Beam failed, the dataset is as it was: {reason} (the whole story: {log})") from error
        if state != beam.runners.runner.PipelineState.DONE:
            raise UserError(f"Beam ended in state {state}, the dataset is as it was; the runner's own log says why")


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        yield


@contextlib.contextmanager
def _progress(doing: str, unit: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """A bar of the files that are there: Beam itself tells nothing, on some runners, until the end."""
    bar, end = tqdm(total=total, desc=doing, unit=unit), threading.Event()

    def watch() -> None:
        while not end.wait(1.0):
            with contextlib.suppress(Exception):  # A store that does not answer now: those who need it say so.
                bar.update(min(done(), total) - bar.n)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
        bar.update(total - bar.n)
    finally:
        end.set()
        watcher.join()
        bar.close()


# Paths go through Beam as JSON, in ASCII: Beam refuses those that are not UTF-8.


def _write_lines(work: str | os.PathLike, name: str, lines: Iterable[str]) -> None:
    """Writes a file of `work`, whole or not at all: two may do it at once."""
    with storage.sending(work) as folder:
        part = folder / f"{uuid.uuid4().hex}.part"
        with open(part, "w", encoding="ascii") as file:
            file.writelines(f"{line}\n" for line in lines)
        os.replace(part, folder / name)


def _save_lines(lines: Iterable[str], work: str) -> str:
    name = f"{uuid.uuid4().hex}.jsonl"
    _write_lines(work, name, lines)
    return name


def _read_lines(name: str, work: str | os.PathLike) -> Iterator[str]:
    with storage.open_bytes(_path(work, name)) as file:
        for line in file:
            yield line.decode("ascii").rstrip("\n")


def _path(folder: str | os.PathLike, name: str) -> str:
    return f"{os.fspath(folder)}/{name}"


def _group(sha256: str, groups: int) -> int:
    """The group of a content, 0 for files that cannot be read."""
    return int(sha256[:12] or "0", 16) % groups


def _identify(line: str, folder: str, groups: int) -> tuple[int, str]:
    source = files.identify(json.loads(line), folder)
    return _group(source.sha256, groups), json.dumps(dataclasses.astuple(source))


def _of_group(line: str, groups: int) -> tuple[int, str]:
    sha256 = json.loads(line)
    return _group(sha256, groups), sha256


def _prepare(element: tuple[int, Any], work: str, preset: str, timeout: float) -> Iterator[Any]:
    """Prepares what is new in a group, to a file; yields sources, findings and entries (piece, (order, signature))."""
    group, parts = element
    known, first = set(parts["known"]), {}
    sources = []
    for line in parts["sources"]:
        yield TaggedOutput("sources", line)
        sources.append(files.Source(*json.loads(line)))
    for source in sorted(sources, key=lambda each: each.name):
        if source.sha256 and source.sha256 not in known:
            first.setdefault(source.sha256, source)
    todo, arrays = {source.path: source for source in first.values()}, {}
    tasks = ((path, preset) for path in todo)
    # One process for each that runs at once; how many of those there are is the runner's business.
    runs = pool.run_all(piece.from_file, tasks, 1, timeout, PRELOAD) if todo else ()
    for (path, _), result in runs:
        source = todo[path]
        if isinstance(result, pool.Failure):
            result = Piece(reason=result.reason, details=result.details)
        yield TaggedOutput("findings", json.dumps((source.sha256, *dataclasses.astuple(result.finding))))
        if not result.reason:
            arrays[f"{source.sha256}.ids"] = result.ids
            arrays[f"{source.sha256}.signature"] = result.signature
            # Pieces are compared in their order: those of the dataset first, then by name.
            order = (1, source.name, source.sha256)
            yield TaggedOutput("entries", (result.piece, (order, result.signature.tobytes())))
    name = f"group-{group}-{uuid.uuid4().hex}.npz"
    with storage.sending(work) as folder:
        with open(folder / f"{name}.part", "wb") as file:
            np.savez(file, **arrays)
        os.replace(folder / f"{name}.part", folder / name)
    yield TaggedOutput("groups", json.dumps((group, name)))


def _pieces(work: str | Path, wanted: Sequence[tuple[str, str]]) -> Iterator[Piece]:
    """The pieces of (file of a group, sha256), in this order; each file is opened once."""
    by_file, found = defaultdict(list), {}
    for file, sha256 in wanted:
        by_file[file].append(sha256)
    for file, members in by_file.items():
        with storage.open_bytes(_path(work, file)) as data, np.load(data) as arrays:
            for sha256 in members:
                found[sha256] = Piece(ids=arrays[f"{sha256}.ids"], signature=arrays[f"{sha256}.signature"])
    return (found[sha256] for _, sha256 in wanted)


def _old_entry(line: str) -> tuple[str, Any]:
    piece_, order, signature = json.loads(line)
    return piece_, (tuple(order), base64.b64decode(signature))


def _bands(entry: tuple[str, Any]) -> Iterator[tuple[tuple[int, bytes], Any]]:
    """A piece under each of the keys where it meets those that may be similar."""
    piece_, (order, data) = entry
    signature = np.frombuffer(data, np.uint32)
    if similarity.has_signature(signature):
        for band in range(0, similarity.HASHES, similarity.ROWS_PER_BAND):
            yield (band, signature[band : band + similarity.ROWS_PER_BAND].tobytes()), (order, piece_, data)


def _similar(bucket: tuple[Any, Iterable[tuple[Any, str, bytes]]]) -> Iterator[str]:
    members = sorted(bucket[1])
    if len(members) > 1:
        table = np.stack([np.frombuffer(data, np.uint32) for _, _, data in members])
        for one, other in similarity.pairs(table):
            yield json.dumps((members[one][1], members[other][1]))


def _write_shard(file: str, licence: str, draft: str, work: str) -> None:
    rows = [json.loads(line) for line in _read_lines(file, work)]
    plan = shards.Plan(file, tuple(Outcome(**row) for _, row in rows))
    pieces = _pieces(work, [(group_file, row["sha256"]) for group_file, row in rows])
    with tempfile.TemporaryDirectory() as here, storage.open_bytes(_path(work, symbolic.FILE)) as data:
        Path(here, symbolic.FILE).write_bytes(data.read())
        tokenizer = SymbolicTokenizer.load(here)
    # The receipt says that the shard is there.
    with storage.sending(work) as receipts, storage.sending(draft) as folder:
        shards.write(plan, pieces, tokenizer, licence, folder, receipts)
