"""Generation of many pieces at once: prefill a window, decode until it is full or all pieces ended, move the window on.

    B batch   G guidance branches   P prompt slots   S window slots   M output tokens   V vocabulary

A piece longer than the model's context is made window by window: when the window is full, the newer half of it becomes
the prompt of the next, with positions from zero, just as training windows begin in the middle of pieces.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from amt_jax.model.conditioning import NULL
from amt_jax.model.transformer import Transformer, TransformerConfig
from amt_jax.sampling import cache, constraints
from amt_jax.sampling.filters import Controls, noise, penalize, sample
from amt_jax.sampling.guidance import guide
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.grammar import Grammar, GrammarState
from amt_jax.tokens.spec import TokenSpec

STEPS_A_DISPATCH = 128  # the compiled loop runs this long between two looks from the host
MAX_CANDIDATES = 64  # top-k up to this is sampled among so many candidates; above it, or without top-k, among all


@dataclasses.dataclass(frozen=True)
class Request:
    """One piece to make.

    Attributes:
      settings: how to sample it.
      conditions: condition name -> id; what is missing is null.
      prompt: base token ids to continue, without BOS; empty starts a new piece. [T] uint16
    """

    settings: GenerationSettings
    conditions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    prompt: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint16))


@dataclasses.dataclass(frozen=True)
class Result:
    """One piece made: its new token ids without EOS, [T] uint16, and whether it came to its own end."""

    ids: np.ndarray
    ended: bool


class DecodeState(NamedTuple):
    """What the decode loop carries.

    cache: a (key, value) of [G · B · K, S, H] a layer; logits: [G · B, V] of the next token; window: [B, S] the tokens
    in the slots; index: [] the next free slot; first: [B] a row's first slot; output: [B, M] new tokens; count: [] how
    many; done: [B]; seen: [B, V] tokens that came before; clock: the rows' grammar states.
    """

    cache: cache.Cache
    logits: jax.Array
    window: jax.Array
    index: jax.Array
    first: jax.Array
    output: jax.Array
    count: jax.Array
    done: jax.Array
    seen: jax.Array
    clock: GrammarState


class Plan(NamedTuple):
    """What stays fixed for a batch.

    controls; guidance scales [G - 1, B]; conditions name -> [G · B, 1]; max_tokens [B]; begin and end [B], the seconds
    of its piece between which a row's new music lies.
    """

    controls: Controls
    scales: jax.Array
    conditions: dict[str, jax.Array]
    max_tokens: jax.Array
    begin: jax.Array
    end: jax.Array


@functools.partial(jax.jit, static_argnames=("graph", "slots"))
def prefill(graph, params, conditions, window, first, *, slots):
    """Reads a prompt [B, P] whose rows begin at slots `first`: the cache of `slots`, logits of the next [G · B, V]."""
    model: Transformer = nnx.merge(graph, params)
    slot = jnp.arange(window.shape[1])
    segments = (slot >= first[:, None]).astype(jnp.int32)
    positions = jnp.maximum(slot - first[:, None], 0)
    branches = logits_rows(conditions, window) // window.shape[0]
    tokens, positions, segments = (jnp.tile(x, (branches, 1)) for x in (window, positions, segments))
    hidden, layers = model.hidden(tokens[..., None], positions, segments, conditions)
    return cache.fill(layers, slots), model.logits(hidden[:, -1])[:, 0]


def logits_rows(conditions, window):
    """Rows of a forward pass: G · B where there are conditions, else B."""
    return next(iter(conditions.values())).shape[0] if conditions else window.shape[0]


@functools.partial(jax.jit, static_argnames=("graph", "grammar", "max_candidates", "pad"), donate_argnames=("state",))
def decode(graph, params, plan: Plan, state: DecodeState, stop, *, grammar: Grammar, max_candidates, pad) -> DecodeState:
    """Samples tokens until `stop` of them, a full window, or the end of every row."""
    model: Transformer = nnx.merge(graph, params)
    batch, slots = state.window.shape
    slot = jnp.arange(slots)

    def unfinished(state):
        return (state.count < stop) & (state.index < slots) & ~jnp.all(state.done)

    def step(state):
        logits = guide(state.logits.reshape(-1, batch, state.logits.shape[-1]), plan.scales)
        logits = constraints.constrain(grammar, state.clock, logits, plan.begin, plan.end)
        logits = penalize(logits, state.seen, plan.controls.repetition_penalty)
        drawn = sample(logits, noise(plan.controls.seed, state.count, logits.shape[-1]), plan.controls, max_candidates)
        token = jnp.where(state.done, pad, drawn)
        done = state.done | (token == grammar.eos) | (state.count + 1 >= plan.max_tokens)
        window = jax.lax.dynamic_update_slice_in_dim(state.window, token[:, None], state.index, axis=1)
        output = jax.lax.dynamic_update_slice_in_dim(state.output, token[:, None], state.count, axis=1)

        branches = state.logits.shape[0] // batch
        mask = (slot >= state.first[:, None]) & (slot <= state.index)
        tokens, positions, mask = (
            jnp.tile(x, (branches,) + (1,) * (x.ndim - 1)) for x in (token, state.index - state.first, mask)
        )
        logits, filled = model.step(tokens[:, None], positions, plan.conditions, state.cache, state.index, mask)
        return DecodeState(
            cache=filled,
            logits=logits[:, 0],
            window=window,
            index=state.index + 1,
            first=state.first,
            output=output,
            count=state.count + 1,
            done=done,
            seen=state.seen.at[jnp.arange(batch), token].set(True),
            clock=grammar.advance(state.clock, token, jnp),
        )

    return jax.lax.while_loop(unfinished, step, state)


class Sampler:
    """Makes music with a model's parameters: any number of requests, a compiled program a bucket of sizes.

    Args:
      config: the model's.
      params: its parameters, as `nnx.state` gives them.
      spec: the vocabulary.
      grammar: which token may follow which.
      max_batch: rows decoded together.
    """

    def __init__(self, config: TransformerConfig, params, spec: TokenSpec, grammar: Grammar, *, max_batch: int = 32):
        if config.num_streams != 1:
            raise ValueError("the sampler decodes one token stream")
        self.config, self.params, self.spec, self.max_batch = config, params, spec, max_batch
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
        self.grammar = grammar

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int, float], None] = lambda tokens, done: None
    ) -> list[Result]:
        """Makes all requests.

        A row depends on its own request alone within one bucket (rows, window, branches, candidates).

        Args:
          requests: the pieces to make.
          progress: called after each dispatch with the number of new tokens and the share of the work that is done.

        Returns:
          One result a request, in order.
        """
        results = []
        for start in range(0, len(requests), self.max_batch):
            chunk = requests[start : start + self.max_batch]
            results += self._generate_batch(
                chunk, lambda tokens, share, n=start, m=len(chunk): progress(tokens, (n + share * m) / len(requests))
            )
        return results

    def _generate_batch(self, requests, progress):
        context = self.config.context_length
        rows = 1 << (len(requests) - 1).bit_length()
        padded = [*requests, *[requests[-1]] * (rows - len(requests))]
        prompts = [np.concatenate([[self.spec.bos], request.prompt]).astype(np.int32) for request in padded]
        clock = constraints.start(self.grammar, prompts)
        plan, max_candidates = self._plan(padded, jnp.copy(clock.seconds))  # the original is donated with the state
        longest = max(len(prompt) for prompt in prompts)
        # A lone BOS needs one slot; other prompts share a few sizes, so that few programs are compiled.
        width = 1 if longest == 1 else min(context // 2, max(32, 1 << (longest - 1).bit_length()))
        window = np.full((rows, width), self.spec.pad, np.int32)
        first = np.zeros(rows, np.int32)
        seen = np.zeros((rows, self.spec.vocab_size), bool)
        for row, prompt in enumerate(prompts):
            kept = prompt[-width:]
            first[row] = width - len(kept)
            window[row, first[row] :] = kept
            seen[row, prompt] = True
        budget = max(request.settings.max_tokens for request in requests)
        state = DecodeState(
            cache=[],
            logits=jnp.zeros(0),
            window=jnp.asarray(window),
            index=jnp.int32(width),
            first=jnp.asarray(first),
            output=jnp.full((rows, 1 << (budget - 1).bit_length()), self.spec.pad, jnp.int32),
            count=jnp.int32(0),
            done=jnp.arange(rows) >= len(requests),
            seen=jnp.asarray(seen),
            clock=clock,
        )
        smallest = min(512, cache.slots_needed(width + budget, context, smallest=64))
        state = self._open_window(state, plan, width, cache.slots_needed(width + 1, context, smallest))
        while True:
            stop = (int(state.count) // STEPS_A_DISPATCH + 1) * STEPS_A_DISPATCH
            state = decode(
                self.graph, self.params, plan, state, jnp.int32(min(stop, budget)),
                grammar=self.grammar, max_candidates=max_candidates, pad=self.spec.pad,
            )  # fmt: skip
            count, index, done, clock = jax.device_get((state.count, state.index, state.done, state.clock.seconds))
            progress(int(count), self._share(count, done, clock, plan, requests))
            if done.all() or count >= budget:
                break
            if index == state.window.shape[1]:
                if index < context:
                    slots = min(2 * int(index), context)
                    extra = ((0, 0), (0, slots - int(index)))
                    state = state._replace(cache=cache.grow(state.cache, slots), window=jnp.pad(state.window, extra))
                else:
                    state = self._open_window(state, plan, context // 2, context)
        output = jax.device_get(state.output)[: len(requests), : int(count)]
        return [self._result(row) for row in output]

    def _plan(self, requests: Sequence[Request], begin: jax.Array) -> tuple[Plan, int]:
        """Arrays of a row a request; a null branch for guidance only where some row asks for it."""
        settings = [request.settings for request in requests]
        column = {
            field.name: np.array([getattr(s, field.name) for s in settings])
            for field in dataclasses.fields(GenerationSettings)
        }
        controls = Controls(
            seed=jnp.asarray(column["seed"], jnp.uint32),
            top_k=jnp.asarray(np.minimum(column["top_k"], self.spec.vocab_size), jnp.int32),
            **{
                name: jnp.asarray(column[name], jnp.float32)
                for name in ("temperature", "top_p", "min_p", "repetition_penalty")
            },
        )
        guided = [
            request.settings.guidance != 1 and any(request.conditions.get(c.name) for c in self.config.conditions)
            for request in requests
        ]
        conditions = {}
        for condition in self.config.conditions:
            asked = np.array([request.conditions.get(condition.name, NULL) for request in requests], np.int32)
            branches = [np.zeros_like(asked), asked] if any(guided) else [asked]
            conditions[condition.name] = jnp.asarray(np.concatenate(branches)[:, None])
        scales = np.where(guided, column["guidance"], 1.0)[None] if any(guided) else np.zeros((0, len(requests)))
        bounded = bool(np.all((column["top_k"] > 0) & (column["top_k"] <= MAX_CANDIDATES)))
        max_candidates = min(MAX_CANDIDATES, self.spec.vocab_size) if bounded else self.spec.vocab_size
        plan = Plan(
            controls,
            jnp.asarray(scales, jnp.float32),
            conditions,
            jnp.asarray(column["max_tokens"], jnp.int32),
            begin,
            begin + jnp.asarray(column["seconds"], jnp.float32),
        )
        return plan, max_candidates

    def _open_window(self, state: DecodeState, plan: Plan, keep: int, slots: int) -> DecodeState:
        """Makes the last `keep` tokens of the window the prompt of a new one."""
        used = int(state.index)
        prompt = state.window[:, used - keep : used]
        first = jnp.maximum(state.first - (used - keep), 0)
        filled, logits = prefill(self.graph, self.params, plan.conditions, prompt, first, slots=slots)
        return state._replace(
            cache=filled,
            logits=logits,
            window=jnp.pad(prompt, ((0, 0), (0, slots - keep)), constant_values=self.spec.pad),
            index=jnp.int32(keep),
            first=first,
        )

    def _share(self, count, done, clock, plan, requests) -> float:
        """The share of the work done: of the slowest row, by its clock or its tokens, whichever is further."""
        rows = len(requests)
        begin, end = np.asarray(plan.begin)[:rows], np.asarray(plan.end)[:rows]
        share = np.maximum((clock[:rows] - begin) / (end - begin), count / np.asarray(plan.max_tokens)[:rows])
        return float(np.min(np.where(done[:rows], 1, np.clip(share, 0, 1))))

    def _result(self, row: np.ndarray) -> Result:
        ended = np.flatnonzero(row == self.spec.eos)
        stop = ended[0] if len(ended) else len(row)
        ids = row[:stop]
        return Result(ids[ids != self.spec.pad].astype(np.uint16), bool(len(ended)))
