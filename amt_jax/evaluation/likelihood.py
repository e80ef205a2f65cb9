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
from amt_jax.data.pipeline import Held, Records, Retold, Rows, batches
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


@dataclasses.dataclass(frozen=True, eq=False)
class Scope:
    """Which targets count, and among what.

    Attributes:
      skipped: targets at the beginning of each piece that do not count. [P]
      ends: whether a piece's EOS counts.
      follows: which ids may follow an id: the others are masked out and the rest renormalised. [V, V] bool
    """

    skipped: np.ndarray
    ends: bool
    follows: np.ndarray


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
      pieces, tokens, notes, frames: what was scored; each piece's EOS is a token, its BOS is not; a note is one that
        is heard, however many tokens or frames write it.
      nats_per_token, nats_per_note, nats_per_frame: negative log-likelihood; all tokens' nats count in each. NaN for
        what the pieces are not known to have.
      perplexity: exp(nats_per_token).
      bits_per_second: of music; NaN if the pieces' seconds are not known.
      accuracy: share of targets that were the likeliest id.
      types: token type -> its score.
    """

    pieces: int
    tokens: int
    notes: int
    frames: int
    nats_per_token: Estimate
    nats_per_note: Estimate
    nats_per_frame: Estimate
    perplexity: Estimate
    bits_per_second: Estimate
    accuracy: Estimate
    types: dict[str, TypeScore]


@functools.partial(jax.jit, static_argnames=("graph", "mesh"))
def score_targets(
    graph: Any, params: Any, batch: dict[str, Any], follows: np.ndarray | None, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """Nats of every target and whether it was the likeliest id. A batch of the pipeline -> [B, T, K] float32, bool.

    `follows` is as in Scope, or None if any id may follow.
    """
    model: Transformer = nnx.merge(graph, params)
    inputs = (batch[name] for name in ("inputs", "positions", "segments", "conditions"))
    logits = model(*inputs, lengths=batch["lengths"], placement=placement(mesh))  # [B, T, K, V]
    if follows is not None:
        logits = jnp.where(jnp.asarray(follows)[batch["inputs"]], logits, -jnp.inf)
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
    notes: np.ndarray | None = None,
    seed: int = 0,
    title: str = "scoring",
) -> Likelihood:
    """Scores every target of every record once, in windows that slide by half a context.

    Several processes share the work and all return the whole.

    Args:
      config, params, records, conditions, mesh, title: see `score_pieces`.
      seconds, notes, seed: see `summarise`.
    """
    sums = score_pieces(config, params, records, conditions, mesh=mesh, title=title)
    return summarise(sums, records.card.spec, seconds=seconds, notes=notes, seed=seed)


def summarise(
    sums: np.ndarray,
    spec: TokenSpec,
    *,
    seconds: np.ndarray | None = None,
    notes: np.ndarray | None = None,
    frames: np.ndarray | None = None,
    seed: int = 0,
) -> Likelihood:
    """The figures of pieces.

    Args:
      sums: see `score_pieces`. [P, types, 3]
      spec: the vocabulary.
      seconds, notes, frames: how much of each there is in what was scored of a piece, if it is known. [P]
      seed: of the bootstrap.
    """
    (nats, tokens, correct), by_type = sums.sum(axis=1).T, sums.sum(axis=0)
    seconds, notes, frames = (np.zeros(len(sums)) if each is None else each for each in (seconds, notes, frames))

    def per(what: np.ndarray, over: np.ndarray, most: float = math.inf) -> Estimate:
        if not over.sum():
            return Estimate(math.nan, math.nan, math.nan)
        pairs = np.stack([what, over], axis=1)
        return bootstrap(lambda x: x[:, 0].sum() / max(x[:, 1].sum(), 1e-9), [pairs], seed, most)

    per_token = per(nats, tokens)
    return Likelihood(
        pieces=len(sums),
        tokens=int(tokens.sum()),
        notes=int(notes.sum()),
        frames=int(frames.sum()),
        nats_per_token=per_token,
        nats_per_note=per(nats, notes),
        nats_per_frame=per(nats, frames),
        perplexity=Estimate(*(math.exp(min(x, 700)) for x in dataclasses.astuple(per_token))),
        bits_per_second=per(nats / math.log(2), seconds),
        accuracy=per(correct, tokens, most=1.0),
        types={
            kind: TypeScore(int(count), nats / count, right / count)
            for kind, (nats, count, right) in zip(spec.ranges, by_type.tolist(), strict=True)
            if count
        },
    )


def score_pieces(
    config: TransformerConfig,
    params: Any,
    records: Records | Retold | Held,
    conditions: Conditions,
    *,
    scope: Scope | None = None,
    mesh: Mesh | None = None,
    title: str = "scoring",
) -> np.ndarray:
    """Sums over the targets of each piece by token type, in windows that slide by half a context.

    Args:
      config: the model's.
      params: its parameters, on `mesh`.
      records: the split.
      conditions: what the model is told of them.
      scope: which targets count, and among what; if not given, all among all ids.
      mesh: devices of this process, its first one if not given.
      title: of the progress bar.

    Returns:
      Nats, targets and correct targets. [P, types, 3] float64
    """
    graph = abstract_model(config).graph
    spec, context = records.card.spec, config.context_length
    only = {"skipped": scope.skipped, "ends": scope.ends} if scope else {}
    plan = EvalPlan(records.lengths, context, max(1, context // 2), **only)
    follows = scope.follows if scope else None
    mesh = mesh or one_device()
    processes, process = jax.process_count(), jax.process_index()
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = groups * max(1, min(_TOKENS_A_BATCH // context, -(-len(plan.rows) // processes) // groups))
    total, mine = processes * batch_size, range(process * batch_size, (process + 1) * batch_size)
    types = spec.type_ids()
    sums = np.zeros((len(records), len(spec.ranges), 3))
    with tqdm(total=len(plan.rows), desc=title, unit="row", disable=None if is_first() else True) as progress:
        for index, batch in enumerate(batches(Rows(records, plan, conditions), total, slots=mine)):
            placed = put_batch(batch, mesh, batch_size)
            nats, correct = jax.device_get(score_targets(graph, params, placed, follows, mesh))
            first = index * total + process * batch_size
            records_of = np.zeros((batch_size, plan.max_segments + 1), np.int64)  # by row and segment
            for row in range(batch_size):
                for segment, span in enumerate(plan.row(first + row)[1]):
                    records_of[row, segment + 1] = span.record
            counts = np.nonzero(batch["weights"])  # rows and times of the targets that count
            pieces = records_of[counts[0], batch["segments"][counts]]
            targets = batch["targets"][counts]  # [targets, K]
            for column, values in enumerate([nats[counts].astype(np.float64), np.ones(targets.shape), correct[counts]]):
                np.add.at(sums[..., column], (pieces[:, None], types[targets]), values)
            progress.update(min(total, len(plan.rows) - index * total))
    return gather(sums).sum(axis=0)
