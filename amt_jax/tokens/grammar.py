"""Grammar: which token may follow which, and a clock, so that whatever is sampled is valid music.

A finite automaton says what kind of token may come next; a few numbers a row say when: where the bar began, where we
are in it, how long a bar and a position are, how fast they pass. Both are plain tables and arithmetic over arrays of
any shape, so the same code runs in numpy (`xp=np`) and inside a jitted loop (`xp=jax.numpy`).

Kinds of states, named by what came last (bars and positions; REMI):

    START -> Bar -> BAR -> TimeSig -> METER       a bar always states its meter
    METER, REST -> Position                       at or after now
    TEMPO, NOTE -> Position                       after now: a position is opened once
    METER, TEMPO, NOTE, REST -> Bar | Rest        a Rest starts when the last sounding note ends, and may cross bars
    REST -> TimeSig                               if the rest ended on a bar line
    POSITION -> Tempo | note                      a tempo comes before the notes of its position
    TEMPO, NOTE -> note
    METER, TEMPO, NOTE, REST -> EOS               between notes, once there is one
    note: [Program] Pitch Velocity Duration, or Program_-1 PitchDrum Velocity Duration; the notes of one moment
          ascend, by program and then by pitch, drums last

and with time shifts (TSD):

    START -> TimeSig -> METER;   METER, TEMPO, NOTE, SHIFT -> TimeShift | note | EOS;   METER, SHIFT -> Tempo
    SHIFT -> TimeSig                              if the shift ended on a bar line

and where there are neither meters nor tempos (amt_events, remigen; without Velocity in the first):

    START -> SemanticToken -> METER;   START, METER, NOTE, SHIFT -> TimeShift | note | EOS

and in frames (pianoroll), where a note is its Pitch and lasts as long as its frame, a position:

    START, NOTE, FRAME -> Frame | note;   FRAME -> EOS

An example in REMI, with the clock after each token (4/4, a tick is half a position, Tempo_121.29 = 0.0309 s a tick):

    Bar         TimeSig_4/4  Position_0  Tempo_121.29  Pitch_60  Velocity_63  Duration_1.0.8  Rest_4.0.2  Position_8
    BAR         METER        POSITION    TEMPO         PITCH     VELOCITY     NOTE            REST        POSITION
    tick 0      0            0           0             0         0            0, note_end 16  80          80
    bar  0      0            0           0             0         0            0               1           1

The rest lasts four beats from the end of the note: 16 + 64 = tick 80, which is position 8 of bar 1 (64 ticks a bar), so
Position_7 would be forbidden now, Position_8 is not. After the note, Position_0 would have been.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from amt_jax.tokens.spec import TokenSpec

# The states, by number.
KINDS = (
    *("START", "BAR", "METER", "POSITION", "TEMPO", "PROGRAM", "DRUM"),
    *("PITCH", "VELOCITY", "NOTE", "REST", "SHIFT", "END", "FRAME"),
)

DRUMS = 128  # Where drums stand among programs.
RANKS = 128  # Pitches a program: a note's rank is its program times this, plus its pitch.
MAX_POLYPHONY = 16  # The clock knows so many ends of notes, so a limit is at most this.

Array = Any  # A numpy or a jax array.


class GrammarState(NamedTuple):
    """Where a row stands; all arrays of one shape, a row each, but `ends`, which has one more axis.

    Attributes:
      state: index into KINDS.
      tick: now.
      bar: index of the current bar, -1 before the first one.
      bar_tick: where the current bar began.
      bar_ticks: ticks a bar, by the time signature.
      position_ticks: ticks a position, by the time signature.
      note_end: where the last sounding note ends.
      notes: complete notes so far.
      program: of the note that is being written.
      highest: rank of the last note of this moment, -1 if there is none; the next one's must be higher.
      seconds: seconds from the start to now.
      tick_seconds: seconds a tick, by the tempo.
      ends: where the notes end that end last, the latest first; drums are left out. [..., MAX_POLYPHONY], or [..., 0]
        for a clock without that limit, which is faster.
      polyphony: how many notes other than drums may sound at once, MAX_POLYPHONY + 1 where that is not limited. It
        stays as it is, so set it after a prompt, which may have more.
      drums: whether drums may sound, which is what a position without room for other notes is good for.
    """

    state: Array
    tick: Array
    bar: Array
    bar_tick: Array
    bar_ticks: Array
    position_ticks: Array
    note_end: Array
    notes: Array
    program: Array
    highest: Array
    seconds: Array
    tick_seconds: Array
    ends: Array
    polyphony: Array
    drums: Array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grammar:
    """The tables. W is the base vocabulary, V all ids with BPE merges, S the states.

    Attributes:
      ticks_per_quarter: of the clock; the same as a decoded score's.
      next_state: [S, W] int32, -1 where the token may not follow.
      opened: [S] int32, 1 where the current position is taken, so that the next one must come later.
      position: [W] int32, the position in the bar of a Position token, else -1.
      bar: [W] bool, Bar.
      rest: [W] int32, positions from the end of the last note, 0 if not a Rest.
      shift: [W] int32, positions from now, 0 if not a TimeShift or Frame.
      length: [W] int32, positions of a Duration, or of a note that has none, else 0.
      pitch: [W] int32, of a Pitch or PitchDrum, else -1.
      program: [W] int32, of a Program, 128 for drums, else -1.
      opens: [W] bool, the first token of a note other than a drum.
      top: [W] int32, the rank of the highest note that a Program can have, else 0.
      bar_ticks: [W] int32, ticks a bar of a TimeSig, else 0.
      position_ticks: [W] int32, ticks a position of a TimeSig, else 0.
      tick_seconds: [W] float32, seconds a tick of a Tempo, else 0.
      expansion: [V, L] int32, the base ids of every id, then -1.
      eos: its id.
      initial: the state before the first token.
    """

    ticks_per_quarter: int
    next_state: np.ndarray
    opened: np.ndarray
    position: np.ndarray
    bar: np.ndarray
    rest: np.ndarray
    shift: np.ndarray
    length: np.ndarray
    pitch: np.ndarray
    program: np.ndarray
    opens: np.ndarray
    top: np.ndarray
    bar_ticks: np.ndarray
    position_ticks: np.ndarray
    tick_seconds: np.ndarray
    expansion: np.ndarray
    eos: int
    initial: GrammarState

    @classmethod
    def create(cls, spec: TokenSpec, names: Sequence[str]) -> Grammar:
        """Builds the tables from the names of the base ids, as `SymbolicTokenizer.names` has them."""
        kinds, values = zip(*(name.split("_", 1) for name in names), strict=True)
        kinds = np.array(kinds)

        def column(kind: str, value, default=0, dtype=np.int32) -> np.ndarray:
            return np.array([value(v) if k == kind else default for k, v in zip(kinds, values, strict=True)], dtype)

        def meter(value: str) -> tuple[int, int]:
            beats, unit = value.split("/")
            return int(beats), int(unit)

        def positions(value: str) -> int:  # "beats.fraction.resolution"
            beats, fraction, resolution = map(int, value.split("."))
            return (beats * resolution + fraction) * per_beat // resolution

        durations = [v for k, v in zip(kinds, values, strict=True) if k == "Duration"]
        # A frame is an eighth note of a tempo that makes it as long as its name says.
        frames = [float(v) for k, v in zip(kinds, values, strict=True) if k == "Frame"]
        per_beat = 2 if frames else max(int(value.split(".")[2]) for value in durations)
        finest = max((meter(v)[1] for k, v in zip(kinds, values, strict=True) if k == "TimeSig"), default=4)
        ticks_per_quarter = per_beat * finest // 4
        tempos = [float(v) for k, v in zip(kinds, values, strict=True) if k == "Tempo"]
        # What a decoder assumes until it is told.
        tempo = 30 / frames[0] if frames else min(tempos, key=lambda each: abs(each - 120), default=120)

        def tick_seconds(bpm: float) -> float:
            return 60 / (bpm * ticks_per_quarter)

        common = (per_beat * 4 * finest // 4, finest // 4)  # Ticks a bar and a position in 4/4.
        with_bars = "Bar" in kinds
        # Before the first Bar token, bar -1: one full bar before tick 0.
        clock = (0, -1, -common[0], *common, 0, 0, 0, -1) if with_bars else (0, 0, 0, *common, 0, 0, 0, -1)
        initial = GrammarState(
            *(np.int32(each) for each in (KINDS.index("START"), *clock)),
            seconds=np.float32(0),
            tick_seconds=np.float32(tick_seconds(tempo)),
            ends=np.zeros(MAX_POLYPHONY, np.int32),
            polyphony=np.int32(MAX_POLYPHONY + 1),
            drums=np.bool_("Program_-1" in names),
        )
        pitch = column("Pitch", int, -1) + column("PitchDrum", int, -1) + 1
        program = column("Program", lambda v: int(v) % (DRUMS + 1), -1)  # drums are Program_-1
        highest = [pitch[kinds == kind].max(initial=0) for kind in ("Pitch", "PitchDrum")]
        top = np.where(program >= 0, program * RANKS + np.array(highest)[(program == DRUMS).astype(int)], 0)
        longest = max(map(len, spec.merges), default=1)
        expansion = np.full((spec.vocab_size, longest), -1, np.int32)
        expansion[: spec.base_size, 0] = np.arange(spec.base_size)
        for row, ids in zip(expansion[spec.base_size :], spec.merges, strict=True):
            row[: len(ids)] = ids
        return cls(
            ticks_per_quarter=ticks_per_quarter,
            next_state=_transitions(kinds, np.array(values)),
            opened=np.array([kind in ("TEMPO", "NOTE") for kind in KINDS], np.int32),
            position=column("Position", int, -1),
            bar=kinds == "Bar",
            rest=column("Rest", positions),
            shift=column("TimeShift", positions) + (kinds == "Frame"),
            length=column("Pitch", lambda v: 1) if frames else column("Duration", positions),
            pitch=pitch,
            program=program,
            opens=(program >= 0) & (program < DRUMS) if "Program" in kinds else pitch >= 0,
            top=top.astype(np.int32),
            bar_ticks=column("TimeSig", lambda v: meter(v)[0] * per_beat * finest // meter(v)[1]),
            position_ticks=column("TimeSig", lambda v: finest // meter(v)[1]),
            tick_seconds=column("Tempo", lambda v: tick_seconds(float(v)), dtype=np.float32),
            expansion=expansion,
            eos=spec.eos,
            initial=initial,
        )

    def start(self, shape: tuple[int, ...] = (), xp: ModuleType = np) -> GrammarState:
        """The state before the first token (BOS counts for nothing), for rows of `shape`."""
        return GrammarState(*(xp.full((*shape, *each.shape), each, each.dtype) for each in self.initial))

    def playable(self, programs: Sequence[int]) -> np.ndarray:
        """Which ids, BPE merges included, name no instrument but these (128 for drums). [V] bool."""
        may = (self.program < 0) | np.isin(self.program, programs)
        return np.where(self.expansion >= 0, may[self.expansion], True).all(-1)

    def step(self, state: GrammarState, token: Array, xp: ModuleType = np) -> tuple[Array, GrammarState]:
        """Whether base ids may follow, and the state after each if they do. `token` broadcasts against the state."""

        def of(table: np.ndarray) -> Array:
            return xp.asarray(table)[token]

        following = xp.asarray(self.next_state)[state.state, token]
        position, rest, meter_ticks, seconds = (
            of(self.position),
            of(self.rest),
            of(self.bar_ticks),
            of(self.tick_seconds),
        )

        tick = state.tick + of(self.shift) * state.position_ticks
        tick = xp.where(position >= 0, state.bar_tick + position * state.position_ticks, tick)
        tick = xp.where(of(self.bar), state.bar_tick + state.bar_ticks, tick)
        tick = xp.where(rest > 0, xp.maximum(state.tick, state.note_end) + rest * state.position_ticks, tick)

        later = tick >= state.tick + xp.asarray(self.opened)[state.state]
        inside = position * state.position_ticks < state.bar_ticks
        allowed = (following >= 0) & ((position < 0) | (later & inside))
        allowed &= (meter_ticks == 0) | (tick == state.bar_tick)
        allowed &= (token != self.eos) | (state.notes > 0)

        highest = xp.where(tick > state.tick, -1, state.highest)
        pitch, program = of(self.pitch), of(self.program)
        rank = state.program * RANKS + pitch
        allowed &= (pitch < 0) | (rank > highest)
        allowed &= (program < 0) | (of(self.top) > highest)
        room = tick >= _free(state, xp)
        allowed &= room | ~(of(self.opens) | ((position >= 0) & ~state.drums))

        bars = (tick - state.bar_tick) // state.bar_ticks
        length = of(self.length)
        end = tick + length * state.position_ticks
        counted = (length > 0) & (state.program < DRUMS)
        return allowed, GrammarState(
            state=following,
            tick=tick,
            bar=state.bar + bars,
            bar_tick=state.bar_tick + bars * state.bar_ticks,
            bar_ticks=xp.where(meter_ticks > 0, meter_ticks, state.bar_ticks),
            position_ticks=xp.where(meter_ticks > 0, of(self.position_ticks), state.position_ticks),
            note_end=xp.where(length > 0, xp.maximum(state.note_end, end), state.note_end),
            notes=state.notes + (length > 0),
            program=xp.where(program >= 0, program, state.program),
            highest=xp.where(pitch >= 0, rank, highest),
            seconds=state.seconds + (tick - state.tick).astype(np.float32) * state.tick_seconds,
            tick_seconds=xp.where(seconds > 0, seconds, state.tick_seconds),
            ends=_insert(state.ends, xp.where(counted, end, 0), xp),
            polyphony=state.polyphony,
            drums=state.drums,
        )

    def run(self, state: GrammarState, token: Array, xp: ModuleType = np) -> tuple[Array, GrammarState]:
        """Whether ids, BPE merges included, may follow, and the state after each; what may not leaves it as it was."""
        expansion = xp.asarray(self.expansion)[token]  # [..., L]
        allowed, after = expansion[..., 0] >= 0, state
        for index in range(self.expansion.shape[1]):
            base = expansion[..., index]
            follows, following = self.step(after, xp.maximum(base, 0), xp)
            allowed = allowed & (follows | (base < 0))
            after = _where(allowed & (base >= 0), following, after, xp)
        return allowed, _where(allowed, after, state, xp)

    def look(self, state: GrammarState, xp: ModuleType = np) -> tuple[Array, GrammarState]:
        """For every id, whether it may come next and the state after it. Fields [...] -> [..., V]."""
        each = GrammarState(*(field[..., None] for field in state))._replace(ends=state.ends[..., None, :])
        return self.run(each, xp.arange(len(self.expansion)), xp)

    def allowed(self, state: GrammarState, xp: ModuleType = np) -> Array:
        """Which ids may come next. A state [...] -> bool [..., V]."""
        return self.look(state, xp)[0]

    def advance(self, state: GrammarState, token: Array, xp: ModuleType = np) -> GrammarState:
        """The state after an id a row; PAD, BOS and whatever is not allowed leave it as it was."""
        return self.run(state, token, xp)[1]


def _where(condition: Array, new: GrammarState, old: GrammarState, xp: ModuleType) -> GrammarState:
    def pick(name: str, a: Array, b: Array) -> Array:
        return xp.where(condition[..., None] if name == "ends" else condition, a, b)

    return GrammarState(*map(pick, GrammarState._fields, new, old))


def _free(state: GrammarState, xp: ModuleType) -> Array:
    """The first tick at which so few notes sound that one more may start. [...] int32."""
    counted = xp.arange(state.ends.shape[-1]) >= state.polyphony[..., None] - 1
    return xp.where(counted, state.ends, 0).max(-1, initial=0)


def _insert(ends: Array, end: Array, xp: ModuleType) -> Array:
    """Puts a note's end among `ends`, in order, and drops the earliest; 0 for no note. [..., P], [...] -> [..., P]."""
    before = xp.concatenate([xp.full_like(ends[..., :1], np.iinfo(np.int32).max), ends[..., :-1]], -1)
    return xp.maximum(ends, xp.minimum(before, end[..., None]))


def _transitions(kinds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The automaton of the module's docstring for a vocabulary. [W] str, [W] str -> [S, W] int32."""
    table = np.full((len(KINDS), len(kinds)), -1, np.int32)

    def allow(states: str, kind: str, to: str) -> None:
        for state in states.split():
            table[KINDS.index(state), kinds == kind] = KINDS.index(to)

    if "Frame" in kinds:
        allow("START NOTE FRAME", "Pitch", "NOTE")
        allow("START NOTE FRAME", "Frame", "FRAME")
        allow("FRAME", "EOS", "END")
        return table
    if "Bar" in kinds:
        between = "METER TEMPO NOTE REST"
        allow(f"START {between}", "Bar", "BAR")
        allow("BAR REST", "TimeSig", "METER")
        allow(between, "Position", "POSITION")
        allow(between, "Rest", "REST")
        allow("POSITION", "Tempo", "TEMPO")
        before_note = "POSITION TEMPO NOTE"
    else:
        between = "METER TEMPO NOTE SHIFT" if "TimeSig" in kinds else "START METER NOTE SHIFT"
        allow("START", "SemanticToken", "METER")
        allow("START SHIFT", "TimeSig", "METER")
        allow(between, "TimeShift", "SHIFT")
        allow("METER SHIFT", "Tempo", "TEMPO")
        before_note = between
    allow(between, "EOS", "END")
    if "Program" in kinds:
        allow(before_note, "Program", "PROGRAM")
        drums = (kinds == "Program") & (values == "-1")
        table[:, drums] = np.where(table[:, drums] >= 0, KINDS.index("DRUM"), -1)
        allow("PROGRAM", "Pitch", "PITCH")
        allow("DRUM", "PitchDrum", "PITCH")
    else:
        allow(before_note, "Pitch", "PITCH")
    allow("PITCH", "Velocity", "VELOCITY")
    allow("VELOCITY" if "Velocity" in kinds else "PITCH", "Duration", "NOTE")
    return table
