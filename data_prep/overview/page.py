"""The page about a collection: one HTML file."""

from __future__ import annotations

import html
from collections import Counter

import numpy as np

from amt_jax.evaluation.page import page
from data_prep.overview.charts import bars, heat_map, histogram
from data_prep.overview.collection import FEATURES, POLYPHONY, Collection, Row, correlations

_LISTED = 200  # skipped files on the page
_LONGEST = 300  # characters of an example's words


def to_html(collection: Collection, name: str) -> str:
    """The whole page; `name` is what the collection is called."""
    title = f"The music of {name}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="lead">{html.escape(line)}</p>' for line in _lead(collection)]
    parts += [_distributions(collection), _correlation(collection), _examples(collection), _skipped(collection)]
    return page(title, "\n".join(parts))


def _lead(collection: Collection) -> list[str]:
    files = collection.files
    notes = sum(row.get("notes") or 0 for row in files)
    instruments = sum(len(row.get("instruments") or ()) for row in files) / len(files)
    lines = [
        f"{len(files):,} files, {collection.hours:,.1f} hours, {notes:,} notes; "
        f"{instruments:.1f} instruments a file on average."
    ]
    paths = {row["path"] for row in files}
    for what, found, flag in (
        ("words of their own", collection.pairs, "--pairs"),
        ("a description", collection.descriptions, "--descriptions"),
    ):
        if found is None:
            lines.append(f"{flag} was not given: nothing here about {what}.")
            continue
        lines.append(f"{len(paths & found.keys()):,} of them have {what}.")
        if lost := found.keys() - paths:
            lines.append(f"{len(lost):,} lines of {flag} are about files that are not here, {min(lost)} first.")
    return lines


def _distributions(collection: Collection) -> str:
    files, total, genres = collection.files, len(collection.files), collection.genres()
    instruments = Counter(each for row in files for each in set(row.get("instruments") or ()))
    keys = Counter(row.get("key") or "unknown" for row in files)
    textures = Counter(row.get("polyphony") or "unknown" for row in files)
    charts = {
        "Durations": histogram([row.get("duration") for row in files], "seconds"),
        "Tempos": histogram(collection.tempos(), "quarter notes a minute", "unmarked"),
        "Density": histogram([row.get("density") for row in files], "notes a second"),
        **({"Genres": bars(genres.most_common(), total)} if genres else {}),
        "Instruments": bars(instruments.most_common(), total),
        "Keys": bars(keys.most_common(), total),
        "Polyphony": bars([(each, textures[each]) for each in (*POLYPHONY, "unknown") if textures[each]], total),
    }
    cards = "".join(f'<div class="card"><h3>{name}</h3>{chart}</div>' for name, chart in charts.items())
    missing = "" if genres else " Genres are not known: no descriptions or pairs name any."
    return f"""<section><h2>What it holds</h2>
<p class="note">Bars are files, as numbers and shares of all; a file may have several instruments and
genres.{missing}</p>
<div class="cards">{cards}</div></section>"""


def _correlation(collection: Collection) -> str:
    values = collection.features()
    known = [i for i in range(len(FEATURES)) if np.unique(values[~np.isnan(values[:, i]), i]).size > 1]
    if len(known) < 2:
        return '<section><h2>What goes together</h2><p class="note">Too little varies to be compared.</p></section>'
    left = [name for i, name in enumerate(FEATURES) if i not in known]
    note = f" Left out, as unknown or the same in all files: {', '.join(left)}." if left else ""
    return f"""<section><h2>What goes together</h2>
<figure>{heat_map([FEATURES[i] for i in known], correlations(values[:, known]))}</figure>
<p class="note">Pearson's correlation over the files that have both. Mode is 1 in major and 0 in minor; polyphony 0
monophonic, 1 homophonic, 2 polyphonic. Valence is what words say; where they say nothing it is
unknown.{note}</p></section>"""


def _examples(collection: Collection) -> str:
    rows = "".join(
        _row(row["path"], _facts(row), text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…", source)
        for row, text, source in collection.examples()
    )
    if not rows:
        return '<section><h2>Examples</h2><p class="note">No file has words.</p></section>'
    head = "".join(f"<th>{name}</th>" for name in ("file", "music", "words", "by"))
    return f'<section><h2>Examples</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div></section>'


def _skipped(collection: Collection) -> str:
    skipped = collection.skipped
    if not skipped:
        note = "--skipped was not given." if skipped is None else "None."
        return f'<section><h2>Skipped files</h2><p class="note">{note}</p></section>'
    reasons = Counter(row["reason"] for row in skipped).most_common()
    rows = "".join(_row(row["path"], row["reason"], str(row.get("details") or "")) for row in skipped[:_LISTED])
    more = len(skipped) - _LISTED
    return f"""<section><h2>Skipped files</h2><div class="cards"><div class="card">
{bars(reasons, len(skipped))}</div></div>
<details><summary>Each of them</summary><div class="scroll"><table>{rows}</table></div>
{f'<p class="note">and {more:,} more</p>' if more > 0 else ""}</details></section>"""


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _facts(row: Row) -> str:
    tempo, duration = row.get("tempo"), row.get("duration")
    known = [row.get("key"), tempo and f"{tempo:.0f} BPM", duration and f"{duration:.0f} s", row.get("polyphony")]
    return ", ".join(str(each) for each in [*known, *(row.get("instruments") or ())] if each)
