"""Rolls: piano-rolls as the literature keeps them, JSON {"train": [[[pitch, …] a frame] a piece], …}, to records."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from amt_jax import storage
from amt_jax.data.card import SPLITS
from amt_jax.data.record import Record
from amt_jax.errors import UserError, near
from amt_jax.tokens.pianoroll import PianoRoll


def read_rolls(path: str | os.PathLike, tokenizer: PianoRoll, needed: Sequence[str] = ()) -> dict[str, list[Record]]:
    """The pieces of each split that a file has, in its order.

    UserError if it is no such file, lacks one of the splits `needed`, or a frame is not ascending pitches in range.
    """
    try:
        with storage.open_bytes(path) as file:
            data = json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f'{path} is not like {{"train": [[[60, 64], …], …], …}}')
    for split in data:
        if split not in SPLITS:
            raise UserError(f"{path}: unknown split {near(split, list(SPLITS))}")
    for split in needed:
        if split not in data:
            raise UserError(f"{path} has no split {split!r}; it has {', '.join(data) or 'none'}")
    return {split: _records(path, split, pieces, tokenizer) for split, pieces in data.items()}


def _records(path: str | os.PathLike, split: str, pieces: Any, tokenizer: PianoRoll) -> list[Record]:
    where = f"{path}, split {split}"
    if not isinstance(pieces, list) or not pieces:
        raise UserError(f"{where} is not a list of pieces" if pieces else f"{where} is empty")
    records = []
    for number, frames in enumerate(pieces):
        here = f"{where}, piece {number}"
        if not isinstance(frames, list) or not frames:
            raise UserError(f"{here} is not a list of frames" if frames else f"{here} has no frames")
        for time, pitches in enumerate(frames):
            _check(f"{here}, frame {time}", pitches, *tokenizer.pitches)
        ids = tokenizer.encode_frames(frames)
        piece = hashlib.sha256(ids.astype("<u2").tobytes()).hexdigest()[:32]
        records.append(Record(ids, {}, piece, piece, f"{PurePath(path).name}/{split}/{number}"))
    return records


def _check(here: str, pitches: Any, low: int, high: int) -> None:
    if not isinstance(pitches, list) or any(type(pitch) is not int for pitch in pitches):
        raise UserError(f"{here} is not a list of MIDI pitches")
    if any(one >= other for one, other in itertools.pairwise(pitches)):
        raise UserError(f"{here}: {pitches} do not ascend; each pitch stands once, the lowest first")
    if pitches and not low <= pitches[0] <= pitches[-1] <= high:
        raise UserError(f"{here}: {pitches} are not all from {low} to {high}")
