"""A preprocessed score to exactly MidiTok's ids, in numpy: all events at once, not one object each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from symusic import Score


class Encoder:
    """Lookup tables from musical values to ids, and the one pass that uses them.

    What MidiTok (3.1, REMI and TSD) decides event by event in `_add_time_events` follows from few facts an onset:
    the events of one tick form a group; before a group come rests, if it starts at least a position after the last
    note's end, or shifts; then a Bar with its TimeSig for each bar begun since; then a Position.
    """

    def __init__(self, names: Sequence[str]):
        ids: dict[str, dict[str, int]] = {}
        for index, name in enumerate(names):
            kind, value = name.split("_", 1)
            ids.setdefault(kind, {})[value] = index
        self._bar = ids.get("Bar", {}).get("None")
        self._position = min(ids["Position"].values()) if self._bar else 0
        self._meters = {tuple(map(int, value.split("/"))): index for value, index in ids.get("TimeSig", {}).items()}
        self._tempos = np.array([float(value) for value in ids.get("Tempo", {})])
        self._first_tempo = min(ids.get("Tempo", {}).values(), default=0)
        self._pitch, self._drum = (_table(ids.get(kind, {}), 128) for kind in ("Pitch", "PitchDrum"))
        self._velocity = _table(ids["Velocity"], 128) if "Velocity" in ids else None
        programs = ids.get("Program")
        self._program = (
            _table({int(value) % 129: index for value, index in programs.items()}, 129) if programs else None
        )
        self._per_beat = max(int(value.split(".")[2]) for value in ids["Duration"])
        lengths = self._lengths(ids["Duration"])
        self._duration = _table(lengths, max(lengths) + 1)
        self._gaps = sorted(self._lengths(ids["Rest"] if self._bar else ids["TimeShift"]).items(), reverse=True)

    def _lengths(self, ids: dict[str, int]) -> dict[int, int]:
        """Ids by length in positions, from names like beats.fraction.resolution."""
        lengths = {}
        for value, index in ids.items():
            beats, fraction, resolution = map(int, value.split("."))
            lengths[(beats * resolution + fraction) * self._per_beat // resolution] = index
        return lengths

    def encode(self, score: Score) -> np.ndarray:
        """Ids of a score that MidiTok has preprocessed, with a time signature and a tempo at tick 0. [T] uint16."""
        meters = [(each.time, each.numerator, each.denominator) for each in score.time_signatures]
        meter_tick, beats, unit = np.array(meters).T
        # Where the vocabulary cannot say them, meters and tempos are no events.
        stated = meter_tick if self._meters else meter_tick[:0]
        meter_id = np.array([self._meters[each[1:]] for each in meters[: len(stated)]], int)
        beat_ticks = score.ticks_per_quarter * 4 // unit
        bar_ticks, position_ticks = beats * beat_ticks, beat_ticks // self._per_beat
        meter_bar = np.concatenate(([0], np.cumsum(np.diff(meter_tick) // bar_ticks[:-1])))
        tempos = {name: values[: None if len(self._tempos) else 0] for name, values in score.tempos.numpy().items()}
        tempo_id = np.zeros(0, int)
        if len(tempos["time"]):
            tempo_id = self._first_tempo + np.abs(self._tempos - 6e7 / tempos["mspq"][:, None]).argmin(1)

        # Events in MidiTok's order: by time, and at one time meters, tempos, then notes by track.
        tracks = [track.notes.numpy() for track in score.tracks]
        note_time = np.concatenate([notes["time"] for notes in tracks])
        note_ticks = np.concatenate([notes["duration"] for notes in tracks])
        note_meter = np.searchsorted(meter_tick, note_time, side="right") - 1
        pitch_ids = [self._drum if track.is_drum else self._pitch for track in score.tracks]
        columns = [
            np.concatenate([table[notes["pitch"]] for table, notes in zip(pitch_ids, tracks, strict=True)]),
            self._duration[note_ticks // position_ticks[note_meter]],
        ]
        if self._velocity is not None:
            columns.insert(1, np.concatenate([self._velocity[notes["velocity"]] for notes in tracks]))
        if self._program is not None:
            programs = [self._program[128 if track.is_drum else track.program] for track in score.tracks]
            columns.insert(0, np.repeat(programs, [len(notes["time"]) for notes in tracks]))
        width, globals_ = len(columns), len(meter_id) + len(tempo_id)
        own = np.zeros((globals_ + len(note_time), width), np.int64)
        own[:globals_, 0] = np.concatenate((meter_id, tempo_id))
        own[globals_:] = np.stack(columns, 1)
        time = np.concatenate((stated, tempos["time"], note_time))
        end = np.concatenate((stated, tempos["time"], note_time + note_ticks))
        order = np.argsort(time, kind="stable")
        own, time, end = own[order], time[order], end[order]
        is_meter, own_size = order < len(meter_id), np.where(order < globals_, 1, width)

        # A group is the events of one tick. Its time tokens are those of its first event, under the meter before it.
        first = np.diff(time, prepend=-1) > 0
        last_time = np.concatenate(([0], time[:-1]))
        last_end = np.concatenate(([0], np.maximum.accumulate(end)[:-1]))
        meter = np.maximum(np.searchsorted(meter_tick, time, side="left") - 1, 0)
        unit_ticks = position_ticks[meter]
        gap = np.maximum(time - (last_end if self._bar else last_time), 0) // unit_ticks * first
        spelt, gaps = self._spell(gap)
        if self._bar:
            # Rests enter bars silently: the bars to announce are those begun after the rests.
            rested = np.where(gap > 0, last_end + gap * unit_ticks, last_time)
            bar = meter_bar[meter] + (time - meter_tick[meter]) // bar_ticks[meter]
            known = meter_bar[meter] + (rested - meter_tick[meter]) // bar_ticks[meter]
            known[0] = -1
            bars = (2 * (bar - known) - (is_meter & (bar > known))) * first
            # A position in its own meter; a group that starts with a meter states it after that.
            place = np.searchsorted(meter_tick, time, side="right") - 1
            position = (time - meter_tick[place]) % bar_ticks[place] // position_ticks[place]
            placed = (first & ~is_meter) | (~first & np.concatenate(([False], is_meter[:-1])))
        else:
            bars, placed, position = np.zeros_like(gap), np.zeros_like(first), gap

        starts = np.concatenate(([0], np.cumsum(gaps + bars + placed + own_size)))
        ids = np.empty(starts[-1], np.uint16)
        ids[_spread(starts[:-1], gaps)] = spelt
        at = starts[:-1] + gaps
        odd = _spread(np.zeros_like(bars), bars) % 2
        ids[_spread(at, bars)] = np.where(odd, meter_id[np.repeat(meter, bars)], self._bar or 0)
        at += bars
        ids[at[placed]] = self._position + position[placed]
        ids[_spread(at + placed, own_size)] = own[np.arange(width) < own_size[:, None]]
        return ids

    def _spell(self, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spells gaps in positions, longest token first: all tokens in a row, and how many each gap has."""
        values, which = np.unique(gap, return_inverse=True)
        spellings = []
        for value in values.tolist():
            spelling = []
            for length, index in self._gaps:
                spelling += [index] * (value // length)
                value %= length
            spellings.append(spelling)
        sizes = np.array([len(spelling) for spelling in spellings])
        return np.array([index for each in which.tolist() for index in spellings[each]], np.int64), sizes[which]


def _table(ids: dict, size: int) -> np.ndarray:
    table = np.zeros(size, np.int64)
    for value, index in ids.items():
        table[int(value)] = index
    return table


def _spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, … for each start, as many as its count."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
