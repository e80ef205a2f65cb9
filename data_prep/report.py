"""What a collection of MIDI files and words is like, on one HTML page.

    python -m data_prep.report --metadata=midi_metadata.jsonl --descriptions=descriptions.jsonl \\
        --pairs=automated_paired_data.json --skipped=collect_skipped.jsonl --output=report.html

Durations, tempos, keys, instruments and polyphony; genres, if descriptions or pairs are given; how tempo, mode, density
and the like go together; some files with their words; what was skipped and why. Only --metadata is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt_jax import storage
from amt_jax.errors import Parser, run_command

if TYPE_CHECKING:
    import numpy as np

POLYPHONY = ("monophonic", "homophonic", "polyphonic")
FEATURES = ("tempo", "valence", "mode", "density", "duration", "polyphony")
_MOST = 20  # bars of a chart; what is rarer is one bar
_EXAMPLES = 8
_LISTED = 200  # skipped files on the page
Row = Mapping[str, Any]


def main() -> int:
    args = _parser().parse_args()
    from data_prep.rows import read_objects
    from data_prep.words import pairs

    files = read_objects(args.metadata, ["path", "title", "artist"])
    collection = Collection(
        files,
        {row["path"]: row for row in read_objects(args.descriptions, ["path"])} if args.descriptions else None,
        {row["midi_path"]: row for row in pairs.read(args.pairs)} if args.pairs else None,
        read_objects(args.skipped, ["path", "reason"], may_be_empty=True) if args.skipped else None,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(args.output, collection.to_html(Path(args.metadata).name))
    print(f"{len(files)} MIDI files, {collection.hours:.1f} hours: {args.output}")
    return 0


@dataclasses.dataclass(frozen=True)
class Collection:
    """The files of a collection, and what is known of their words (by path); None for what was not given."""

    files: Sequence[Row]
    descriptions: Mapping[str, Row] | None = None
    pairs: Mapping[str, Row] | None = None
    skipped: Sequence[Row] | None = None

    @property
    def hours(self) -> float:
        return sum(row.get("duration") or 0 for row in self.files) / 3600

    def genres(self) -> Counter[str]:
        """Files a genre: what their descriptions say, or their pairs; a file may have several."""
        found = Counter()
        for row in self.files:
            names = self._described(row).get("genre") or _names(self._paired(row).get("genre"))
            found.update(set(names))
        return found

    def features(self) -> np.ndarray:
        """What is correlated: mode is 1 in major and 0 in minor, polyphony 0, 1, 2. [files, FEATURES], NaN: unknown"""
        import numpy as np

        values = []
        for row in self.files:
            mode = {"major": 1, "minor": 0}.get(str(row.get("key")).split(" ")[-1])
            texture, described = row.get("polyphony"), self._described(row)
            # Where words say nothing, descriptions take the mood from the mode: that would be compared with itself.
            valence = described.get("valence") if described.get("mood_from") != "music" else None
            known = {
                **row,
                "valence": valence,
                "mode": mode,
                "polyphony": POLYPHONY.index(texture) if texture in POLYPHONY else None,
            }
            values.append([math.nan if known.get(name) is None else float(known[name]) for name in FEATURES])
        return np.array(values)

    def examples(self) -> list[tuple[Row, str, str]]:
        """Files with their words and whose those are, evenly spread over those that have any."""
        worded = []
        for row in self.files:
            if text := self._paired(row).get("text"):
                worded.append((row, text, str(self._paired(row).get("provenance", {}).get("source", ""))))
            elif captions := self._described(row).get("captions"):
                worded.append((row, captions[0]["text"], "a person" if captions[0].get("human") else "from the music"))
        step = max(1, len(worded) // _EXAMPLES)
        return worded[::step][:_EXAMPLES]

    def to_html(self, name: str) -> str:
        from amt_jax.evaluation.page import page

        title = f"The music of {name}"
        parts = [f"<h1>{html.escape(title)}</h1>", *(f'<p class="lead">{html.escape(x)}</p>' for x in self._lead())]
        parts += [self._distributions(), self._correlation(), self._examples(), self._skipped()]
        return page(title, "\n".join(parts))

    def _lead(self) -> list[str]:
        instruments = [len(row.get("instruments") or ()) for row in self.files]
        lines = [
            f"{len(self.files):,} files, {self.hours:,.1f} hours, {sum(row.get('notes') or 0 for row in self.files):,} "
            f"notes; {sum(instruments) / len(instruments):.1f} instruments a file on average."
        ]
        paths = {row["path"] for row in self.files}
        for what, found, flag in (
            ("words of their own", self.pairs, "--pairs"),
            ("a description", self.descriptions, ""),
        ):
            flag = flag or "--descriptions"
            if found is None:
                lines.append(f"{flag} was not given: nothing here about {what}.")
                continue
            lines.append(f"{len(paths & found.keys()):,} of them have {what}.")
            if lost := found.keys() - paths:
                lines.append(f"{len(lost):,} lines of {flag} are about files that are not here, {min(lost)} first.")
        return lines

    def _distributions(self) -> str:
        total = len(self.files)
        genres = self.genres()
        instruments = Counter(each for row in self.files for each in set(row.get("instruments") or ()))
        keys = Counter(row.get("key") or "unknown" for row in self.files)
        textures = Counter(row.get("polyphony") or "unknown" for row in self.files)
        charts = [
            ("Durations", histogram([row.get("duration") for row in self.files], "seconds")),
            ("Tempos", histogram([row.get("tempo") for row in self.files], "quarter notes a minute")),
            ("Density", histogram([row.get("density") for row in self.files], "notes a second")),
            ("Instruments", bars(instruments.most_common(), total)),
            ("Keys", bars(keys.most_common(), total)),
            ("Polyphony", bars([(x, textures[x]) for x in (*POLYPHONY, "unknown") if textures[x]], total)),
        ]
        if genres:
            charts.insert(3, ("Genres", bars(genres.most_common(), total)))
        cards = "".join(f'<div class="card"><h3>{name}</h3>{chart}</div>' for name, chart in charts)
        missing = "" if genres else " Genres are not known: no descriptions or pairs name any."
        return f"""<section><h2>What it holds</h2>
<p class="note">Bars are files, as numbers and shares of all; a file may have several instruments and
genres.{missing}</p>
<div class="cards">{cards}</div></section>"""

    def _correlation(self) -> str:
        import numpy as np

        values = self.features()
        known = [i for i in range(len(FEATURES)) if np.unique(values[~np.isnan(values[:, i]), i]).size > 1]
        if len(known) < 2:
            return '<section><h2>What goes together</h2><p class="note">Too little varies to be compared.</p></section>'
        left = [name for i, name in enumerate(FEATURES) if i not in known]
        note = f" Left out, as unknown or the same in all files: {', '.join(left)}." if left else ""
        table = correlations(values[:, known])
        return f"""<section><h2>What goes together</h2>
<figure>{heat_map([FEATURES[i] for i in known], table)}</figure>
<p class="note">Pearson's correlation over the files that have both. Mode is 1 in major and 0 in minor; polyphony 0
monophonic, 1 homophonic, 2 polyphonic. Valence is what words say; where they say nothing it is
unknown.{note}</p></section>"""

    def _examples(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(row['path'])}</td><td>{html.escape(_facts(row))}</td>"
            f"<td>{html.escape(text[:300] + ('…' if len(text) > 300 else ''))}</td><td>{html.escape(source)}</td></tr>"
            for row, text, source in self.examples()
        )
        if not rows:
            return '<section><h2>Examples</h2><p class="note">No file has words.</p></section>'
        head = "".join(f"<th>{name}</th>" for name in ("file", "music", "words", "by"))
        return f'<section><h2>Examples</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div></section>'

    def _skipped(self) -> str:
        if self.skipped is None:
            return '<section><h2>Skipped files</h2><p class="note">--skipped was not given.</p></section>'
        if not self.skipped:
            return '<section><h2>Skipped files</h2><p class="note">None.</p></section>'
        reasons = Counter(row["reason"] for row in self.skipped).most_common()
        rows = "".join(
            f"<tr><td>{html.escape(row['path'])}</td><td>{html.escape(row['reason'])}</td>"
            f"<td>{html.escape(str(row.get('details') or ''))}</td></tr>"
            for row in self.skipped[:_LISTED]
        )
        more = len(self.skipped) - _LISTED
        return f"""<section><h2>Skipped files</h2><div class="cards"><div class="card">
{bars(reasons, len(self.skipped))}</div></div>
<details><summary>Each of them</summary><div class="scroll"><table>{rows}</table></div>
{f'<p class="note">and {more:,} more</p>' if more > 0 else ""}</details></section>"""

    def _described(self, row: Row) -> Row:
        return (self.descriptions or {}).get(row["path"], {})

    def _paired(self, row: Row) -> Row:
        return (self.pairs or {}).get(row["path"], {})


def correlations(values: np.ndarray) -> np.ndarray:
    """Pearson's r of each two columns over the rows that know both; NaN where one of them is constant there.

    [rows, C] with NaN -> [C, C]
    """
    import numpy as np

    table = np.full((values.shape[1],) * 2, math.nan)
    for i, j in np.ndindex(table.shape):
        both = values[~np.isnan(values[:, [i, j]]).any(axis=1)][:, [i, j]]
        if len(both) > 1 and np.ptp(both, axis=0).all():
            table[i, j] = np.corrcoef(both.T)[0, 1]
    return table


def bars(counts: Sequence[tuple[str, int]], total: int) -> str:
    """A bar a name with its number and its share of `total`; the rarest together."""
    from amt_jax.evaluation import page

    shown = list(counts[:_MOST])
    if rest := counts[_MOST:]:
        shown.append((f"{len(rest)} others", sum(count for _, count in rest)))
    if not shown:
        return '<p class="note">unknown</p>'
    figure = page.figure(3.7, 0.3 + 0.23 * len(shown))
    axes = figure.add_subplot()
    numbers = [count for _, count in shown]
    axes.barh(range(len(shown)), numbers, color=_BLUE, height=0.7)
    for place, count in enumerate(numbers):
        text = f"{count:,} · {count / total:.0%}"
        axes.annotate(text, (count, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [_short(name) for name, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(numbers) * 1.45)
    axes.set_xticks([])
    return page.svg(figure)


def histogram(values: Iterable[float | None], unit: str) -> str:
    """How often values are; what lies beyond the 99th percentile is in the last bar. None is left out, and counted."""
    import numpy as np

    from amt_jax.evaluation import page

    values = list(values)
    known = np.array([value for value in values if value is not None], float)
    if not known.size:
        return '<p class="note">unknown</p>'
    low, high = known.min(), np.percentile(known, 99)
    figure = page.figure(3.7, 2.0)
    axes = figure.add_subplot()
    axes.hist(np.minimum(known, high), bins=30, range=(low, high) if high > low else None, color=_BLUE, rwidth=0.9)
    unknown = len(values) - len(known)
    axes.set_xlabel(unit + (f" ({unknown:,} unknown)" if unknown else ""), fontsize=8, color=_GREY)
    axes.set_ylabel("files", fontsize=8, color=_GREY)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(
        f"median {np.median(known):,.3g}, up to {known.max():,.4g}", fontsize=8, color="#374151", loc="right"
    )
    return page.svg(figure)


def heat_map(names: Sequence[str], table: np.ndarray) -> str:
    """Correlations from -1 (blue) to 1 (red), each with its figure. table [C, C]"""
    import numpy as np

    from amt_jax.evaluation import page

    figure = page.figure(0.9 + 0.75 * len(names), 0.5 + 0.5 * len(names))
    axes = figure.add_subplot()
    axes.pcolormesh(table, cmap="RdBu_r", vmin=-1, vmax=1, edgecolors="white", linewidth=1.5)
    for i, j in np.ndindex(table.shape):
        strong = abs(table[i, j]) > 0.6
        text = "-" if math.isnan(table[i, j]) else f"{table[i, j]:z.2f}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color="white" if strong else "black")
    places = np.arange(len(names)) + 0.5
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    return page.svg(figure)


def _names(genre: Any) -> list[str]:
    """The sources' schema has genres as one text."""
    return [name.strip() for name in str(genre or "").split(",") if name.strip()]


def _facts(row: Row) -> str:
    tempo, duration = row.get("tempo"), row.get("duration")
    known = [row.get("key"), tempo and f"{tempo:.0f} BPM", duration and f"{duration:.0f} s", row.get("polyphony")]
    return ", ".join(str(each) for each in [*known, *(row.get("instruments") or ())] if each)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    here = os.path.expanduser  # Shells expand ~ at the beginning of a word, not in --output=~/report.html.
    add("--metadata", required=True, type=here, metavar="FILE", help="midi_metadata.jsonl, by data_prep.collect")
    add("--descriptions", type=here, metavar="FILE", help="descriptions.jsonl, by data_prep.describe")
    add("--pairs", type=here, metavar="FILE", help="automated_paired_data.json, by data_prep.pair")
    add("--skipped", type=here, metavar="FILE", help="collect_skipped.jsonl, by data_prep.collect")
    add("--output", required=True, type=lambda text: Path(here(text)), metavar="FILE", help="the page, .html")
    return parser


_BLUE, _GREY = "#2563eb", "#6b7280"

if __name__ == "__main__":
    run_command(main)
