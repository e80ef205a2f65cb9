"""Does a model follow words? One dataset of arranged music, a model with text, one without, and what they make.

    python -m bench.following prepare --pop909=DIR --nottingham=DIR --asap=DIR --output=following
    python -m bench.following run --input=following --steps=3000 --config.context=2048 --config.batch_size=16

`prepare` needs the extra `words` and no accelerator. It arranges the music: most of it is for the piano, so that a
model could not be asked for instruments. These are made arrangements, which nobody wrote; see arranged.arrange for the
rule. Each is cut in windows of --seconds, and captions tell of a window's own tempo, mode, density and instruments: of
a whole piece they would be true of its first 20 seconds only in part. Pieces are brought to C major or A minor as a
whole: in varied keys a small model did not learn what a mode is. No caption names a key's tonic. Files of one track are
left out: ASAP's performances mark no tempo and do not tell the hands apart.

`run` needs what training needs: OUTPUT/dataset, texts.jsonl and encoder may be copied to a machine with an accelerator.
It encodes the captions, trains --config twice, once never told a text, and writes how often music is as held-out texts
ask, and what captions do to the likelihood of held-out music. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt_jax.demo import run_module
from amt_jax.errors import Parser, run_command
from bench.arranged import SOURCES, prepare

if TYPE_CHECKING:
    from amt_jax.data.pipeline import Records
    from amt_jax.sampling.generator import Generator

REAL, CHANCE = "real music", "chance"
RIGHT, NONE, WRONG = "its own caption", "none", "another piece's caption"


def main() -> None:
    """Reads the flags, prepares or runs."""
    parser = Parser(
        prog="python -m bench.following", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("prepare", help="MIDI to a dataset with words", allow_abbrev=False).add_argument
    for name in SOURCES:
        add(f"--{name}", type=Path, metavar="DIR", help="its MIDI files")
    add("--output", required=True, type=Path, metavar="DIR")
    add("--seconds", type=float, default=20.0, help="of a window (default: %(default)s)")
    add("--encoder", type=Path, metavar="DIR", help="a BERT of which OUTPUT/encoder gets a copy in float16")
    add("--files", type=int, default=0, help="of each collection at most, to try it (default: all)")
    add("--seed", type=int, default=0, help="of the arrangements, words and splits (default: %(default)s)")
    add = commands.add_parser("run", help="train, make music, measure", allow_abbrev=False).add_argument
    add("--input", required=True, type=Path, metavar="DIR", help="the output of prepare")
    add("--runs", type=Path, metavar="DIR", help="for the two run folders (default: INPUT/runs)")
    add("--encoder", default="", help="tfidf, a BERT's folder or name (default: INPUT/encoder, else tfidf)")
    add(
        "--config",
        default="text_cross",
        help="with text, or semantic tokens (default: %(default)s); its fields as --config.FIELD=VALUE",
    )
    add("--steps", type=int, default=3000, help="of each training (default: %(default)s)")
    add("--follow", type=int, default=96, help="texts to follow (default: %(default)s)")
    add("--seconds", type=float, default=20.0, help="of each piece (default: %(default)s)")
    add("--guidance", type=float, nargs="*", default=[3.0, 5.0], help="default: 3 5")
    add("--batch", type=int, default=32, help="pieces made together (default: %(default)s)")
    add("--seed", type=int, default=0, help="of training, music and intervals (default: %(default)s)")
    add("--output", type=Path, default=Path("bench/results/following.json"), help="and .md beside it")
    args, overrides = parser.parse_known_args()
    if wrong := [word for word in overrides if args.command == "prepare" or not word.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if args.command == "prepare":
        prepare(args)
    else:
        run(args, overrides)


def run(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Encodes, trains twice, listens, writes."""
    from amt_jax.data.conditions import SEMANTIC
    from amt_jax.train import load_config

    conditions = load_config(args.config)["conditions"]
    dataset, runs, carried = args.input / "dataset", args.runs or args.input / "runs", args.input / "encoder"
    encoder = args.encoder or (str(carried) if carried.exists() else "tfidf")
    run_module("data_prep.encode", f"--dataset={dataset}", f"--encoder={encoder}")
    if SEMANTIC in conditions:
        run_module("data_prep.cluster", f"--dataset={dataset}")
    fields = [f"--config.steps={args.steps}", "--config.epochs=0", f"--config.seed={args.seed}", *overrides]
    for name, more in (("with", []), ("without", [f"--config.conditions.{name}.dropout=1" for name in conditions])):
        flags = [f"--config={args.config}", f"--config.dataset={dataset}", f"--run={runs / name}", *fields, *more]
        run_module("amt_jax.train", *flags)

    import jax

    from amt_jax import __version__
    from amt_jax.data.card import Card
    from amt_jax.data.conditions import TEXT
    from amt_jax.data.pipeline import Records
    from amt_jax.sampling.generator import Generator
    from amt_jax.training.run_folder import RunFolder

    records = Records(dataset, Card.load(dataset), "test")
    told = records.card.conditions[TEXT]
    with open(args.input / "texts.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    pair = [Generator(RunFolder(runs / name), max_batch=args.batch) for name in ("with", "without")]
    found = {
        "about": {
            "command": shlex.join(["python", "-m", "bench.following", *sys.argv[1:]]),
            "held-out music": f"{len(records)} windows, content {records.card.split('test').content[:16]}",
            "captions encoded by": f"{Path(told.encoder).name}, {told.digest[:16]}",
            "versions": f"amt_jax {__version__}, jax {jax.__version__}, Python {sys.version.split()[0]}",
            "device": jax.devices()[0].device_kind,
            "seed": args.seed,
        },
        "following": listen(*pair, records, texts[: args.follow], args.seconds, args.guidance, args.seed),
        "likelihood": likelihood(*pair, records, args.seed),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    args.output.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(table(found))


def listen(
    generator: Generator,
    other: Generator,
    records: Records,
    texts: Sequence[Mapping[str, Any]],
    seconds: float,
    guidance: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """How often music is as the texts ask: any real music, the real music that they are of, made in each way."""
    from amt_jax.data.conditions import SEMANTIC, TEXT
    from amt_jax.evaluation.following import follow, heard
    from amt_jax.music.features import excerpt
    from amt_jax.sampling.order import Order
    from amt_jax.sampling.settings import GenerationSettings

    real = [heard(excerpt(generator.tokenizer.decode(records[n].ids), seconds)) for n in range(len(records))]
    known = {CHANCE: [real] * len(texts), REAL: [[real[text["record"]]] for text in texts]}
    settings = [GenerationSettings(seconds=seconds, seed=seed + n) for n in range(len(texts))]

    def understood(text: str) -> dict[str, Any]:  # nothing but what its encoder says: no mask of instruments, no tempo
        found = generator.reader.read(text).conditions
        return {TEXT: text} | {name: value for name, value in found.items() if name == SEMANTIC}

    told = [Order(each, understood(text["text"])) for each, text in zip(settings, texts, strict=True)]
    asked = [{name: frozenset(x) if isinstance(x, list) else x for name, x in each["asked"].items()} for each in texts]
    found = follow(generator, told, asked, seed=seed, guidance=guidance, other=other, known=known)
    return {aspect: dataclasses.asdict(each) for aspect, each in found.items()}


def likelihood(generator: Generator, other: Generator, records: Records, seed: int) -> dict[str, Any]:
    """Nats a token of held-out music by what the model is told, and what that saves a piece against being told nothing.

    A piece is scored in each way, so that what is saved has an interval over pieces that does not know how much some
    pieces are harder than others.
    """
    import numpy as np

    from amt_jax.data.conditions import open_conditions
    from amt_jax.data.pipeline import Retold
    from amt_jax.evaluation.following import OTHER
    from amt_jax.evaluation.likelihood import score_pieces
    from amt_jax.evaluation.metrics import bootstrap

    order = np.random.default_rng(seed).permutation(len(records))
    another = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    nothing = Retold(records, lambda index: {})
    tellings = {
        RIGHT: (generator, records),
        NONE: (generator, nothing),
        WRONG: (generator, Retold(records, lambda index: records[another[index]].conditions)),
        OTHER: (other, nothing),
    }
    scores = {}
    for title, (model, told) in tellings.items():
        conditions = open_conditions(records.folder, model.card, model.config)
        scores[title] = score_pieces(
            model.config, model.sampler.params, told, conditions, title=f"scoring, {title}"
        ).sum(axis=1)
    found = {}
    for title, score in scores.items():
        columns = np.stack([score[:, 0], scores[NONE][:, 0] - score[:, 0], score[:, 1]], axis=1)  # [P, 3]
        figures = {
            "nats_per_token": lambda x: x[:, 0].sum() / x[:, 2].sum(),
            "saved_per_token": lambda x: x[:, 1].sum() / x[:, 2].sum(),
            "saved_per_piece": lambda x: x[:, 1].mean(),
        }
        found[title] = {
            name: dataclasses.asdict(bootstrap(figure, [columns], seed, least=-np.inf))
            for name, figure in figures.items()
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """What was found, for people."""
    about, following = found["about"], found["following"]
    ways = list(next(iter(following.values()))["shares"])
    lines = [
        "# Does a model follow words?",
        "",
        "Written by `python -m bench.following`. The music is arranged: its instruments, and the tempo where a file",
        "marks none, were drawn for each piece and are nobody's work. Below are shares of the held-out captions that",
        "name an aspect whose music is of the class named, with 95 % intervals by bootstrap over the captions.",
        f'"{CHANCE}" is the share of all held-out music that would do; "{REAL}" is the piece that',
        "the caption is of, as tokens hold it: no model can be expected to do better.",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        "",
        _row(["asked for", "captions", *ways]),
        _row(["---"] * (len(ways) + 2)),
    ]
    for aspect, each in following.items():
        lines.append(_row([aspect, each["asked"], *(_percent(each["shares"][way]) for way in ways)]))
    lines += [
        "",
        "| told | nats a token | saved a token against none | saved a piece |",
        "|---|---|---|---|",
    ]
    for title, each in found["likelihood"].items():
        saved = (
            ["", ""] if title == NONE else [_figure(each["saved_per_token"], 4), _figure(each["saved_per_piece"], 1)]
        )
        lines.append(_row([title, _figure(each["nats_per_token"], 3), *saved]))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _figure(estimate: Mapping[str, float], digits: int) -> str:
    value, low, high = (f"{estimate[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _percent(share: Mapping[str, float]) -> str:
    value, low, high = (f"{share[name]:.0%}".removesuffix("%") for name in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


if __name__ == "__main__":
    run_command(main)
