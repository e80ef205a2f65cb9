"""Encoding: a dataset's captions into the table of their states, DATASET/text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from amt_jax.data.captions import CARD, CLUSTERS, FOLDER, Caption, CaptionTable, TextCard, contents
from amt_jax.data.card import Card, file_sha256
from amt_jax.errors import UserError
from amt_jax.text.clusters import Clusters
from amt_jax.text.encoder import LENGTH, TFIDF, Encoder, load_encoder
from amt_jax.text.tfidf import TfidfEncoder
from data_prep.dataset import captions as records

WORK = ".text"
CHUNK = 1024  # captions: a few seconds of a small network on a CPU


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a dataset's captions.

    Attributes:
      table: all of them, encoded.
      changed: False if there was nothing to do.
      new: those encoded now, which took `seconds`.
      empty: those left out.
      remade: why a table that was there was not gone on with, "" if it was.
      unclustered: its clusters went with it.
    """

    table: CaptionTable
    changed: bool
    new: int
    seconds: float
    empty: int
    remade: str
    unclustered: bool


def encode(
    dataset: Path,
    *,
    encoder: str | None = None,
    pooling: str | None = None,
    length: int = LENGTH,
    tokenizer: str | None = None,
) -> Report:
    """Makes or completes a dataset's table; what was interrupted goes on where it was.

    Args:
      encoder: tfidf, fitted on the captions of the train split, or a BERT checkpoint; None is the one that encoded the
        dataset before, or tfidf.
      pooling, length, tokenizer: as BertEncoder takes them.

    UserError if there is no dataset, it has no captions, or the encoder cannot be had.
    """
    folder, work = dataset / FOLDER, dataset / WORK
    with records.hold(dataset):
        card = Card.load(dataset)
        _recover(folder, work)
        captions, empty = records.read(dataset, card)
        if not captions:
            raise UserError(
                f"no record of {dataset} has a caption{' that is not empty' if empty else ''}; prepare it with "
                "python -m data_prep.midi --descriptions=…"
            )
        old, remade = _open(folder)
        if encoder in (None, TFIDF):
            chosen = _kept_or_tfidf(encoder, captions, old, folder)
        else:
            from amt_jax.text.bert import BertEncoder  # brings jax

            chosen = BertEncoder(encoder, pooling=pooling, length=length, tokenizer=tokenizer)
        if old and old.card.digest != chosen.digest:
            old, remade = None, f"{old.card.encoder!r} encoded these captions before; that table is replaced"
        unclustered = not old and (folder / CLUSTERS).exists()
        new = [caption.text for caption in captions if not (old and caption.text in old)]
        started = time.perf_counter()
        chunks = list(_encode(new, chosen, work))
        seconds = time.perf_counter() - started
        changed = not old or old.captions != tuple(captions)
        if changed:
            _assemble(captions, contents(card), old, chunks, chosen, work / "draft")
            os.replace(work / "draft", work / "ready")
            _publish(folder, work)
        else:
            shutil.rmtree(work)
            if old.card.contents != contents(card):
                dataclasses.replace(old.card, contents=contents(card)).save(folder)
        records.register(dataset)
    return Report(CaptionTable.load(folder), changed, len(new), seconds, empty, remade, unclustered)


def _open(folder: Path) -> tuple[CaptionTable | None, str]:
    """The table that is there, or None and what is wrong with it, "" if there is none."""
    if not (folder / CARD).exists():
        return None, ""
    try:
        table = CaptionTable.load(folder)
        table.verify()
    except UserError as error:
        return None, f"{error}: it is made anew"
    return table, ""


def _kept_or_tfidf(name: str | None, captions: Sequence[Caption], old: CaptionTable | None, folder: Path) -> Encoder:
    """The encoder in `folder` if none is named, or it is a TF-IDF, which stays as it was fitted; else a new TF-IDF."""
    if (name is None and (folder / CARD).exists()) or (old and old.card.encoder == TFIDF):
        try:
            return load_encoder(folder)
        except UserError as error:
            raise UserError(f"{error}; or have all encoded anew by the one that you name with --encoder") from None
    train = [caption.text for caption in captions if caption.train]
    if not train:
        raise UserError("no record of the train split has a caption, so there is nothing to fit TF-IDF on")
    return TfidfEncoder.fit(train)


def _encode(texts: Sequence[str], encoder: Encoder, work: Path) -> Iterator[tuple[Sequence[str], Path]]:
    """Yields texts and the file of their states, float16; files that are there already are taken as they are."""
    work.mkdir(exist_ok=True)
    with tqdm(total=len(texts), desc="encoding captions", unit="caption", delay=2) as bar:
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            key = hashlib.sha256(json.dumps([encoder.digest, *chunk]).encode()).hexdigest()
            path = work / f"{key}.npz"
            if not path.exists():
                states = encoder.encode(chunk)
                part = work / "part"
                with open(part, "wb") as file:
                    np.savez(
                        file,
                        states=states.values[states.mask].astype(np.float16),
                        lengths=states.mask.sum(1),
                        pooled=encoder.pool(states).astype(np.float16),
                    )
                os.replace(part, path)
            bar.update(len(chunk))
            yield chunk, path


def _assemble(
    captions: Sequence[Caption],
    contents: Mapping[str, str],
    old: CaptionTable | None,
    chunks: Sequence[tuple[Sequence[str], Path]],
    encoder: Encoder,
    draft: Path,
) -> None:
    """Writes the whole table into `draft`."""
    draft.mkdir()
    rows = {caption.text: row for row, caption in enumerate(captions)}
    lengths = np.zeros(len(captions), np.int64)
    for text, states, _ in _pieces(rows, old, chunks):
        lengths[rows[text]] = len(states)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    np.save(draft / "offsets.npy", offsets)
    everything = np.lib.format.open_memmap(draft / "states.npy", "w+", np.float16, (int(offsets[-1]), encoder.width))
    pooled = np.zeros((len(captions), encoder.width), np.float16)
    for text, states, vector in _pieces(rows, old, chunks):
        row = rows[text]
        everything[offsets[row] : offsets[row + 1]] = states
        pooled[row] = vector
    everything.flush()
    np.save(draft / "pooled.npy", pooled)
    with open(draft / "captions.jsonl", "w", encoding="utf-8") as file:
        for caption in captions:
            file.write(json.dumps(dataclasses.asdict(caption), ensure_ascii=False) + "\n")
    encoder.save(draft)
    if old and old.semantic is not None:  # The clusters stay, and the new captions go to theirs.
        clusters = Clusters.load(old.folder)
        clusters.save(draft)
        np.save(draft / "semantic.npy", clusters.assign(pooled))
    TextCard(
        captions=len(captions),
        human=sum(caption.human for caption in captions),
        tokens=int(offsets[-1]),
        width=encoder.width,
        length=encoder.length,
        encoder=encoder.name,
        digest=encoder.digest,
        files={path.name: file_sha256(path) for path in sorted(draft.iterdir())},
        contents=contents,
    ).save(draft)


def _pieces(
    wanted: dict[str, int], old: CaptionTable | None, chunks: Sequence[tuple[Sequence[str], Path]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields (caption, states, pooled) of the old table and of the chunks."""
    for row, caption in enumerate(old.captions if old else ()):
        if caption.text in wanted:
            yield caption.text, old.states(row), old.pooled(row)
    for texts, path in chunks:
        with np.load(path) as data:
            states = np.split(data["states"], np.cumsum(data["lengths"])[:-1])
            yield from zip(texts, states, data["pooled"], strict=True)


def _publish(folder: Path, work: Path) -> None:
    """Puts the finished table, `work`/ready, in its place; done again after a kill, it finishes."""
    if folder.exists():
        os.replace(folder, work / "old")
    os.replace(work / "ready", folder)
    shutil.rmtree(work)


def _recover(folder: Path, work: Path) -> None:
    """Finishes what a kill cut off between the old table and the new one; drops half a table."""
    if (work / "ready").exists():
        _publish(folder, work)
    for leftover in ("draft", "old"):
        shutil.rmtree(work / leftover, ignore_errors=True)
