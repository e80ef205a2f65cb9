"""MIDI to ids and back, by MidiTok: presets, saving, loading, decoding."""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path

import miditok
import numpy as np
from symusic import Score

from amt_jax.tokens.spec import TokenSpec

FILE = "tokenizer.json"


class SymbolicTokenizer:
    """A MidiTok tokenizer with its TokenSpec."""

    def __init__(self, name: str, tokenizer: miditok.MusicTokenizer):
        self.name = name
        self._tokenizer = tokenizer
        items = sorted(tokenizer.vocab.items(), key=lambda item: item[1])
        ranges = {}
        for kind, group in groupby(items, key=lambda item: item[0].split("_")[0]):
            ids = [i for _, i in group]
            ranges[kind] = (ids[0], ids[-1] + 1)
        self.spec = TokenSpec(name, 1, len(items), 0, 1, 2, ranges)

    @classmethod
    def create(cls, preset: str) -> SymbolicTokenizer:
        config = miditok.TokenizerConfig(
            pitch_range=(21, 108),
            num_velocities=32,
            special_tokens=["PAD", "BOS", "EOS"],
            use_rests=True,
            use_tempos=True,
            use_time_signatures=True,
            use_pitchdrum_tokens=True,
            one_token_stream_for_programs=True,
        )
        return cls(preset, miditok.REMI(config))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> SymbolicTokenizer:
        return cls("remi", miditok.REMI(params=Path(folder) / FILE))

    def save(self, folder: str | os.PathLike) -> None:
        self._tokenizer.save(Path(folder), filename=FILE)

    def encode(self, score: Score) -> np.ndarray:
        """Token ids of a score, without BOS and EOS. [T] uint16."""
        raise NotImplementedError

    def decode(self, ids: np.ndarray) -> Score:
        """The score of token ids; specials are dropped. [T] -> Score."""
        raise NotImplementedError
