"""python -m amt_jax.demo: prepare, train, generate and evaluate once, showing each command before it runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from amt_jax.errors import Parser, UserError, run_command

PIECES = 8
SECONDS = 30
TEXT = "a calm piece in a minor key with few notes"


def main() -> None:
    """Reads the flags and runs the commands."""
    parser = Parser(prog="python -m amt_jax.demo", description=__doc__)
    parser.add_argument("--midi", type=Path, metavar="DIR", help="your own MIDI files (default: music21's corpus)")
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    args = parser.parse_args()
    args.midi = args.midi and args.midi.expanduser()  # make MIDI=~/midis: not every shell expands that
    if args.midi and not args.midi.is_dir():
        raise UserError(f"no folder {str(args.midi)!r}; --midi is a folder of .mid files")
    begin = time.perf_counter()
    midi = args.midi or args.output / "midi"
    # One's own files go into folders of their own: a run belongs to its dataset.
    place = args.output / "own" if args.midi else args.output
    about, dataset, run, music, report = (place / name for name in ("about", "dataset", "run", "music", "report"))
    if not args.midi:
        run_module("data_prep.corpus", f"--output={midi}")
    table, descriptions = about / "midi_metadata.jsonl", about / "descriptions.jsonl"
    run_module("data_prep.collect", f"--input={midi}", f"--output={about}")
    run_module("data_prep.describe", f"--metadata={table}", f"--output={descriptions}")
    run_module("data_prep.midi", f"--input={midi}", f"--output={dataset}", f"--descriptions={descriptions}")
    run_module("data_prep.encode", f"--dataset={dataset}")
    run_module("amt_jax.train", "--config=demo", f"--config.dataset={dataset}", f"--run={run}")
    run_module("amt_jax.generate", f"--run={run}", f"--output={music}", f"--seconds={SECONDS}", *wishes(dataset))
    run_module("amt_jax.generate", f"--run={run}", f"--output={place / 'wish'}", f"--text={TEXT}", "--guidance=2")
    run_module("amt_jax.evaluate", f"--run={run}", f"--samples={music}", f"--output={report}")
    minutes = (time.perf_counter() - begin) / 60
    longer = (
        f"--config=demo --config.dataset={dataset} --run=longer --config.steps=5000 --config.augmentation.transpose=5"
    )
    print(f"""
Done in {minutes:.1f} minutes. Here is
  the music       {music}/   (.mid to open in any music program, .wav to hear, .png to see)
  from words      {place / "wish"}/
  the report      {report}/report.html
  the model       {run}/
  the dataset     {dataset}/

Next:
  more music      python -m amt_jax.generate --run={run} --output=more --count=4 --seed=100
  your own files  make demo MIDI=~/my/midis
  train longer    python -m amt_jax.train {longer}
  all options     python -m amt_jax.generate --help""")


def wishes(dataset: Path) -> list[str]:
    """Flags that ask for PIECES pieces: shared among the largest composers, or unconditional without composers."""
    from amt_jax.data.card import OTHER, Card

    composers = Card.load(dataset).conditions.get("composer")
    if not composers:
        return [f"--count={PIECES}"]
    largest = sorted(zip(composers.counts, composers.values, strict=True), key=lambda row: (-row[0], row[1]))
    names = [name for count, name in largest if name != OTHER and count][: PIECES // 2]
    return [f"--composer={','.join(names)}", f"--count={PIECES // len(names)}", "--guidance=1.5"]


def run_module(module: str, *flags: str) -> None:
    """Runs a command and shows it as a person would type it; its failure is ours."""
    print(f"\n$ python -m {shlex.join([module, *flags])}", flush=True)
    done = subprocess.run([sys.executable, "-m", module, *flags])
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    run_command(main)
