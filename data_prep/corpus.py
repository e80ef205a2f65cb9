"""Real music to begin with: a slice of the music21 corpus as `DIR/<Composer>/<file>.mid`.

    python -m data_prep.corpus --output=DIR

The scores come with the music21 package. Some of their encodings bar commercial use or further copying: convert them on
the machine where they are used.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from amt_jax.errors import Parser, UserError, run_command

# Seconds for one score; the slowest of the slice takes about two.
TIMEOUT = 60.0
RESOLUTION = 480


@dataclasses.dataclass(frozen=True)
class Part:
    """Scores of one folder of the corpus.

    Attributes:
      composer: the folder to write; whom people would ask the model for.
      folder: where music21 keeps them.
      suffix: of the encodings to take.
      count: how many.
    """

    composer: str
    folder: str
    suffix: str
    count: int


# Short pieces of plain texture: what a small model can learn in minutes. About two minutes of one core's work.
PARTS = (
    Part("Bach", "bach", ".mxl", 150),
    Part("Fiddle_Tunes", "ryansMammoth", ".abc", 150),
    Part("Palestrina", "palestrina", ".krn", 70),
    Part("Monteverdi", "monteverdi", ".mxl", 24),
)


def main() -> int:
    args = _parser().parse_args()
    try:
        tasks = _tasks(Path(args.output))
    except ImportError:
        raise UserError("the corpus is in music21, which is not installed: pip install 'amt_jax[demo]'") from None
    from data_prep import pool

    todo = [task for task in tasks if not os.path.exists(task[1])]
    failed = Counter()
    try:
        for folder in {os.path.dirname(output) for _, output in todo}:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {args.output!r}: {error.strerror}") from None
    workers = args.workers or pool.usable_cores()
    with pool.progress("converting", "score", len(tasks), len(tasks) - len(todo)) as bar:
        for _, result in pool.run_all(convert, todo, workers, TIMEOUT, ["music21"]) if todo else ():
            reason = str(result)
            failed[reason] += bool(reason)
            bar.update()
    made = Counter(os.path.basename(os.path.dirname(path)) for _, path in tasks if os.path.exists(path))
    for reason, count in (+failed).items():
        print(f"  {count:4} scores left out: {reason}")
    print(f"{made.total()} pieces in {args.output}: " + ", ".join(f"{name} {count}" for name, count in made.items()))
    if not made:
        raise UserError("no score could be converted")
    print(f"next:\n  {shlex.join(['python', '-m', 'data_prep.midi', f'--input={args.output}', '--output=DATASET'])}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.corpus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to make; scores already in it are skipped"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: usable cores)")
    return parser


def _tasks(output: Path) -> list[tuple[str, str]]:
    """(score, MIDI file) of the slice."""
    from music21 import corpus

    by_folder: dict[str, list[Path]] = {}
    for path in map(Path, corpus.getCorePaths()):
        by_folder.setdefault(path.parent.name, []).append(path)
    tasks = []
    for part in PARTS:
        for path in _choose([path for path in by_folder[part.folder] if path.suffix == part.suffix], part.count):
            tasks.append((str(path), str(output / part.composer / f"{path.stem}.mid")))
    return tasks


def _choose(paths: list[Path], count: int) -> Iterator[Path]:
    """`count` of the shorter half, evenly spaced by name."""
    # "-sc" files hold the same music with its parts doubled in a score reduction.
    paths = [path for path in paths if not path.stem.endswith("-sc")]
    paths = sorted(paths, key=lambda path: (path.stat().st_size, path.name))
    paths = sorted(paths[: max(count, len(paths) // 2)])
    for index in range(min(count, len(paths))):
        yield paths[index * len(paths) // min(count, len(paths))]


def convert(score: str, output: str) -> str:
    """Converts one score of the corpus to a MIDI file; returns why it could not, or an empty text."""
    from music21 import converter, midi, repeat
    from symusic import Score

    from amt_jax.music.midi import save

    # No cache: music21 would fill the temporary folder with pickles.
    stream = converter.parse(score, forceSource=True)
    try:
        stream = stream.expandRepeats()
    except repeat.ExpanderException:
        return "its repeats cannot be expanded"
    except Exception as error:  # music21 fails in many ways on the odd encoding.
        return f"music21 cannot expand it ({type(error).__name__})"
    try:
        data = midi.translate.streamToMidiFile(stream).writestr()
    except Exception as error:
        return f"music21 cannot write it ({type(error).__name__})"
    music = Score.from_midi(data).resample(RESOLUTION, 1)
    music.tracks = [track for track in music.tracks if len(track.notes)]
    if not music.tracks:
        return "no notes"
    # Every part of a score repeats them.
    seen, signatures = set(), []
    for signature in sorted(music.time_signatures, key=lambda each: each.time):
        if signature.time not in seen:
            seen.add(signature.time)
            signatures.append(signature)
    music.time_signatures = signatures
    save(music, output)
    return ""


if __name__ == "__main__":
    run_command(main)
