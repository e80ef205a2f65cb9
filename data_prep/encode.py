"""A dataset's captions into encoder states: DATASET/text, once a unique caption.

    python -m data_prep.encode --dataset=DATASET
    python -m data_prep.encode --dataset=DATASET --encoder=sentence-transformers/all-MiniLM-L6-v2

`tfidf` is a table of words, fitted on the captions of the train split; it needs no download. Anything else is a BERT
checkpoint, by its name on the Hugging Face hub (NAME or NAME@REVISION) or as a folder. Without --encoder it is the one
that encoded the dataset before, with its pooling and length, or tfidf.

Run again after new files came into the dataset: new captions are encoded, those known stay as they are, and so does a
fitted table of words (delete DATASET/text to fit it anew). An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from amt_jax.text.encoder import LENGTH, POOLINGS, TFIDF, clean, load_encoder

if TYPE_CHECKING:
    from amt_jax.data.captions import Caption, CaptionTable
    from amt_jax.data.card import Card
    from amt_jax.text.encoder import Encoder

WORK = ".text"
CHUNK = 1024  # captions: a few seconds of a small network on a CPU


def main() -> int:
    args = _parser().parse_args()
    if args.encoder in (None, TFIDF) and (args.pooling or args.tokenizer or args.max_tokens != LENGTH):
        raise UserError("--pooling, --max-tokens and --tokenizer go with a BERT checkpoint; name it with --encoder")
    dataset = storage.local_path(args.dataset)
    from amt_jax.data.card import Card

    card = Card.load(dataset)
    with alone(dataset):
        encode(dataset, card, args)
    return 0


@contextlib.contextmanager
def alone(dataset: Path) -> Iterator[None]:
    """Holds a dataset folder that texts are written to; UserError if another process holds it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.lock(dataset, wait=False))
        except BlockingIOError:
            raise UserError(f"another process is at work on {dataset}; wait for it, or stop it") from None
        except FileNotFoundError:
            raise UserError(f"there is no dataset folder {str(dataset)!r}") from None
        yield


def encode(dataset: Path, card: Card, args: argparse.Namespace) -> None:
    """Makes or completes the table."""
    from amt_jax.data.captions import CLUSTERS, FOLDER, contents

    folder, work = dataset / FOLDER, dataset / WORK
    _recover(folder, work)
    captions, empty = collect(dataset, card)
    if empty:
        print(f"empty captions, left out: {empty}")
    if not captions:
        raise UserError(
            f"no record of {args.dataset} has a caption; prepare it with python -m data_prep.midi --descriptions=…"
        )
    old = _open(folder)
    encoder = _encoder(args, captions, old, folder)
    if old and old.card.digest != encoder.digest:
        print(f"{old.card.encoder!r} encoded these captions before; that table is replaced")
        old = None
    if not old and (folder / CLUSTERS).exists():
        print("its clusters go with it; for new ones run python -m data_prep.cluster again")
    if old and old.captions == tuple(captions):
        shutil.rmtree(work, ignore_errors=True)
        if old.card.contents != contents(card):
            dataclasses.replace(old.card, contents=contents(card)).save(folder)
        register(dataset)
        print(f"nothing new: {len(old)} captions are encoded by {old.card.encoder!r} in {folder}")
        return
    new = [caption.text for caption in captions if not (old and caption.text in old)]
    started = time.perf_counter()
    chunks = list(_encode(new, encoder, work))
    seconds = time.perf_counter() - started
    _assemble(captions, contents(card), old, chunks, encoder, work / "draft")
    os.replace(work / "draft", work / "ready")
    _publish(folder, work)
    register(dataset)
    _summary(folder, len(new), seconds)


def register(dataset: Path) -> None:
    """Writes into the dataset's card what its texts, and their clusters if there are any, are to a model."""
    from amt_jax.data.captions import FOLDER, CaptionTable
    from amt_jax.data.card import Card, Vocabulary
    from amt_jax.data.conditions import SEMANTIC, TEXT
    from amt_jax.text import clusters

    card, table = Card.load(dataset), CaptionTable.load(dataset / FOLDER)
    about = table.card
    told = {
        TEXT: Vocabulary("text", encoder=about.encoder, digest=about.digest, length=about.length, width=about.width)
    }
    if table.semantic is not None:
        counts = [0] * clusters.Clusters.load(table.folder).k
        for cluster, caption in zip(table.semantic, table.captions, strict=True):
            if cluster >= 0:
                counts[cluster] += caption.count
        names, digest = tuple(map(str, range(len(counts)))), about.files[clusters.FILE]
        told[SEMANTIC] = Vocabulary("categorical", names, tuple(counts), digest=digest)
    kept = {name: each for name, each in card.conditions.items() if name not in (TEXT, SEMANTIC)}
    dataclasses.replace(card, conditions=kept | told).save(dataset)


def collect(dataset: Path, card: Card) -> tuple[list[Caption], int]:
    """The unique captions of all records, sorted, and how many empty ones there were."""
    from tqdm import tqdm

    from amt_jax.data.captions import Caption
    from amt_jax.data.record import Record
    from data_prep.dataset import shards

    found: dict[str, Caption] = {}
    empty = 0
    with tqdm(total=sum(split.records for split in card.splits.values()), desc="reading captions", delay=2) as bar:
        for name, split in card.splits.items():
            for data in shards.read(dataset, split.shards):
                bar.update()
                for value in Record.from_bytes(data).conditions.get("text", ()):
                    text, human, names_key = value["text"], value["human"], value["names_key"]
                    if not clean(text):
                        empty += 1
                        continue
                    seen = found.get(text, Caption(text, False, False, 0, 0))
                    found[text] = Caption(
                        text,
                        seen.human or human,
                        seen.names_key or names_key,
                        seen.count + 1,
                        seen.train + (name == "train"),
                    )
    return [found[text] for text in sorted(found)], empty


def _open(folder: Path) -> CaptionTable | None:
    """The undamaged table that is there."""
    from amt_jax.data.captions import CARD, CaptionTable

    if not (folder / CARD).exists():
        return None
    try:
        table = CaptionTable.load(folder)
        table.verify()
    except UserError as error:
        print(f"{error}: it is made anew")
        return None
    return table


def _encoder(args: argparse.Namespace, captions: Sequence[Caption], old: CaptionTable | None, folder: Path) -> Encoder:
    """The encoder asked for, else the one in `folder`; a TF-IDF that is there stays as it was fitted."""
    if args.encoder not in (None, TFIDF):
        from amt_jax.text.bert import BertEncoder

        return BertEncoder(args.encoder, pooling=args.pooling, length=args.max_tokens, tokenizer=args.tokenizer)
    from amt_jax.data.captions import CARD
    from amt_jax.text.tfidf import TfidfEncoder

    if (args.encoder is None and (folder / CARD).exists()) or (old and old.card.encoder == TFIDF):
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
    from tqdm import tqdm

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
    from amt_jax.data.captions import TextCard
    from amt_jax.data.card import file_sha256
    from amt_jax.text.clusters import Clusters

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


def _summary(folder: Path, new: int, seconds: float) -> None:
    from amt_jax.data.captions import CaptionTable

    table = CaptionTable.load(folder)
    card = table.card
    print(f"{new} captions encoded by {card.encoder!r} in {seconds:.1f} s ({new / max(seconds, 1e-9):,.0f} a second)")
    print(
        f"{len(table)} captions ({card.human} human), {card.tokens / len(table):.1f} states of {card.width} on average"
    )
    if card.length > 1 and (full := int((table.lengths == card.length).sum())):
        print(f"captions that fill --max-tokens={card.length}, so that words after that are not read: {full}")
    if silent := int((table.lengths == 0).sum()):
        print(f"captions without a word that the encoder knows, which say nothing to a model: {silent}")
    print(f"the table is {folder}; next:")
    print(f"  python -m data_prep.cluster --dataset={folder.parent}   # if semantic tokens are wanted")
    print(f"  python -m amt_jax.train --config=text_cross:small --config.dataset={folder.parent} --run=RUN")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, metavar="DIR", help="dataset folder whose records have captions")
    parser.add_argument(
        "--encoder", metavar="NAME", help="tfidf, a name on the hub, or a folder (default: as before, or tfidf)"
    )
    parser.add_argument(
        "--pooling", choices=POOLINGS, help="of BERT's states to one vector (default: as it says, or mean)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=LENGTH, metavar="N", help=f"BERT reads so many of a text (default: {LENGTH})"
    )
    parser.add_argument(
        "--tokenizer", choices=("tf_text",), help="tensorflow-text's for BERT: the same ids, faster (extra text)"
    )
    return parser


if __name__ == "__main__":
    run_command(main)
