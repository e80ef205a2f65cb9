r"""A folder of MIDI files into a table that says what each of them is.

    python -m data_prep.collect --input=DIR --output=OUT

OUT/midi_metadata.jsonl gets a line a file: path, sha256, title, artist, duration, tempo, key, time signature, the
instruments that sound, notes, notes a second, polyphony, licence and source. OUT/collect_skipped.jsonl lists what is no
music, with the reason. Titles and artists come from the collection's own table if it lies directly in DIR (MAESTRO's or
ASAP's .csv, MidiCaps' .json with its captions, Lakh's md5_to_paths.json), else from DIR/Artist/Title.mid, else from
file names. A run that was stopped goes on when the same command is run again, and a later one does what is new.

Music can be made easier to learn from; it is then written to OUT/midi, and OUT/midi is what paths are relative to.
In this order:

    --standardise-key         every piece is transposed as a whole from the key it is most likely in to C major or A
                              minor, 6 semitones at most. Drums stay. "transposed" says how far up.
    --standardise-tempo=120   tempos and their changes are replaced by one. Notes stay on their beats and last as many
                              beats, so a piece takes more or fewer seconds. "original_tempo" is what the mean was. For
                              a performance that was recorded without a beat this does nothing but change its speed.
    --window-seconds=30       every piece is cut at 0, 30, 60 ... seconds. A note that crosses a cut ends there. Tempo,
                              time signature, key, controllers and pitch bends go on. Bars are not waited for; at 120
                              quarter notes a minute 30 seconds are 15 bars of 4/4. "start" is where a window begins
                              (seconds), "family" the file it is from.

Windows of one piece have to stay in one split:

    python -m data_prep.midi --input=OUT/midi --output=DATASET --metadata=OUT/midi_metadata.jsonl \
        --composer-column=artist --family-column=family
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from data_prep.flags import check_folders, positive

if TYPE_CHECKING:
    from data_prep.collecting.collector import Collected
    from data_prep.collecting.portrait import Making


def main() -> int:
    args = _parser().parse_args()
    for folder in (args.input, args.output):
        if storage.is_remote(folder):
            raise UserError(f"{folder} lies in a bucket: collect from and to folders of this machine")
    if args.window_seconds and args.window_seconds < 1:
        raise UserError(f"--window-seconds={args.window_seconds:g}: a window lasts a second or more")
    check_folders(args.input, args.output)
    # Not before: these bring numpy and symusic, and --help should not wait for them.
    from data_prep import pool
    from data_prep.collecting.collector import collect
    from data_prep.collecting.portrait import Making

    low, high = 4, 1000
    if args.standardise_tempo and not low <= args.standardise_tempo <= high:
        raise UserError(f"--standardise-tempo={args.standardise_tempo:g}: tempos are {low} to {high}")
    making = Making(
        standardise_key=args.standardise_key,
        standardise_tempo=args.standardise_tempo or 0.0,
        window_seconds=args.window_seconds or 0.0,
        min_notes=args.min_notes,
    )
    workers = args.workers or pool.usable_cores()
    try:
        collected = collect(
            args.input, Path(args.output), making, workers=workers, timeout=args.timeout, licence=args.licence
        )
    except pool.Interrupted as error:
        print(
            f"interrupted: {error.done} of {error.total} files are done; run the same command again to go on from here",
            file=sys.stderr,
        )
        return 130
    _show(collected, making, args.input, args.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    here = os.path.expanduser
    add("--input", required=True, type=here, metavar="DIR", help="folder of .mid and .midi files, at any depth")
    add("--output", required=True, type=here, metavar="OUT", help="folder to make, or to go on in")
    add("--workers", type=positive(int), metavar="N", help="processes; as many as usable cores if not given")
    add("--timeout", type=positive(float), default=60.0, metavar="SECONDS", help="for one file (default %(default)g)")
    add(
        "--licence",
        default="",
        metavar="TEXT",
        help="licence of the music (default: the one of the collection whose table was found)",
    )
    add("--standardise-key", action="store_true", help="transpose to C major or A minor")
    add("--standardise-tempo", type=positive(float), metavar="BPM", help="quarter notes a minute, for all music")
    add("--window-seconds", type=positive(float), metavar="S", help="cut into windows of S seconds")
    add(
        "--min-notes",
        type=positive(int),
        default=8,
        metavar="N",
        help="windows in which fewer notes begin are dropped (default %(default)s)",
    )
    return parser


def _show(collected: Collected, making: Making, source: str, output: str) -> None:
    """Prints what became of the files, and what to do next."""
    for folder in collected.unreadable:
        print(f"warning: no permission to look into {folder!r}", file=sys.stderr)
    metadata = os.path.join(output, "midi_metadata.jsonl")
    print(f"titles and artists: {collected.layout}")
    windows = f" as {collected.lines} windows" if making.window_seconds else ""
    print(f"{collected.files} files: {collected.files - collected.skipped.total()} in {metadata}{windows}")
    if collected.dropped:
        print(f"  {collected.dropped:7} windows dropped: fewer than {making.min_notes} notes begin in them")
    if collected.identical:
        print(f"  {collected.identical:7} have the bytes of another file; data_prep.midi keeps one of them")
    if collected.gone:
        print(f"  {collected.gone:7} files of earlier runs are gone; what was made of them is removed")
    for reason, count in collected.skipped.most_common():
        print(f"  {count:7} left out: {reason}")
    if collected.skipped:
        print(f"          each with its reason in {os.path.join(output, 'collect_skipped.jsonl')}")
    if not collected.lines:
        raise UserError(f"no music is left of {source!r}")
    music = os.path.join(output, "midi") if making.changes else source
    command = ["python", "-m", "data_prep.midi", f"--input={music}", "--output=DATASET", f"--metadata={metadata}"]
    command += ["--composer-column=artist", *(["--family-column=family"] if making.changes else [])]
    print(f"next:\n  {shlex.join(command)}")
    described = os.path.join(output, "descriptions.jsonl")
    command = ["python", "-m", "data_prep.describe", f"--metadata={metadata}", f"--input={music}"]
    command += [f"--output={described}"]
    print(f"or, if words are wanted:\n  {shlex.join(command)}")


if __name__ == "__main__":
    run_command(main)
