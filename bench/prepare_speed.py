"""Speed of `data_prep.midi` against plain MidiTok in a loop, in files a second.

    python bench/prepare_speed.py --input=DIR [--files=400] [--rounds=3] [--workers=N] [--output=FILE.json]

Each round takes both sides over the same files, one after the other: `tokenizer(path)` in one process, and the whole
preparation (finding, hashing, loading with checks, tokenizing, families, writing shards) with its workers and their
start. Machines vary within minutes, so the figure to look at is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from amt_jax.errors import UserError, run_command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="DIR", help="folder of MIDI files")
    parser.add_argument("--files", type=int, default=400, help="how many of them, evenly spaced (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--workers", type=int, help="default: usable cores")
    parser.add_argument("--output", metavar="FILE", help="where to write the figures as JSON")
    args = parser.parse_args()
    from data_prep import files, pool

    workers = args.workers or pool.usable_cores()
    found = files.find(args.input).paths
    count = min(args.files, len(found))
    if count < 3 or args.rounds < 1:
        raise UserError("at least 3 files and 1 round are needed")
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index in range(count):
            source = Path(found[index * len(found) // count])
            target = Path(folder, "music", source.relative_to(args.input))
            target.parent.mkdir(parents=True, exist_ok=True)
            paths.append(shutil.copy(source, target))
        for number in range(args.rounds):
            sides = {"miditok": lambda: _plain(paths), "data_prep": lambda: _prepare(Path(folder), workers)}
            # Turns about who goes first: what the machine does meanwhile hits both.
            order = list(sides) if number % 2 == 0 else list(reversed(sides))
            seconds = {side: sides[side]() for side in order}
            rounds.append({side: count / seconds[side] for side in sides})
            rounds[-1]["ratio"] = rounds[-1]["data_prep"] / rounds[-1]["miditok"]
    median = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    print(f"{'round':>8} {'MidiTok files/s':>16} {'data_prep files/s':>18} {'ratio':>7}")
    for name, figures in [*enumerate(rounds, 1), ("median", median)]:
        print(f"{name:>8} {figures['miditok']:16.1f} {figures['data_prep']:18.1f} {figures['ratio']:7.2f}")
    print(f"{count} files, {workers} workers against one process")
    if args.output:
        result = {"files": count, "workers": workers, "rounds": rounds, "median": median}
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _plain(paths: list[str]) -> float:
    """Seconds of a loop over `tokenizer(path)` with the vocabulary of the preset remi."""
    import miditok

    config = miditok.TokenizerConfig(
        pitch_range=(21, 108),
        num_velocities=32,
        special_tokens=["PAD", "BOS", "EOS"],
        use_rests=True,
        use_tempos=True,
        use_time_signatures=True,
        use_pitchdrum_tokens=True,
    )
    tokenizer = miditok.REMI(config)
    start = time.perf_counter()
    for path in paths:
        tokenizer(path)
    return time.perf_counter() - start


def _prepare(folder: Path, workers: int) -> float:
    """Seconds of the whole preparation of `folder`/music."""
    from data_prep.preparation import Settings, prepare

    dataset = folder / "dataset"
    start = time.perf_counter()
    prepare(str(folder / "music"), dataset, Settings(), workers=workers)
    seconds = time.perf_counter() - start
    shutil.rmtree(dataset)
    return seconds


if __name__ == "__main__":
    run_command(main)
