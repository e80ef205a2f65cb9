"""Collection: what MIDI files and their words are like, in figures.

F features
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.dataset import descriptions as described
from data_prep.rows import are, is_number, is_text, is_worded, read_metadata, read_objects
from data_prep.words import pairs
from data_prep.words.description import unmarked_tempos

POLYPHONY = ("monophonic", "homophonic", "polyphonic")
FEATURES = ("tempo", "valence", "mode", "density", "duration", "polyphony")
_EXAMPLES = 8
_DESCRIBED = described.KINDS | {"captions": are(is_worded), "valence": is_number}
_SKIPPED = {"path": is_text, "reason": is_text}
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Collection:
    """The files of a collection, and what is known of their words (by path); None for what was not given.

    Of a file's pairs the best is the first.
    """

    files: Sequence[Row]
    descriptions: Mapping[str, Row] | None = None
    pairs: Mapping[str, Sequence[Row]] | None = None
    skipped: Sequence[Row] | None = None

    @classmethod
    def read(
        cls, metadata: str, descriptions: str | None = None, paired: str | None = None, skipped: str | None = None
    ) -> Collection:
        """From what data_prep.collect, .describe and .pair wrote; UserError at what cannot be read."""
        made_by = "data_prep.{} makes such files".format
        by_path = defaultdict(list)
        for entry in pairs.read(paired) if paired else ():
            by_path[entry["midi_path"]].append(entry)
        return cls(
            read_metadata(metadata, ["path"]),
            {row["path"]: row for row in read_objects(descriptions, ["path"], _DESCRIBED, made_by("describe"))}
            if descriptions
            else None,
            by_path if paired else None,
            read_objects(skipped, _SKIPPED, _SKIPPED, made_by("collect"), may_be_empty=True) if skipped else None,
        )

    @property
    def hours(self) -> float:
        return sum(row.get("duration") or 0 for row in self.files) / 3600

    def genres(self) -> Counter[str]:
        """Files a genre: what their descriptions say, or their pairs; a file may have several."""
        found = Counter()
        for row in self.files:
            named = {name for each in self._paired(row) for name in pairs.genres(each)}
            found.update(set(self._described(row).get("genre") or named))
        return found

    def tempos(self) -> list[float | None]:
        """Of each file what its description says, else its own; None where it marks none."""
        unmarked = unmarked_tempos(row["tempo"] for row in self.files if row.get("tempo"))
        tempos = [
            tempo if tempo and round(tempo, 2) not in unmarked else None
            for tempo in (row.get("tempo") for row in self.files)
        ]
        return [self._described(row).get("tempo", tempo) for row, tempo in zip(self.files, tempos, strict=True)]

    def features(self) -> np.ndarray:
        """What is correlated: mode is 1 in major and 0 in minor, polyphony 0, 1, 2. [files, F], NaN: unknown"""
        values = []
        for row, tempo in zip(self.files, self.tempos(), strict=True):
            texture, described = row.get("polyphony"), self._described(row)
            known = {
                **row,
                "tempo": tempo,
                # Where words say nothing, descriptions take the mood from the mode: it would be compared with itself.
                "valence": described.get("valence") if described.get("mood_from") != "music" else None,
                "mode": {"major": 1, "minor": 0}.get(str(row.get("key")).split(" ")[-1]),
                "polyphony": POLYPHONY.index(texture) if texture in POLYPHONY else None,
            }
            values.append([math.nan if known.get(name) is None else float(known[name]) for name in FEATURES])
        return np.array(values)

    def examples(self) -> list[tuple[Row, str, str]]:
        """Files with their words and whose those are, evenly spread over those that have any; no unmarked tempos."""
        worded = []
        for row, tempo in zip(self.files, self.tempos(), strict=True):
            row = {**row, "tempo": tempo}
            if paired := self._paired(row):
                worded.append((row, paired[0]["text"], str((paired[0].get("provenance") or {}).get("source", ""))))
            elif captions := self._described(row).get("captions"):
                worded.append((row, captions[0]["text"], "a person" if captions[0].get("human") else "from the music"))
        step = max(1, len(worded) // _EXAMPLES)
        return worded[::step][:_EXAMPLES]

    def _described(self, row: Row) -> Row:
        return (self.descriptions or {}).get(row["path"], {})

    def _paired(self, row: Row) -> Sequence[Row]:
        return (self.pairs or {}).get(row["path"], ())


def correlations(values: np.ndarray) -> np.ndarray:
    """Pearson's r of each two columns over the rows that know both; NaN where one of them is constant there.

    [rows, F] with NaN -> [F, F]
    """
    table = np.full((values.shape[1],) * 2, math.nan)
    for i, j in np.ndindex(table.shape):
        both = values[~np.isnan(values[:, [i, j]]).any(axis=1)][:, [i, j]]
        if len(both) > 1 and np.ptp(both, axis=0).all():
            table[i, j] = np.corrcoef(both.T)[0, 1]
    return table
