"""Frames: piano-rolls scored by the protocol of Boulanger-Lewandowski et al. 2012, next frame by next frame.

A frame is predicted from all before it: its pitches one after the other and its end, with what cannot come (a pitch not
above the last, the end of the piece) masked out and the rest renormalised, so that the probabilities of all next frames
sum to 1. The first frame of a piece is not scored, nor is its end.

Glossary: P pieces, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from amt_jax.data.conditions import Conditions
from amt_jax.data.pipeline import Held, Records
from amt_jax.data.record import Record
from amt_jax.errors import UserError
from amt_jax.evaluation.likelihood import Likelihood, Scope, score_pieces, summarise
from amt_jax.model.config import TransformerConfig
from amt_jax.tokens.grammar import Grammar
from amt_jax.tokens.pianoroll import PianoRoll

RUN = 8  # intervals of a melody that are compared at a time: fewer are commonplaces, runs of a scale
SAME = 0.5  # share of a melody's runs in one other piece from which on it stands there; few pieces are near that


@dataclasses.dataclass(frozen=True)
class PieceScore:
    """One piece: what was scored of it, its nats, and the source of a training piece that has its melody, if any."""

    name: str
    frames: int
    notes: int
    nats: float
    leaked_from: str = ""

    @property
    def nats_per_frame(self) -> float:
        return self.nats / self.frames if self.frames else math.nan


def evaluate_frames(
    config: TransformerConfig,
    params: Any,
    records: Records | Held,
    conditions: Conditions,
    tokenizer: PianoRoll,
    *,
    train: Iterable[Record] = (),
    mesh: Mesh | None = None,
    seed: int = 0,
) -> tuple[dict[str, Likelihood], list[PieceScore]]:
    """Scores every frame but the first of every piece.

    Args:
      config, params, records, conditions, mesh: see `likelihood.score_pieces`.
      tokenizer: of the records.
      train: pieces whose melodies the others should not have; if there are any, those without are also summed up apart.
      seed: of the bootstrap.
    """
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    every = [records[index] for index in range(len(records))]
    ends = [np.flatnonzero(each.ids == tokenizer.spec.ranges["Frame"][0]) for each in every]
    if all(len(each) < 2 for each in ends):
        raise UserError("no piece has a second frame: the first one is not scored, so that there is nothing to score")
    scope = Scope(np.array([each[0] + 1 for each in ends]), False, following(grammar))
    sums = score_pieces(config, params, records, conditions, scope=scope, mesh=mesh, title="scoring frames")

    frames = np.array([len(each) - 1 for each in ends])
    starts = [tokenizer.decode(each.ids).tracks[0].notes.numpy()["time"] for each in every]
    notes = np.array([np.count_nonzero(each) for each in starts])  # those that start in the first frame do at 0
    seconds = frames * tokenizer.frame_seconds
    train = list(train)
    sources = leaks([melody(tokenizer, each) for each in every], [melody(tokenizer, each) for each in train])
    scores = [
        PieceScore(each.source, *row, "" if source is None else train[source].source)
        for each, source, *row in zip(
            every, sources, frames.tolist(), notes.tolist(), sums[..., 0].sum(axis=1).tolist(), strict=True
        )
    ]
    kept = {"frames": np.full(len(every), True)}
    if train:
        kept["frames, leaks left out"] = np.array([source is None for source in sources])
    likelihoods = {
        title: summarise(
            sums[chosen], tokenizer.spec, seconds=seconds[chosen], notes=notes[chosen], frames=frames[chosen], seed=seed
        )
        for title, chosen in kept.items()
    }
    return likelihoods, scores


def following(grammar: Grammar) -> np.ndarray:
    """Which ids may follow each id within a piece: in frames the last one is all that decides. [V, V] bool"""
    ids = np.arange(len(grammar.expansion))
    allowed = grammar.allowed(grammar.advance(grammar.start(ids.shape), ids))
    allowed[:, grammar.eos] = False
    return allowed


def melody(tokenizer: PianoRoll, record: Record) -> np.ndarray:
    """The intervals of the highest pitches of frames, without repeats and silence: alike in any key and rhythm."""
    highest = np.array([pitches[-1] for pitches in tokenizer.decode_frames(record.ids) if pitches], np.int64)
    intervals = np.diff(highest)
    return intervals[intervals != 0]


def leaks(melodies: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[int | None]:
    """For each melody the index of the one of `others` that it stands in: that with most of its runs, at least SAME.

    None where there is none; a melody of fewer than RUN intervals says too little to stand anywhere.
    """
    holders = defaultdict(list)
    for index, other in enumerate(others):
        for run in _runs(other):
            holders[run].append(index)
    found = []
    for own in map(_runs, melodies):
        shared = Counter(index for run in own for index in holders.get(run, ()))
        index, count = max(shared.items(), key=lambda item: (item[1], -item[0]), default=(None, 0))
        found.append(index if count and count >= SAME * len(own) else None)
    return found


def _runs(intervals: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(intervals[start : start + RUN].tolist()) for start in range(len(intervals) - RUN + 1)}
