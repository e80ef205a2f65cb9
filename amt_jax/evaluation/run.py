"""Evaluates a run: its likelihood on a split, and its music against the split's music."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from symusic import Score
from tqdm import tqdm

from amt_jax import __version__, storage
from amt_jax.data.cache import open_dataset
from amt_jax.data.card import content_hash
from amt_jax.data.conditions import TEXT, Conditions, open_conditions
from amt_jax.data.pipeline import Held, Records, Retold
from amt_jax.data.rolls import read_rolls
from amt_jax.errors import UserError
from amt_jax.evaluation.following import choose
from amt_jax.evaluation.following import follow as follow_texts
from amt_jax.evaluation.frames import evaluate_frames
from amt_jax.evaluation.likelihood import Likelihood, evaluate_likelihood
from amt_jax.evaluation.metrics import compare
from amt_jax.evaluation.report import Piece, Report
from amt_jax.music import midi
from amt_jax.music.features import excerpt, features
from amt_jax.music.render import AUDIO_FORMATS, piano_roll_png, save_audio
from amt_jax.parallel.mesh import ONE_DEVICE, MeshConfig, local_mesh
from amt_jax.parallel.processes import is_first
from amt_jax.sampling.generator import Generator
from amt_jax.sampling.order import Order
from amt_jax.sampling.request import Request
from amt_jax.sampling.sampler import Sampler
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.tokenizer import Tokenizer
from amt_jax.training.run_folder import RunFolder

_SHOWN = 6  # samples with a piano-roll on the page
_SAMPLES = "samples"
SCORED = {
    "tokens": "all tokens of a piece and its end",
    "frames": "all frames of a piece but the first and no end; what cannot come is masked out, the rest renormalised",
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """A piece of music and its name; `file` is where it came from, if it was not generated here."""

    name: str
    score: Score
    file: Path | None = None


def evaluate_run(
    run: RunFolder,
    output: str | os.PathLike,
    *,
    split: str = "test",
    dataset: str = "",
    samples: str = "",
    count: int = 16,
    seconds: float = 30.0,
    seed: int = 0,
    checkpoint: str = "best",
    follow: int = 32,
    without_text: str = "",
    encoder: str | None = None,
    mesh: MeshConfig = ONE_DEVICE,
    weights: str = "auto",
) -> Report:
    """Evaluates a run and writes the report, with the samples beside it, into `output`.

    Several processes share the scoring; each makes the same music, and the first one writes.

    Args:
      run: the run folder.
      output: folder for the report.
      split: of the dataset.
      dataset: dataset folder, the one it was trained on if empty; the vocabulary must be the run's.
      samples: folder of MIDI files to judge; if empty, `count` pieces are generated.
      count: pieces to generate, and pieces of random tokens to compare with.
      seconds: length of generated pieces; samples and real pieces are compared over their first so many seconds.
      seed: of the generation and the bootstrap.
      checkpoint: "best", "last" or a step.
      follow: captions of the split that a run trained with texts is asked to follow, in each way; 0 for none.
      without_text: run folder of a model without text, to compare with in that.
      encoder: folder or name of the run's text encoder, if it lies elsewhere now.
      mesh: the devices of a process that share its work.
      weights: what to compute with, see `quantization.convert`.
    """
    settings = GenerationSettings(seconds=seconds, seed=seed)
    card, tokenizer = run.card, run.tokenizer
    folder = dataset or run.config.dataset
    records = open_records(run, folder, split, named=bool(dataset))
    given = load_samples(samples) if samples else None
    devices = local_mesh(mesh, run.model_config)
    generator = Generator(run, checkpoint, mesh=mesh, weights=weights, encoder=encoder)
    texts, other = [], None
    if follow and TEXT in generator.card.conditions:
        texts = choose(records, follow, seed)
        other = Generator(RunFolder(without_text), mesh=mesh, weights=weights) if without_text else None
    config, sampler, params = generator.config, generator.sampler, generator.sampler.params
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    names = [condition.name for condition in config.conditions]
    conditions = open_conditions(records.folder, card, config)  # by the run's card: matched by name, whatever their ids
    real = read_scores(records, tokenizer)
    lengths = np.array([features(score).seconds for score in real])
    likelihoods = score_tokens(generator, records, conditions, real, devices, seed)

    if given is None:
        # Asked for what the real pieces are, so that both sets are of one mixture.
        order = np.random.default_rng(seed).permutation(len(records))
        chosen = [records[int(i)] for i in itertools.islice(itertools.cycle(order), count)]
        wanted = [conditions.of_piece(record.conditions) for record in chosen]
        results = _generate(sampler, settings, wanted, "generating")
        given = [
            Sample(_name(number, names, record.conditions), tokenizer.decode(ids))
            for number, (ids, record) in enumerate(zip(results, chosen, strict=True), start=1)
        ]
    # A model whose logits are all equal: the grammar alone decides what is possible. Such music is thin, and a few
    # notes are in one scale by chance: so it is as long in tokens as real music, not in seconds.
    blind = Sampler(config, jax.tree.map(jnp.zeros_like, params), card.spec, sampler.grammar, mesh=devices)
    tokens = max(1, round(records.lengths.sum() / max(lengths.sum(), 1.0) * seconds))
    anything = GenerationSettings(
        seconds=36_000, max_tokens=min(tokens, 65_536), temperature=1, top_k=0, top_p=1, seed=seed
    )
    noise = [tokenizer.decode(ids) for ids in _generate(blind, anything, [{}] * count, "random tokens")]

    told = [
        generator.reader.fulfil(Order(dataclasses.replace(settings, seed=(seed + n) % 2**32), {TEXT: text}))[0]
        for n, (text, _) in enumerate(texts)
    ]
    following = follow_texts(generator, told, [asked for _, asked in texts], seed=seed, other=other) if texts else {}

    sets = {
        "samples": [features(excerpt(each.score, seconds)) for each in given],
        "real": [features(excerpt(score, seconds)) for score in real],
        "random": [features(score) for score in noise],
    }
    about = {
        **_model(run, generator, checkpoint),
        "dataset": str(folder),
        "split": f"{split}, {len(records):,} pieces, content {records.card.split(split).content[:16]}",
        "samples": samples or f"{len(given)} generated, {settings}",
        "compared over": f"the first {seconds:g} seconds of each piece",
        "random tokens": f"{count} pieces of {tokens} tokens, all that the grammar allows equally likely",
        **_circumstances(seed),
    }
    report = Report(
        about=about,
        vocab_size=card.spec.vocab_size,
        likelihoods=likelihoods,
        sets=sets,
        comparisons=compare({name: sets[name] for name in ("samples", "random")}, sets["real"], seed=seed),
        following=following,
        pieces=save_pieces(given, output) if is_first() else [],
        history=read_history(run.metrics_path),
    )
    if is_first():
        report.save(output)
    return report


def score_run(
    run: RunFolder,
    kind: str,
    output: str | os.PathLike | None = None,
    *,
    split: str = "test",
    dataset: str = "",
    rolls: str = "",
    leaks: bool = False,
    seed: int = 0,
    checkpoint: str = "best",
    encoder: str | None = None,
    mesh: MeshConfig = ONE_DEVICE,
    weights: str = "auto",
) -> Report:
    """Says how well a run predicts real music, and makes none; writes the report if there is an `output`.

    Args:
      kind: "tokens", or "frames" by the protocol of `evaluation.frames`.
      rolls: a file of piano-rolls whose split is scored, instead of the dataset's.
      leaks: for frames, also without the pieces whose melody stands in train: that of `rolls` if it has one, else the
        dataset's.
      run, output, split, dataset, seed, checkpoint, encoder, mesh, weights: see `evaluate_run`.
    """
    card, folder, train = run.card, dataset or run.config.dataset, []
    if kind == "frames" and "Frame" not in card.spec.ranges:
        raise UserError(
            f"run {run.path} has no frames but {card.spec.name} tokens: with --likelihood=tokens its nats a note and "
            "bits a second can be compared with those of frames"
        )
    if rolls:
        splits = read_rolls(rolls, run.tokenizer, (split,))
        records, content = Held(card, splits[split]), content_hash(each.to_bytes() for each in splits[split])
        train = splits.get("train", [])
    else:
        records = open_records(run, folder, split, named=bool(dataset))
        content = records.card.split(split).content
    if leaks and not train:
        own = open_records(run, folder, "train", named=bool(dataset))
        train = [own[index] for index in range(len(own))]
    devices = local_mesh(mesh, run.model_config)
    generator = Generator(run, checkpoint, mesh=mesh, weights=weights, encoder=encoder)
    config, params = generator.config, generator.sampler.params
    conditions = generator.conditions if rolls else open_conditions(records.folder, card, config)
    scores = []
    if kind == "frames":
        known = train if leaks else []
        likelihoods, scores = evaluate_frames(
            config, params, records, conditions, run.tokenizer, train=known, mesh=devices, seed=seed
        )
    else:
        likelihoods = score_tokens(generator, records, conditions, read_scores(records, run.tokenizer), devices, seed)
    report = Report(
        about={
            **_model(run, generator, checkpoint),
            "dataset": str(rolls or folder),
            "split": f"{split}, {len(records):,} pieces, content {content[:16]}",
            "likelihood": SCORED[kind],
            **_circumstances(seed),
        },
        vocab_size=card.spec.vocab_size,
        likelihoods=likelihoods,
        scores=scores,
        history=read_history(run.metrics_path),
    )
    if output and is_first():
        report.save(output)
    return report


def read_scores(records: Records, tokenizer: Tokenizer) -> list[Score]:
    """The music of records."""
    return [tokenizer.decode(records[i].ids) for i in tqdm(range(len(records)), desc="reading", disable=None)]


def score_tokens(
    generator: Generator, records: Records, conditions: Conditions, real: Sequence[Score], devices: Mesh, seed: int
) -> dict[str, Likelihood]:
    """The likelihood of records by what the model is told of them; `real` is their music."""
    names = [condition.name for condition in generator.config.conditions]
    told = {"model": records}
    if names:
        label = " and ".join(names)
        told = {f"{label} given": records, f"{label} not given": Retold(records, lambda index: {})}
    if TEXT in names:
        order = np.random.default_rng(seed).permutation(len(records))
        another = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        told[f"{label} of another piece given"] = Retold(records, lambda index: records[another[index]].conditions)
    heard = {
        "seconds": np.array([features(score).seconds for score in real]),
        "notes": np.array([score.note_num() for score in real]),
    }
    return {
        title: evaluate_likelihood(
            generator.config, generator.sampler.params, each, conditions,
            **heard, seed=seed, mesh=devices, title=f"scoring, {title}",
        )
        for title, each in told.items()
    }  # fmt: skip


def open_records(run: RunFolder, folder: str | os.PathLike, split: str, *, named: bool) -> Records:
    """The records of a split; UserError if the run cannot read them."""
    if not named and not storage.open_folder(folder).exists():
        raise UserError(f"the dataset of run {run.path}, {folder}, is not there; name it with --dataset=DATASET")
    card, here = open_dataset(folder, (split,))
    if card.spec != run.card.spec:
        raise UserError(
            f"dataset {folder} has another vocabulary ({card.spec.name}, {card.spec.vocab_size} ids) than run "
            f"{run.path} ({run.card.spec.name}, {run.card.spec.vocab_size} ids); prepare it with the run's tokenizer"
        )
    return Records(here, card, split)


def load_samples(folder: str | os.PathLike) -> list[Sample]:
    """The MIDI files of a folder and its subfolders; broken ones are named on stderr and left out."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    samples = []
    for path in paths:
        try:
            samples.append(Sample(str(path.relative_to(folder).with_suffix("")), midi.load(path), path))
        except midi.MidiError as error:
            print(f"left out {path}: {error}", file=sys.stderr)
    if not samples:
        raise UserError(f"no readable .mid files in {folder}; name a folder of samples, or leave --samples out")
    return samples


def save_pieces(samples: Sequence[Sample], output: Path) -> list[Piece]:
    """Puts samples beside the report as MIDI; the first ones also drawn, and as sound if there is a file of theirs or
    the extra `audio` is installed."""
    folder = output / _SAMPLES
    folder.mkdir(exist_ok=True)
    pieces = []
    for number, sample in enumerate(samples[_SHOWN:], start=_SHOWN + 1):
        if sample.file is None:
            midi.save(sample.score, folder / f"sample_{number:02d}.mid")
    for number, sample in enumerate(tqdm(samples[:_SHOWN], desc="drawing", disable=None), start=1):
        stem = f"sample_{number:02d}"
        midi.save(sample.score, folder / f"{stem}.mid")
        audio = ""
        beside = [sample.file.with_suffix(each) for each in AUDIO_FORMATS] if sample.file else []
        found = next((path for path in beside if path.exists()), None)
        try:
            if found:
                audio = f"{stem}{found.suffix}"
                if found.resolve() != (folder / audio).resolve():
                    shutil.copyfile(found, folder / audio)
            else:
                save_audio(sample.score, folder / f"{stem}.mp3")
                audio = f"{stem}.mp3"
        except UserError as error:
            if number == 1:
                print(f"no sound on the page: {error}", file=sys.stderr)
        picture = piano_roll_png(sample.score, height=3.6)
        pieces.append(Piece(sample.name, picture, f"{_SAMPLES}/{stem}.mid", f"{_SAMPLES}/{audio}" if audio else ""))
    return pieces


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, a cut-off last one left out; nothing if there is no file."""
    history = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            history.append(json.loads(line))
        except ValueError:
            continue
    return history


def _model(run: RunFolder, generator: Generator, checkpoint: str) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "checkpoint": checkpoint,
        "parameters sha256": generator.checkpoint,
        "weights": generator.weights,
    }


def _circumstances(seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "versions": f"amt_jax {__version__}, jax {jax.__version__}, Python {platform.python_version()}",
        "device": jax.devices()[0].device_kind,
    }


def _generate(
    sampler: Sampler, settings: GenerationSettings, conditions: Sequence[dict], title: str
) -> list[np.ndarray]:
    """One piece for each row of conditions, with seeds that count up from the settings'."""
    requests = [
        Request(dataclasses.replace(settings, seed=(settings.seed + number) % 2**32), wanted)
        for number, wanted in enumerate(conditions)
    ]
    with tqdm(total=100, desc=title, unit="%", disable=None) as bar:
        results = sampler.generate(requests, lambda share: bar.update(round(100 * share, 1) - bar.n))
        return [result.ids for result in results]


def _name(number: int, names: Sequence[str], wanted: Mapping[str, Any]) -> str:
    asked = ", ".join(str(wanted[name]) for name in names if isinstance(wanted.get(name), str))
    return f"sample {number}" + (f": {asked}" if asked else "")
