"""Arranged music with words: the dataset of bench.following, which says why."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt_jax.demo import run_module
from amt_jax.errors import UserError

if TYPE_CHECKING:
    from symusic import Score

SOURCES = ("pop909", "nottingham", "asap")
# Label -> General MIDI program.
MELODY = {"flute": 73, "violin": 40, "trumpet": 56, "saxophone": 65, "clarinet": 71, "piano": 0}
BELOW = {"guitar": 24, "strings": 48, "organ": 19, "harp": 46, "accordion": 21, "piano": 0}
PIANO = 1 / 3
DEFAULT_TEMPO, TEMPOS = 120, (50, 180)
TOLD = ("path", "family", "tempo", "key", "density", "instruments")  # what captions may tell
MIN_NOTES = 16


def prepare(args: argparse.Namespace) -> None:
    """Arranges the music and makes the dataset and the texts to follow."""
    from tqdm import tqdm

    from amt_jax.music import midi

    folders = {name: folder for name in SOURCES if (folder := getattr(args, name))}
    if not folders:
        raise UserError(f"no music: name one of {', '.join(f'--{name}=DIR' for name in SOURCES)}")
    if args.output.exists() and any(args.output.iterdir()):
        raise UserError(f"{args.output} is not empty; name a new folder with --output")
    work, dataset = args.output / "work", args.output / "dataset"
    (work / "midi").mkdir(parents=True)
    for name, folder in folders.items():
        files = sorted(folder.rglob("*.mid"))
        random.Random(args.seed).shuffle(files)
        counts = {"arranged": 0, "left out, one track": 0, "left out, damaged": 0}
        for file in tqdm(files[: args.files or None], desc=f"arranging {name}", delay=2):
            # Flat: a folder would be a composer.
            target = "-".join((name, *file.relative_to(folder).with_suffix(".mid").parts))
            try:
                score = arrange(midi.load(file), f"{args.seed}:{target}")
            except midi.MidiError:
                counts["left out, damaged"] += 1
                continue
            counts["arranged" if score else "left out, one track"] += 1
            if score:
                midi.save(score, work / "midi" / target)
        print(f"{name}: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    about, table, described = work / "about", work / "told.jsonl", work / "descriptions.jsonl"
    run_module(
        "data_prep.collect", f"--input={work / 'midi'}", f"--output={about}",
        f"--window-seconds={args.seconds:g}", f"--min-notes={MIN_NOTES}", "--standardise-key",
    )  # fmt: skip
    _rewrite(about / "midi_metadata.jsonl", table, lambda line: {name: line[name] for name in TOLD})
    run_module(
        "data_prep.describe", f"--metadata={table}", f"--output={work / 'all.jsonl'}", "--captions=6",
        f"--seed={args.seed}",
    )  # fmt: skip
    _rewrite(
        work / "all.jsonl",
        described,
        lambda line: line | {"captions": [each for each in line["captions"] if not each["names_key"]]},
    )
    run_module(
        "data_prep.midi", f"--input={about / 'midi'}", f"--output={dataset}", "--tokenizer=remi_multitrack",
        f"--descriptions={described}", f"--metadata={table}", "--family-column=family", "--test=0.1",
        f"--seed={args.seed}",
    )  # fmt: skip
    texts = choose(dataset, args.seed)
    (args.output / "texts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts))
    if args.encoder:
        halve(args.encoder, args.output / "encoder")
    print(f"{len(texts)} held-out texts to follow; next:\n  python -m bench.following run --input={args.output}")


def arrange(score: Score, seed: str) -> Score | None:
    """A piece of several tracks for instruments that are drawn for it; None if it has fewer than two.

    A third of the pieces are for the piano alone. In the others the track that lies highest gets an instrument of
    MELODY, each other one of its own of BELOW. All notes stay. A piece that marks no tempo but MIDI's own, 120, gets
    one: its logarithm is drawn evenly between those of TEMPOS.
    """
    from symusic import Tempo

    choose = random.Random(seed)
    tracks = [track for track in score.tracks if len(track.notes) and not track.is_drum]
    if len(tracks) < 2:
        return None
    tracks.sort(key=lambda track: -track.notes.numpy()["pitch"].mean())
    alone, leads = choose.random() < PIANO, choose.choice(list(MELODY.values()))
    others = itertools.cycle(choose.sample(list(BELOW.values()), len(BELOW)))
    for track, program in zip(tracks, (leads, *itertools.islice(others, len(tracks) - 1)), strict=True):
        track.program = 0 if alone else program
    if {round(change.qpm) for change in score.tempos} <= {DEFAULT_TEMPO}:
        low, high = TEMPOS
        score.tempos = [Tempo(0, round(low * (high / low) ** choose.random()))]
    return score


def choose(dataset: Path, seed: int) -> list[dict[str, Any]]:
    """The held-out texts, one a piece, that which asks for most; in turn of what they ask for, rare wishes as often.

    Returns:
      {"record": number in the test split, "text", "asked": aspect -> class}, see evaluation.following.
    """
    from amt_jax.data.card import Card
    from amt_jax.data.conditions import TEXT
    from amt_jax.data.pipeline import Records
    from amt_jax.evaluation.following import wanted
    from amt_jax.text.understanding import understand_all

    records, groups = Records(dataset, Card.load(dataset), "test"), {}
    for number in random.Random(seed).sample(range(len(records)), len(records)):
        texts = [each["text"] for each in records[number].conditions.get(TEXT, ())]
        found = [wanted(each) for each in understand_all(texts)]
        asked, text = max(zip(found, texts, strict=True), key=lambda each: len(each[0]), default=({}, ""))
        if len(asked) > 1:
            kind = tuple(asked.get(name, "") for name in ("tempo", "mode", "density"))
            asked |= {name: sorted(value) for name, value in asked.items() if name == "instruments"}
            groups.setdefault(kind, []).append({"record": number, "text": text, "asked": asked})
    turns = itertools.zip_longest(*(groups[kind] for kind in sorted(groups)))
    return [each for turn in turns for each in turn if each]


def halve(source: Path, target: Path) -> None:
    """Copies a BERT with its weights in float16, to be carried: its states then differ in their fourth digit."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from amt_jax.pretrained.bert import FILES

    for pattern in FILES:
        for file in source.glob(pattern):
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(source))
    weights = target / "model.safetensors"
    tensors = load_file(weights).items()
    save_file({name: each.astype(np.float16) if each.dtype == np.float32 else each for name, each in tensors}, weights)


def _rewrite(source: Path, target: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    with open(source, encoding="utf-8") as lines, open(target, "w", encoding="utf-8") as changed:
        changed.writelines(json.dumps(change(json.loads(line))) + "\n" for line in lines)
