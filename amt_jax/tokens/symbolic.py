"""MIDI to ids and back, by MidiTok: presets, BPE, saving and loading."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from symusic import Note, Score, Tempo, Track

from amt_jax.errors import MidiError, UserError, near
from amt_jax.tokens.encoder import Encoder
from amt_jax.tokens.grammar import DRUMS
from amt_jax.tokens.spec import TokenSpec
from amt_jax.tokens.tokenizer import FILE, read

if TYPE_CHECKING:
    import miditok

FIRST_CHARACTER = 33  # MidiTok writes id i as the character i + 33.


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a preset stands for.

    Attributes:
      tokenization: name of the MidiTok class.
      programs: keep instruments and drums; otherwise all pitched tracks become one piano and drums are left out.
      rests: Rest tokens; in TSD they would only be a second spelling of TimeShift.
      velocities: keep how loud a note is; otherwise all are equally loud.
      meters: Tempo and TimeSig tokens; otherwise music is written in seconds, as if it were all at REAL_TIME.
      specials: what is no music, PAD first.
      pitches: the lowest and the highest that are kept.
      steps: (first beat, last beat) -> steps a beat of lengths and shifts between them.
    """

    tokenization: str
    programs: bool
    rests: bool
    velocities: bool = True
    meters: bool = True
    specials: tuple[str, ...] = ("PAD", "BOS", "EOS")
    pitches: tuple[int, int] = (21, 108)
    steps: Mapping[tuple[int, int], int] = dataclasses.field(default_factory=lambda: {(0, 4): 8, (4, 12): 4})


REAL_TIME = 120  # beats a minute
TICKS = 480  # a beat of music in seconds before MidiTok puts it on its grid
STYLED = ("PAD", "UNK", "BOS", "EOS", *(f"SemanticToken_{style}" for style in range(10)))
PLAIN = {"programs": False, "rests": False, "meters": False, "specials": STYLED, "pitches": (0, 127)}

# remi has exactly 419 ids (the vocabulary of row R2), so it carries the PitchDrum ids although a piano never uses them.
PRESETS = {
    "remi": Preset("REMI", programs=False, rests=True),
    "remi_multitrack": Preset("REMI", programs=True, rests=True),
    "tsd": Preset("TSD", programs=True, rests=False),
    # Exactly 512 ids each (the sources' vocabulary); the longest steps are what is left of them.
    "amt_events": Preset("TSD", **PLAIN, velocities=False, steps={(0, 4): 24, (4, 12): 8, (12, 37): 1}),
    "remigen": Preset("TSD", **PLAIN, steps={(0, 4): 24, (4, 12): 8, (12, 21): 1}),
}


class SymbolicTokenizer:
    """A MidiTok tokenizer with its TokenSpec.

    Presets:
      remi: bars and positions, one piano. All pitched tracks are merged into it; drums are left out, and a score
        with nothing but drums is refused.
      remi_multitrack: bars and positions, a Program token before every note, drums included.
      tsd: time shifts instead of bars, a Program token before every note, drums included.
      amt_events: TIME_ON, NOTE and DURATION, 512 ids with PAD, UNK, START, END and SEMANTIC_TOKEN_0 to _9, under
        MidiTok's names (TimeShift, Pitch, Duration, BOS, EOS, SemanticToken). One piano without drums and loudness, in
        seconds: tempo is not a token, so a piece sounds as fast as it was and its bars are not known. A TIME_ON is the
        time since the one before, as 185 of them cannot tell the places of a piece apart, and is left out at zero.
        They and the durations go by 1/48 s up to 2 s, 1/16 s to 6 s, then 0.5 s to 18.5 s; what lies between becomes
        the nearest, so that nothing is UNK.
      remigen: the same with a velocity for each note, also 512 ids: Pitch, Velocity, Duration, and TimeShift between
        notes; the longest is 10.5 s.

    Attributes:
      name: the preset.
      spec: the vocabulary.
      names: the base ids' names, "Pitch_60".
    """

    def __init__(self, name: str, tokenizer: miditok.MusicTokenizer):
        self.name = name
        self._tokenizer = tokenizer
        self._preset = PRESETS[name]
        vocabulary = tokenizer.vocab
        self.names = tuple(sorted(vocabulary, key=vocabulary.get))
        self.spec = self._make_spec()
        self._encoder = Encoder(self.names)

    @classmethod
    def create(cls, preset: str) -> SymbolicTokenizer:
        """A tokenizer without BPE; raises UserError for an unknown preset."""
        import miditok  # A fifth of a second: not for those who only ask for --help.

        if preset not in PRESETS:
            raise UserError(f"unknown tokenizer {near(preset, list(PRESETS))}")
        options = PRESETS[preset]
        config = miditok.TokenizerConfig(
            pitch_range=options.pitches,
            beat_res=dict(options.steps),
            num_velocities=32,
            special_tokens=list(options.specials),
            use_velocities=options.velocities,
            use_rests=options.rests,
            use_tempos=options.meters,
            use_time_signatures=options.meters,
            use_pitchdrum_tokens=options.meters,
            use_programs=options.programs,
            one_token_stream_for_programs=options.programs,
            encode_ids_split="no",  # We split: MidiTok would have to know the score again.
        )
        return cls(preset, getattr(miditok, options.tokenization)(config))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> SymbolicTokenizer:
        """Reads `folder`/tokenizer.json; raises UserError if it is missing or damaged."""
        import miditok

        preset, path = read(folder)["preset"], Path(folder) / FILE
        try:
            return cls(preset, getattr(miditok, PRESETS[preset].tokenization)(params=path))
        except Exception as error:  # MidiTok checks nothing: a damaged file fails anywhere inside.
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `folder`/tokenizer.json, whole or not at all."""
        part = Path(folder) / (FILE + ".part")
        self._tokenizer.save(part, additional_attributes={"preset": self.name})
        os.replace(part, part.with_suffix(""))

    def encode(self, score: Score, merge: bool = True) -> np.ndarray:
        """Token ids of a score, without BOS and EOS, with BPE if trained and `merge`. [T] uint16.

        The same music gives the same ids, whatever the order of its tracks and notes: simultaneous notes go by program,
        then pitch; of two notes with one onset and pitch the longer stays. Ends with the last note.
        Raises MidiError if nothing is left to encode.
        """
        ids = self._encoder.encode(self.preprocess(score))
        return self.merge(ids) if merge else ids

    def preprocess(self, score: Score) -> Score:
        """The score as the ids will hold it: on MidiTok's grid, ordered. Raises MidiError if nothing is left."""
        score = self._tokenizer.preprocess_score(self._reduce(score))
        positions = 2 * max(signature.denominator for signature in score.time_signatures)
        if self._preset.meters and score.ticks_per_quarter != positions:
            # MidiTok chose the grid for an x/8 signature that it then dropped: times off the x/4 grid would remain.
            score = self._tokenizer.preprocess_score(score)
        _tidy(score)
        return score

    def decode(self, ids: np.ndarray) -> Score:
        """The score of token ids, however they came about; specials and unknown ids are dropped. [T] -> Score."""
        import miditok

        ids = np.asarray(ids).reshape(-1)
        ids = self.spec.expand(ids[(ids > self.spec.eos) & (ids < self.spec.vocab_size)])
        tokens = miditok.TokSequence(ids=ids.tolist())
        return self._tokenizer.decode(tokens if self._preset.programs else [tokens]).sort()

    def train_bpe(self, pieces: Iterable[np.ndarray], vocab_size: int) -> None:
        """Learns BPE merges from base ids, up to `vocab_size` ids in all (fewer if the pieces repeat too little).

        Raises UserError for a size that leaves no room for merges or does not fit 16 bits.
        """
        if not self.spec.base_size < vocab_size <= 2**16:
            raise UserError(f"a BPE vocabulary for {self.name} has {self.spec.base_size + 1} to {2**16} ids")
        self._tokenizer.train(vocab_size, model="BPE", iterator=[self._words(ids) for ids in pieces])
        self.spec = self._make_spec()

    def merge(self, ids: np.ndarray) -> np.ndarray:
        """Replaces base ids by BPE ids if trained; the inverse of `spec.expand`. [T] -> [T'], same dtype."""
        if not self.spec.merges:
            return ids
        return np.array(self._tokenizer._model.encode(self._words(ids), is_pretokenized=True).ids, ids.dtype)

    def _words(self, ids: np.ndarray) -> list[str]:
        """Splits ids where no merge may cross, as MidiTok's model reads them: each id a character.

        A word is a bar, or 16 time shifts where there are no bars: long words are slow, short ones many.
        """
        text = (ids.astype("<u4") + FIRST_CHARACTER).tobytes().decode("utf-32-le")
        kind, every = ("Bar", 1) if "Bar" in self.spec.ranges else ("TimeShift", 16)
        first, stop = self.spec.ranges[kind]
        cuts = np.flatnonzero((ids >= first) & (ids < stop))[::every].tolist()
        return [text[start:end] for start, end in pairwise([0, *cuts, len(text)]) if start < end]

    def _make_spec(self) -> TokenSpec:
        ranges = {}
        for kind, group in groupby(range(len(self.names)), key=lambda index: self.names[index].split("_")[0]):
            ids = list(group)
            ranges[kind] = (ids[0], ids[-1] + 1)
        learnt = self._tokenizer.vocab_model or {}
        words = sorted(learnt, key=learnt.get)[len(self.names) :]
        merges = tuple(tuple(ord(character) - FIRST_CHARACTER for character in word) for word in words)
        pad, bos, eos = (ranges[special][0] for special in ("PAD", "BOS", "EOS"))
        return TokenSpec(self.name, 1, len(self.names) + len(merges), pad, bos, eos, ranges, merges)

    def _reduce(self, score: Score) -> Score:
        """Only what is encoded: tracks of notes in a fixed order, tempos and time signatures."""
        if not self._preset.meters:
            score = _in_real_time(score)
        tracks: dict[int, list[dict[str, np.ndarray]]] = {}
        for track in score.tracks:
            if not len(track.notes) or (track.is_drum and not self._preset.programs):
                continue
            program = (DRUMS if track.is_drum else track.program) if self._preset.programs else 0
            tracks.setdefault(program, []).append(track.notes.numpy())
        if not tracks:
            raise MidiError("no pitched notes", "nothing but drums" if score.note_num() else "")
        reduced = Score(score.ticks_per_quarter)
        for program, parts in sorted(tracks.items()):
            notes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            order = np.argsort(notes["time"], kind="stable")
            track = Track(program=program % DRUMS, is_drum=program == DRUMS)
            track.notes = Note.from_numpy(**{name: values[order] for name, values in notes.items()})
            reduced.tracks.append(track)
        reduced.tempos = score.tempos.sort(inplace=False)
        reduced.time_signatures = score.time_signatures.sort(inplace=False)
        return reduced


def _in_real_time(score: Score) -> Score:
    """The same notes at the same seconds, all at REAL_TIME and in 4/4."""
    sounding, score = score.to("second"), score.copy()
    for track, timed in zip(score.tracks, sounding.tracks, strict=True):
        notes, seconds = track.notes.numpy(), timed.notes.numpy()
        for name in ("time", "duration"):
            notes[name] = np.rint(seconds[name] * (TICKS * REAL_TIME / 60)).astype(np.int32)
        track.notes = Note.from_numpy(**notes)
    score.ticks_per_quarter = TICKS
    score.tempos, score.time_signatures = [Tempo(0, REAL_TIME)], []
    return score


def _tidy(score: Score) -> None:
    """Orders a preprocessed score's notes, drops doubled notes, repeated tempos and what comes after the last note."""
    last = 0
    for track in score.tracks:
        notes = track.notes.numpy()
        time, pitch = notes["time"], notes["pitch"]
        order = np.lexsort((-notes["velocity"].astype(int), -notes["duration"], pitch, time))
        doubled = (np.diff(time[order]) == 0) & (np.diff(pitch[order]) == 0)
        order = order[np.concatenate(([True], ~doubled))]
        track.notes = Note.from_numpy(**{name: values[order] for name, values in notes.items()})
        last = max(last, int(time[order[-1]]))
    if not score.tracks:
        raise MidiError("no notes in range", "all pitches are outside the tokenizer's range")
    tempos = score.tempos.numpy()
    kept = (np.diff(tempos["mspq"], prepend=-1) != 0) & (tempos["time"] <= last)
    score.tempos = Tempo.from_numpy(**{name: values[kept] for name, values in tempos.items()})
    score.time_signatures = [each for each in score.time_signatures if each.time <= last]
