"""Preparation speed, in files a second, against plain MidiTok: `tokenizer(path)` in a loop in one process.

Our side is the whole of it: finding, hashing, loading with checks, tokenizing, families, writing shards, with its
workers and their start. Both take turns over the same files; what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from pathlib import Path

from amt_jax.errors import Parser, UserError, run_command
from bench.peer import compare, take_turns, write_results


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = Parser(prog="python -m bench.prepare_speed", description=__doc__)
    parser.add_argument("--input", default="demo/midi", metavar="DIR", help="MIDI files (default: the demo's)")
    parser.add_argument("--files", type=int, default=400, help="how many of them, evenly spaced (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="default: usable cores")
    parser.add_argument("--output", type=Path, default=Path("bench/results/prepare_speed.json"))
    args = parser.parse_args()
    from importlib.metadata import version

    from data_prep import files, pool

    if not Path(args.input).is_dir():
        raise UserError(f"no folder {args.input!r}; name one with --input, or run `make demo` first")
    workers = args.workers or pool.usable_cores()
    found = files.find(args.input).paths
    count = min(args.files, len(found))
    if count < 3 or args.rounds < 1:
        raise UserError("at least 3 files and 1 round are needed")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index in range(count):
            source = Path(found[index * len(found) // count])
            target = Path(folder, "music", source.relative_to(args.input))
            target.parent.mkdir(parents=True, exist_ok=True)
            paths.append(shutil.copy(source, target))
        sides = {"ours": lambda: _prepare(Path(folder), workers), "peer": lambda: _plain(paths)}
        seconds = take_turns(sides, args.rounds)
    found = compare(seconds["ours"], seconds["peer"])
    row = {"files": count, "workers": workers} | found | {"ours_files_s": count / found["ours_seconds"]}
    write_results(args.output, [row], {"peer": f"miditok {version('miditok')}", "rounds": args.rounds})


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
    from data_prep.dataset.local import Local
    from data_prep.dataset.preparation import prepare
    from data_prep.dataset.settings import Settings

    dataset = folder / "dataset"
    start = time.perf_counter()
    prepare(str(folder / "music"), dataset, Settings(), make_runner=functools.partial(Local, workers=workers))
    seconds = time.perf_counter() - start
    shutil.rmtree(dataset)
    return seconds


if __name__ == "__main__":
    run_command(main)
