"""How well a model predicts real music: nats, perplexity and accuracy, each target once, nothing smoothed or dropped.

Glossary: B rows, T targets a row, K streams, V vocabulary, P pieces.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from amt_jax.data.conditions import Conditions
from amt_jax.data.pipeline import Records, Retold, Rows, batches
from amt_jax.data.plan import EvalPlan
from amt_jax.evaluation.metrics import Estimate, bootstrap
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model
from amt_jax.model.transformer import Transformer
from amt_jax.parallel.attention import placement
from amt_jax.parallel.mesh import one_device, put_batch
from amt_jax.parallel.processes import gather, is_first
from amt_jax.tokens.spec import TokenSpec

_TOKENS_A_BATCH = 8192
_NOTE_TYPES = ("Pitch", "PitchDrum")  # the token types that stand for one note each


@dataclasses.dataclass(frozen=True)
class TypeScore:
    """One token type: how often it is the target, nats a target, share of targets that were the likeliest id."""

    count: int
    nats: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Figures over one split; intervals are by bootstrap over pieces.

    Attributes:
      pieces, tokens, notes: what was scored; each piece's EOS is a token, its BOS is not.
      nats_per_token, nats_per_note: negative log-likelihood; all tokens' nats count in both.
      perplexity: exp(nats_per_token).
      bits_per_second: of music; NaN if the pieces' seconds are not known.
      accuracy: share of targets that were the likeliest id.
      types: token type -> its score.
    """

    pieces: int
    tokens: int
    notes: int
    nats_per_token: Estimate
    nats_per_note: Estimate
    perplexity: Estimate
    bits_per_second: Estimate
    accuracy: Estimate
    types: dict[str, TypeScore]


@functools.partial(jax.jit, static_argnames=("graph", "mesh"))
def score_targets(graph: Any, params: Any, batch: dict[str, Any], mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """Nats of every target and whether it was the likeliest id. A batch of the pipeline -> [B, T, K] float32, bool."""
    model: Transformer = nnx.merge(graph, params)
    inputs = (batch[name] for name in ("inputs", "positions", "segments", "conditions"))
    logits = model(*inputs, lengths=batch["lengths"], placement=placement(mesh))  # [B, T, K, V]
    targets = batch["targets"]
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen, jnp.argmax(logits, axis=-1) == targets


def evaluate_likelihood(
    config: TransformerConfig,
    params: Any,
    records: Records | Retold,
    conditions: Conditions,
    *,
    mesh: Mesh | None = None,
    seconds: np.ndarray | None = None,
    seed: int = 0,
    title: str = "scoring",
) -> Likelihood:
    """Scores every target of every record once, in windows that slide by half a context.

    Several processes share the work and all return the whole.

    Args:
      config, params, records, conditions, mesh, title: see `score_pieces`.
      seconds: length of each piece's music, for bits_per_second. [P]
      seed: of the bootstrap.
    """
    spec = records.card.spec
    by_piece, by_type = score_pieces(config, params, records, conditions, mesh=mesh, title=title)

    def per(column: int, over: np.ndarray, scale: float = 1.0, most: float = math.inf) -> Estimate:
        pairs = np.stack([by_piece[:, column] * scale, over], axis=1)
        if not over.sum():
            return Estimate(math.nan, math.nan, math.nan)
        return bootstrap(lambda x: x[:, 0].sum() / max(x[:, 1].sum(), 1e-9), [pairs], seed, most)

    per_token = per(0, by_piece[:, 1])
    no_seconds = np.zeros(len(records))
    return Likelihood(
        pieces=len(records),
        tokens=int(by_piece[:, 1].sum()),
        notes=int(by_piece[:, 3].sum()),
        nats_per_token=per_token,
        nats_per_note=per(0, by_piece[:, 3]),
        perplexity=Estimate(*(math.exp(min(x, 700)) for x in dataclasses.astuple(per_token))),
        bits_per_second=per(0, no_seconds if seconds is None else seconds, 1 / math.log(2)),
        accuracy=per(2, by_piece[:, 1], most=1.0),
        types={
            kind: TypeScore(int(count), nats / count, right / count)
            for kind, (nats, count, right) in zip(spec.ranges, by_type.tolist(), strict=True)
            if count
        },
    )


def score_pieces(
    config: TransformerConfig,
    params: Any,
    records: Records | Retold,
    conditions: Conditions,
    *,
    mesh: Mesh | None = None,
    title: str = "scoring",
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the targets of each piece, and of each token type, in windows that slide by half a context.

    Args:
      config: the model's.
      params: its parameters, on `mesh`.
      records: the split.
      conditions: what the model is told of them.
      mesh: devices of this process, its first one if not given.
      title: of the progress bar.

    Returns:
      nats, targets, correct targets and notes of each piece, [P, 4], and the first three of each type, [types, 3].
    """
    graph = abstract_model(config).graph
    spec, context = records.card.spec, config.context_length
    plan = EvalPlan(records.lengths, context, max(1, context // 2))
    mesh = mesh or one_device()
    processes, process = jax.process_count(), jax.process_index()
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = groups * max(1, min(_TOKENS_A_BATCH // context, -(-len(plan.rows) // processes) // groups))
    total, mine = processes * batch_size, range(process * batch_size, (process + 1) * batch_size)
    types, notes = spec.type_ids(), notes_per_id(spec)
    by_piece, by_type = np.zeros((len(records), 4)), np.zeros((len(spec.ranges), 3))
    with tqdm(total=len(plan.rows), desc=title, unit="row", disable=None if is_first() else True) as progress:
        for index, batch in enumerate(batches(Rows(records, plan, conditions), total, slots=mine)):
            nats, correct = jax.device_get(score_targets(graph, params, put_batch(batch, mesh, batch_size), mesh))
            first = index * total + process * batch_size
            records_of = np.zeros((batch_size, plan.max_segments + 1), np.int64)  # by row and segment
            for row in range(batch_size):
                for segment, span in enumerate(plan.row(first + row)[1]):
                    records_of[row, segment + 1] = span.record
            counts = np.nonzero(batch["weights"])  # rows and times of the targets that count
            pieces = records_of[counts[0], batch["segments"][counts]]
            targets = batch["targets"][counts]  # [targets, K]
            columns = [nats[counts].astype(np.float64), np.ones(targets.shape), correct[counts], notes[targets]]
            for column, values in enumerate(columns):
                np.add.at(by_piece[:, column], pieces, values.sum(axis=1))
                if column < 3:
                    np.add.at(by_type[:, column], types[targets], values)
            progress.update(min(total, len(plan.rows) - index * total))
    return tuple(gather(x).sum(axis=0) for x in (by_piece, by_type))


def notes_per_id(spec: TokenSpec) -> np.ndarray:
    """The number of notes that each id stands for, more than one for some BPE merges. [V] int64"""
    notes = np.zeros(spec.vocab_size, np.int64)
    for kind in _NOTE_TYPES:
        first, stop = spec.ranges.get(kind, (0, 0))
        notes[first:stop] = 1
    for index, ids in enumerate(spec.merges):
        notes[spec.base_size + index] = notes[list(ids)].sum()
    return notes
