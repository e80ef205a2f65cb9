"""A run folder and a wish in, playable music out: python -m amt_jax.generate."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from amt_jax.sampling.settings import WEIGHTS, GenerationSettings

SETTINGS = {field.name: field.default for field in dataclasses.fields(GenerationSettings)}
WORDS = ("text", "negative", "guide", "genre", "mood", "tempo", "density")
QUESTIONS = (
    *("text", "temperature", "top_k", "top_p", "repetition_penalty", "prompt", "prompt_tokens", "composer", "genre"),
    *("mood", "tempo", "density", "semantic", "instruments", "guidance", "negative", "bars", "seconds", "seed"),
)

EXAMPLES = """examples:
  python -m amt_jax.generate --run=RUN --output=music --composer=Bach --count=8 --seconds=40
  python -m amt_jax.generate --run=RUN --output=music --text="a melancholic jazz ballad with piano and saxophone"
  python -m amt_jax.generate --run=RUN --output=music --text="a calm waltz" --guide=text=4,genre=2 --negative="drums"
  python -m amt_jax.generate --run=RUN --output=music --batch=descriptions.txt --variations=5
  python -m amt_jax.generate --run=RUN --output=music --prompt=mine.mid --prompt_beats=16
  python -m amt_jax.generate --run=RUN --output=music --instruments="guitar, bass, drums" --polyphony=4 --bars=8
  python -m amt_jax.generate --run=RUN --output=music --batch=requests.jsonl
  python -m amt_jax.generate --run=RUN --output=music --interactive
  python -m amt_jax.generate --run=RUN --output=again --replay=music/Bach_seed-3.mid

a line of a batch file takes the same names: {"composer": "Bach", "seconds": 20, "count": 2, "top_p": 0.9}
or, in a .txt file, is a text
"""


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog="python -m amt_jax.generate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of a trained run, here or gs://… or s3://…")
    parser.add_argument("--output", type=storage.local_path, required=True, metavar="DIR", help="folder for the music")
    parser.add_argument("--checkpoint", default="best", help="best (default), last, or a step")
    parser.add_argument("--encoder", metavar="DIR", help="the run's text encoder, if it lies elsewhere now")
    wish = parser.add_argument_group("what to make")
    wish.add_argument("--composer", "--composers", help="one by name or number, several with commas, or all")
    wish.add_argument("--text", metavar="WORDS", help="what the music should be, in English")
    wish.add_argument("--negative", metavar="WORDS", help="what it should not be; needs --guidance or --guide")
    wish.add_argument("--guide", metavar="NAME=SCALE,...", help="how strongly to follow each: text=4,composer=2")
    wish.add_argument("--genre", metavar="NAMES", help="one or several with commas, as the dataset has them")
    wish.add_argument("--mood", metavar="NAMES", help="the same for moods")
    wish.add_argument("--tempo", type=float, metavar="BPM", help="beats a minute")
    wish.add_argument("--density", type=float, metavar="NOTES", help="notes a second")
    wish.add_argument("--style_token", metavar="K", help="semantic token, instead of the text's own")
    wish.add_argument(
        "--count", "--variations", type=int, help="how many of each, with seeds from --seed on (default 1)"
    )
    wish.add_argument("--prompt", metavar="FILE", help="a MIDI file to continue")
    wish.add_argument("--prompt_beats", type=float, metavar="BEATS", help="continue after so many beats (default: all)")
    wish.add_argument(
        "--prompt_tokens", type=int, metavar="TOKENS", help="continue after so many tokens (default: all)"
    )
    wish.add_argument("--instruments", metavar="NAMES", help='the only ones that may sound: "guitar, bass, drums"')
    ways = parser.add_argument_group("other ways to ask").add_mutually_exclusive_group()
    ways.add_argument(
        "--batch", type=Path, metavar="FILE", help="requests: in a .txt file a text a line, else a json object a line"
    )
    ways.add_argument("--interactive", action="store_true", help="answer questions, piece by piece")
    ways.add_argument("--replay", type=Path, metavar="FILE", help="make a generated MIDI file again, identically")
    how = parser.add_argument_group("how to sample")
    for field in dataclasses.fields(GenerationSettings):
        kind = type(field.default)
        how.add_argument(f"--{field.name}", type=kind, help=f"{field.metadata['help']} (default {field.default:g})")
    parser.add_argument("--audio", choices=["wav", "mp3", "flac", "none"], default="wav", help="sound beside each MIDI")
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True, help="a piano roll of each")
    parser.add_argument("--max_batch", type=int, default=32, help="pieces made together (default 32)")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="compute in float32 or bfloat16, or with matrices of int8, which is faster on a CPU; "
        "the music then is another (default auto: as it was trained)",
    )
    parser.add_argument(
        "--mesh",
        default="",
        help="devices that share the work: data=4 (pieces), tensor=2 or fsdp=2 (a large model); default: one",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="make all of it once more, trace that into OUTPUT/profile, and print what took the longest",
    )
    return parser


def main() -> None:
    args = make_parser().parse_args([underscored(word) for word in sys.argv[1:]])
    from amt_jax.compilation import keep_compiled
    from amt_jax.parallel.mesh import MeshConfig
    from amt_jax.sampling.generator import Generator, same_platform
    from amt_jax.training.run_folder import RunFolder

    if args.output.exists() and not args.output.is_dir():
        raise UserError(f"{args.output} is a file; name a folder with --output")
    if args.profile and (args.interactive or args.replay):
        raise UserError("--profile goes with a wish or with --batch, not with --interactive or --replay")
    mesh = MeshConfig.parse(args.mesh)
    keep_compiled()
    flags = {"max_batch": args.max_batch, "mesh": mesh, "weights": args.weights, "encoder": args.encoder}
    generator = Generator(RunFolder(args.run), args.checkpoint, **flags)
    names = ("composer", "count", "prompt", "prompt_beats", "prompt_tokens", "instruments", *WORDS, *SETTINGS)
    asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.text is not None and not args.text.strip():
        print("note: the text is empty, so it asks for nothing")
    if args.batch and args.batch.suffix.lower() == ".txt" and "text" in asked:
        raise UserError(f"--text and {args.batch}, a text a line, are two ways to say what to make; leave one out")
    if args.style_token is not None:
        asked["semantic"] = args.style_token
    if args.replay:
        if asked:
            flags = ", ".join(f"--{'style_token' if name == 'semantic' else name}" for name in asked)
            raise UserError(f"--replay makes a piece again as it was; leave out {flags}")
        piece = generator.replay(args.replay.expanduser())
        deliver([(piece, save(piece, args))], args)
        if not same_platform(piece.recipe):
            print(
                f"note: {args.replay} was made on {piece.recipe['platform']} with jax {piece.recipe['jax']}; "
                "on this machine the music may differ from some note on"
            )
    elif args.interactive:
        interact(generator, asked, args)
    else:
        orders = generator.read_batch(args.batch, asked) if args.batch else generator.orders(asked)
        make(generator, orders, args)
        if args.profile:
            profile(generator, orders, args.output / "profile")


def underscored(word: str) -> str:
    """Settings are spelt as in batch files, top_k; --top-k is taken too."""
    name, equals, value = word.partition("=")
    known = name.startswith("--") and not name.startswith("--no-")
    return "--" + name[2:].replace("-", "_") + equals + value if known else word


def make(generator, orders, args) -> None:
    """Generates, saves each batch as soon as it is made, and says what was made and how fast."""
    from tqdm import tqdm

    for asked in dict.fromkeys(order.asked for order in orders):
        if asked in generator.wishes:
            print("\n".join(generator.wishes[asked].lines()), flush=True)
    for negative in dict.fromkeys(order.negative for order in orders if order.negative):
        print("\n".join(generator.reader.read(negative).lines_against()), flush=True)
    saved = []
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left"
    with tqdm(total=1.0, desc=f"composing {number_of(orders, 'piece')}", bar_format=form) as bar:

        def report(share: float) -> None:
            if not bar.n:  # compiling up to the first token says nothing of how long the others take
                bar.reset()
            bar.update(share - bar.n)

        for piece in generator.generate(orders, report):
            saved.append((piece, save(piece, args)))
    deliver(saved, args)
    heard = generator.config.context_length // 2
    for name, length in {(order.prompt_name, len(order.prompt)): None for order in orders}:
        if length > heard:
            print(f"note: {name} has {length} tokens; the model heard the last {heard}")
    speed = generator.sampler.speed
    print(
        f"{number_of(saved, 'piece')}, {speed.tokens} new tokens in {speed.seconds:.1f} s: "
        f"{speed.tokens_per_second:.0f} tokens/s, {speed.real_time_factor:.1f} x real time, "
        f"the first token after {speed.first_token:.2f} s; compiling took {speed.compiling:.1f} s more"
    )


def save(piece, args) -> Path:
    """Writes a piece's MIDI and ids into the output folder."""
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        return piece.save(args.output)
    except OSError as error:
        raise UserError(f"cannot write to {args.output}: {error}") from None


def profile(generator, orders, folder: Path) -> None:
    """Generates again, now that all is compiled, and says what took the longest."""
    from amt_jax.training.profile import costs, trace

    with trace(folder):
        for _ in generator.generate(orders):
            pass
    print(*costs(folder).lines(), sep="\n")
    print(f"trace: {folder}; look at it with xprof, TensorBoard or (.json.gz) https://ui.perfetto.dev")


def deliver(saved, args) -> None:
    """Adds pictures and sound to saved pieces and lists them; where there can be no sound, says why once."""
    from tqdm import tqdm

    from amt_jax.music import render

    audio = args.audio
    for piece, path in tqdm(saved, desc="pictures and sound", unit="piece", leave=False, disable=len(saved) < 3):
        if args.pictures:
            render.save_piano_roll(piece.score, path.with_suffix(".png"), piece.name)
        if audio != "none":
            try:
                render.save_audio(piece.score, path.with_suffix(f".{audio}"))
            except UserError as error:
                tqdm.write(f"note: no sound, {error}", file=sys.stderr)
                audio = "none"
        tqdm.write(f"{path}  {piece.score.to('second').end():.1f} s  {number_of(piece.score.note_num(), 'note')}")


def interact(generator, asked, args) -> None:
    """Asks for settings and makes a piece, until the person has enough."""
    for name, vocabulary in generator.card.conditions.items():
        if name == "composer":
            print("composers:", ", ".join(f"{number} {value}" for number, value in enumerate(vocabulary.values, 1)))
        elif vocabulary.values:
            print(f"{name}: {', '.join(vocabulary.values)}")
    print("Enter keeps the value in brackets, none takes it back, q ends.")
    answers = dict.fromkeys(QUESTIONS) | SETTINGS | {"prompt_tokens": 128} | asked
    while True:
        for name in QUESTIONS:
            if name in asked or matters(generator, name, answers):
                try:
                    answers[name] = ask(generator, name, answers[name])
                except EOFError:
                    return
        told = [name for name in answers if name in asked or matters(generator, name, answers)]
        try:
            make(generator, generator.orders({name: answers[name] for name in told}), args)
        except UserError as error:  # answers that do not go together
            print(error)
            continue
        answers["seed"] = (answers["seed"] + 1) % 2**32


def matters(generator, name: str, answers) -> bool:
    """Whether a setting or a wish says something to a model, by the answers so far."""
    known = generator.card.conditions
    match name:
        case "prompt_tokens":
            return answers["prompt"] is not None and "prompt_beats" not in answers
        case "instruments":
            return "Program" in generator.card.spec.ranges
        case "guidance":
            return bool(known)
        case "negative":
            return "text" in known and (float(answers["guidance"]) != 1 or "guide" in answers)
        case "seconds":
            return not answers["bars"]
    return name in known or name in SETTINGS or name == "prompt"


def ask(generator, name: str, current):
    """The answer to one question, asked until it can be; EOFError when the person has enough."""
    while True:
        answer = input(f"{name} [{'none' if current is None else current}]: ").strip()
        if answer == "q":
            raise EOFError
        if not answer:
            return current
        is_number = answer.isdecimal() and name not in ("text", "negative")
        value = SETTINGS.get(name) if answer == "none" else int(answer) if is_number else answer
        try:
            generator.orders({name: value} | ({"guidance": 3} if name == "negative" else {}))  # alone it is refused
            return value
        except UserError as error:
            print(error)


def number_of(things, noun: str) -> str:
    """number_of([x], "piece") is "1 piece", number_of(2, "piece") "2 pieces"."""
    number = things if isinstance(things, int) else len(things)
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    run_command(main)
