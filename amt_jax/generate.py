"""python -m amt_jax.generate: a run folder and a wish in, playable music out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from amt_jax.errors import UserError, run_command
from amt_jax.sampling.settings import GenerationSettings

EXAMPLES = """examples:
  python -m amt_jax.generate --run=RUN --output=music --composer=Bach --count=8 --seconds=40
  python -m amt_jax.generate --run=RUN --output=music --composer=all
  python -m amt_jax.generate --run=RUN --output=music --prompt=mine.mid --prompt_beats=16
  python -m amt_jax.generate --run=RUN --output=music --batch=requests.jsonl
  python -m amt_jax.generate --run=RUN --output=music --interactive
  python -m amt_jax.generate --run=RUN --output=again --replay=music/Bach_seed-3.mid

a line of a batch file takes the same names: {"composer": "Bach", "seconds": 20, "count": 2, "top_p": 0.9}
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="amt_jax.generate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of a trained run")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the music")
    parser.add_argument("--checkpoint", default="best", help="best (default), last, or a step")
    wish = parser.add_argument_group("what to make")
    wish.add_argument("--composer", "--composers", help="one, several with commas, or all; none is unconditional")
    wish.add_argument("--count", type=int, help="how many of each, with seeds from --seed on (default 1)")
    wish.add_argument("--prompt", metavar="FILE", help="a MIDI file to continue")
    wish.add_argument("--prompt_beats", type=float, metavar="BEATS", help="continue after so many beats (default: all)")
    ways = parser.add_argument_group("other ways to ask").add_mutually_exclusive_group()
    ways.add_argument("--batch", type=Path, metavar="FILE", help="requests, one json object a line")
    ways.add_argument("--interactive", action="store_true", help="answer questions, piece by piece")
    ways.add_argument("--replay", type=Path, metavar="FILE", help="make a generated MIDI file again, identically")
    how = parser.add_argument_group("how to sample")
    for field in dataclasses.fields(GenerationSettings):
        kind = type(field.default)
        how.add_argument(f"--{field.name}", type=kind, help=f"{field.metadata['help']} (default {field.default:g})")
    parser.add_argument("--audio", choices=["wav", "mp3", "flac", "none"], default="wav", help="sound beside each MIDI")
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True, help="a piano roll of each")
    parser.add_argument("--max_batch", type=int, default=32, help="pieces made together (default 32)")
    return parser


def main() -> None:
    args = parser().parse_args()
    from amt_jax.sampling.generator import Generator, same_platform
    from amt_jax.training.run_folder import RunFolder

    generator = Generator(RunFolder(args.run), args.checkpoint, max_batch=args.max_batch)
    args.output.mkdir(parents=True, exist_ok=True)
    names = ["composer", "count", "prompt", "prompt_beats", *(f.name for f in dataclasses.fields(GenerationSettings))]
    asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.replay:
        piece = generator.replay(args.replay)
        deliver([piece], args)
        if not same_platform(piece.recipe):
            print(
                f"note: {args.replay} was made on {piece.recipe['platform']} with jax {piece.recipe['jax']}; "
                "on this machine the music may differ from some note on"
            )
    elif args.interactive:
        interact(generator, asked, args)
    elif args.batch:
        make(generator, [order for line in read_batch(args.batch) for order in at_line(generator, line, asked)], args)
    else:
        make(generator, generator.order(asked), args)


def make(generator, orders, args) -> None:
    """Generates, saves, and says what was made and how fast."""
    from tqdm import tqdm

    limit = generator.config.context_length // 2
    start, tokens = time.perf_counter(), 0
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left"
    with tqdm(total=1.0, desc=f"composing {len(orders)} pieces", bar_format=form) as bar:
        pieces = generator.generate(orders, lambda _, share: bar.update(share - bar.n))
    seconds = time.perf_counter() - start
    for order, piece in zip(orders, pieces, strict=True):
        prompt = generator.prompt_tokens(order)
        tokens += len(piece.ids) - prompt
        if prompt > limit:
            print(f"note: {order.prompt} has {prompt} tokens; the model heard its last {limit}")
    deliver(pieces, args)
    speed = tokens / seconds
    print(f"{len(pieces)} pieces, {tokens} new tokens in {seconds:.1f} s ({speed:.0f} tokens/s, compiling included)")


def deliver(pieces, args) -> None:
    """Saves pieces as MIDI, ids, sound and picture, and lists them."""
    from tqdm import tqdm

    from amt_jax.music import render

    for piece in tqdm(pieces, desc="saving", unit="piece", leave=False, disable=len(pieces) < 3):
        path = piece.save(args.output)
        if args.audio != "none":
            render.save_audio(piece.score, path.with_suffix(f".{args.audio}"))
        if args.pictures:
            render.save_piano_roll(piece.score, path.with_suffix(".png"), piece.name)
        seconds, notes = piece.score.to("second").end(), piece.score.note_num()
        tqdm.write(f"{path}  {seconds:.1f} s  {notes} notes")


def read_batch(path: Path):
    """Yields (place, values) for each line of a batch file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not json ({error})") from None
            if not isinstance(values, dict):
                raise UserError(f'{path}, line {number}: a json object like {{"composer": "Bach"}} is needed')
            yield f"{path}, line {number}", values


def at_line(generator, line, defaults):
    place, values = line
    try:
        return generator.order(values, defaults)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def interact(generator, asked, args) -> None:
    """Asks for settings and makes a piece, until the person has enough. Enter keeps what stands in brackets."""
    composers = generator.card.conditions.get("composer")
    if composers:
        print("composers:", ", ".join(composers.values))
    print("Enter keeps the value in brackets; q ends.")
    questions = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.02, "seconds": 40.0}
    questions |= {"prompt": "none", "prompt_beats": 16.0, "composer": "none", "guidance": 1.0, "seed": 0}
    if not composers:
        del questions["composer"], questions["guidance"]
    answers = {**questions, **asked}
    while True:
        for name in questions:
            if name == "prompt_beats" and answers["prompt"] == "none":
                continue
            try:
                answer = input(f"{name} [{answers[name]}]: ").strip()
            except EOFError:
                return
            if answer == "q":
                return
            if answer:
                answers[name] = parse_answer(answer, questions[name], answers[name])
        chosen = {name: value for name, value in answers.items() if value != "none"}
        if "prompt" not in chosen:
            chosen.pop("prompt_beats", None)
        try:
            make(generator, generator.order(chosen), args)
            answers["seed"] += 1
        except UserError as error:
            print(f"error: {error}")


def parse_answer(answer: str, default, current):
    try:
        return type(default)(answer)
    except ValueError:
        print(f"{answer!r} is not a number; keeping {current}")
        return current


if __name__ == "__main__":
    run_command(main)
