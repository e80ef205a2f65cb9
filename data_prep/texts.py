"""Words about music: from Wikipedia, from the Free Music Archive, from tables of captions.

    python -m data_prep.texts --metadata=midi_metadata.jsonl --output=texts.jsonl --contact=you@example.org

Each title in the metadata (data_prep.collect writes it) is searched for in the English Wikipedia, one request at a
time, and the introduction of the page that is surely about it is kept with its address, revision and licence. Answers
are cached: run again, the command goes on where it was interrupted and asks nothing twice. Lines that are not English
are left out. Titles without words are listed, each with the reason, in texts_missing.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from amt_jax import storage
from amt_jax.errors import Parser, UserError, run_command
from data_prep.flags import check_file

if TYPE_CHECKING:
    from data_prep.words.text import Missing, Text

SILENT = 3  # Titles in a row without an answer, one if there was none at all: then no more are asked for.


def main() -> int:
    args = _parser().parse_args()
    _check(args)
    from tqdm import tqdm

    from data_prep.words import fma, own_texts
    from data_prep.words.text import Text

    args.output.parent.mkdir(parents=True, exist_ok=True)
    found = [each for file in args.captions for each in own_texts.read(file)]
    if args.fma:
        found += fma.read(args.fma)
    try:
        if not args.skip_wikipedia:
            found += _wikipedia(args)
        found = list(_cleaned(tqdm(found, desc="cleaning", unit="text", delay=2), args.max_words))
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on from here", file=sys.stderr)
        return 130
    texts = sorted((each for each in found if isinstance(each, Text)), key=lambda each: each.sort_key)
    missing = [each for each in found if not isinstance(each, Text)]
    _write(args.output, texts)
    listed = args.output.with_name(f"{args.output.stem}_missing.jsonl")
    _write(listed, missing)
    sources = ", ".join(f"{count} from {name}" for name, count in Counter(each.source for each in texts).items())
    print(f"{len(texts)} texts in {args.output}" + (f": {sources}" if sources else ""))
    for (source, reason), count in Counter((each.source, each.reason) for each in missing).most_common():
        print(f"  {count:7} without: {reason} ({source})")
    if missing:
        print(f"          each in {listed}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.texts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    here = os.path.expanduser  # Shells expand ~ at the beginning of a word, not in --output=~/texts.jsonl.
    add("--output", required=True, type=lambda text: Path(here(text)), metavar="FILE", help=".jsonl to write")
    add("--metadata", type=here, metavar="FILE", help="midi_metadata.jsonl, or a .csv or .jsonl with title and artist")
    add("--skip-wikipedia", action="store_true", help="only the other sources")
    add("--offline", action="store_true", help="of Wikipedia only what the cache has")
    add(
        "--contact",
        default="",
        metavar="ADDRESS",
        help="your e-mail address or web page: Wikipedia wants to know whom to ask about these requests",
    )
    add("--delay", type=float, default=1.0, metavar="SECONDS", help="least between two requests (default %(default)g)")
    add("--timeout", type=float, default=30.0, metavar="SECONDS", help="for an answer to come (default %(default)g)")
    add("--cache", type=here, metavar="FILE", help="answers so far (default: wikipedia.sqlite beside --output)")
    add("--api", default="https://en.wikipedia.org/w/api.php", metavar="URL", help="of the wiki (default %(default)s)")
    add("--fma", type=here, metavar="DIR", help="where fma_metadata.zip was unpacked: tracks.csv or raw_tracks.csv")
    add(
        "--captions",
        type=here,
        action="append",
        default=[],
        metavar="FILE",
        help="a .csv or .jsonl with text, and path or title and artist; may be given several times",
    )
    add("--max-words", type=int, default=150, metavar="N", help="of a text, in whole sentences (default %(default)s)")
    return parser


def _check(args: argparse.Namespace) -> None:
    if absent := [name for name in ("py3langid", "rapidfuzz", "requests") if importlib.util.find_spec(name) is None]:
        raise UserError(f"words need {', '.join(absent)}: pip install 'amt_jax[words]'")
    for name in ("delay", "timeout", "max_words"):
        if not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be more than 0")
    check_file(args.output, "texts.jsonl", [args.metadata, args.cache, *args.captions])
    if args.skip_wikipedia:
        if not args.fma and not args.captions:
            raise UserError("nothing to read: give --fma or --captions, or leave --skip-wikipedia out")
        return
    if not args.metadata:
        raise UserError("--metadata says which titles to look for; to use --fma or --captions alone, --skip-wikipedia")
    if not args.api.startswith(("http://", "https://")):
        raise UserError(f"--api={args.api} is no address of a wiki's api.php (https://…/w/api.php)")
    if args.offline:
        return
    if not args.contact.isascii() or not args.contact.isprintable() or not ("@" in args.contact or "." in args.contact):
        raise UserError(
            "give --contact, your e-mail address or web page: Wikipedia blocks programs that do not name one (or use "
            "--offline or --skip-wikipedia)"
        )


def _wikipedia(args: argparse.Namespace) -> list[Text | Missing]:
    from tqdm import tqdm

    from data_prep.rows import read_rows, require_columns
    from data_prep.words import wikipedia
    from data_prep.words.mediawiki import NoAnswer, Wiki
    from data_prep.words.text import Missing

    rows = list(read_rows(args.metadata))
    require_columns(args.metadata, dict.fromkeys(column for row in rows for column in row), ["title", "artist"])
    titles = dict.fromkeys((str(row.get("artist") or ""), str(row.get("title") or "")) for row in rows)
    cache = Path(args.cache) if args.cache else args.output.with_name("wikipedia.sqlite")
    if args.offline and not cache.is_file():
        raise UserError(f"no cache {str(cache)!r} to read --offline; name it with --cache")
    cache.parent.mkdir(parents=True, exist_ok=True)
    found, silent, patience = [], 0, 1
    with (
        Wiki(
            args.api,
            cache,
            contact=args.contact,
            delay=args.delay,
            timeout=args.timeout,
            offline=args.offline,
        ) as wiki,
        tqdm(titles, desc="asking", unit="title", smoothing=0.1) as bar,
    ):
        for artist, title in bar:
            if not title.strip():
                found.append(Missing("wikipedia", title, artist, "no title"))
                continue
            try:
                found.append(wikipedia.find(wiki, artist, title))
                silent, patience = 0, SILENT
            except NoAnswer as error:
                reason = "not in the cache" if args.offline else "no answer"
                found.append(Missing("wikipedia", title, artist, reason, str(error)))
                silent += not args.offline
                if silent == patience:
                    raise UserError(
                        f"{args.api} does not answer ({error}); the answers so far are in {str(cache)!r}: run the same "
                        "command again later"
                    ) from None
    print(f"{wiki.requests} requests to {args.api}")
    return found


def _cleaned(found: Iterable[Text | Missing], max_words: int) -> Iterator[Text | Missing]:
    from data_prep.words.prose import english
    from data_prep.words.text import Missing, Text

    for each in found:
        if isinstance(each, Text):
            text, reason = english(each.text, max_words)
            if not reason and not (each.path or each.title.strip()):
                reason = "no title"
            yield (
                dataclasses.replace(each, text=text)
                if not reason
                else Missing(each.source, each.title, each.artist, reason, path=each.path)
            )
        else:
            yield each


def _write(file: Path, lines: Iterable[Text | Missing]) -> None:
    storage.write_text(file, "".join(f"{each.to_json()}\n" for each in lines))


if __name__ == "__main__":
    run_command(main)
