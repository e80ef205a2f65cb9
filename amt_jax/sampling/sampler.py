"""Generation of many pieces at once: prefill a window, decode until it is full or all pieces ended, move the window on.

    B batch   G guidance branches   M output tokens

A piece longer than the model's context is made window by window: when the window is full, the newer half of it becomes
the prompt of the next, with positions from zero, just as training windows begin in the middle of pieces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from amt_jax.errors import UserError
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model
from amt_jax.model.quantization import convert
from amt_jax.parallel.mesh import one_device, parameter_shardings, sharding
from amt_jax.sampling import cache, constraints
from amt_jax.sampling.constraints import Limits
from amt_jax.sampling.decode import DecodeState, Plan, decode, prefill, shardings
from amt_jax.sampling.filters import Controls
from amt_jax.sampling.request import Bucket, Request, Result
from amt_jax.sampling.speed import Speed, compile_seconds
from amt_jax.tokens.grammar import DRUMS, MAX_POLYPHONY, Grammar, GrammarState
from amt_jax.tokens.spec import TokenSpec

STEPS_A_DISPATCH = 128  # the compiled loop runs this long between two looks from the host
SMALLEST_WINDOW = 256  # the window starts with so many slots and doubles up to the context
MAX_CANDIDATES = 64  # top-k up to this is sampled among so many candidates; above it, or without top-k, among all


class Sampler:
    """Makes music with a model's parameters: any number of requests, a compiled program a bucket of sizes.

    Args:
      config: the model's.
      params: its parameters, a nested dict.
      spec: the vocabulary.
      grammar: which token may follow which.
      max_batch: rows decoded together.
      mesh: the devices that share the work, this process's first if not given.
      weights: what to compute with, see `quantization.convert`.

    Attributes:
      config, params: of what it computes with.
      speed: of the results that the latest `generate` has made so far; None before.
    """

    def __init__(
        self,
        config: TransformerConfig,
        params,
        spec: TokenSpec,
        grammar: Grammar,
        *,
        max_batch: int = 32,
        mesh: Mesh | None = None,
        weights: str = "auto",
    ):
        if config.num_streams != 1:
            raise ValueError("the sampler decodes one token stream")
        self.spec, self.max_batch = spec, max_batch
        self.config, params = convert(config, params, weights)
        self.mesh = one_device() if mesh is None else mesh
        self._groups = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        model = abstract_model(self.config)
        # Whatever the programs take is committed to devices, as what they return is: otherwise each is compiled twice.
        self.params = jax.device_put(params, parameter_shardings(self.mesh, model.axes))
        self.graph = model.graph
        self.grammar = grammar
        self.speed: Speed | None = None

    def generate(
        self, requests: Sequence[Request], progress: Callable[[float], None] = lambda share: None
    ) -> Iterator[Result]:
        """Makes all requests, batch by batch.

        Args:
          requests: the pieces to make.
          progress: called after each dispatch with the share of all work that is done.

        Yields:
          One result a request, in order.
        """
        batches, ends, speed = -(-len(requests) // self.max_batch), [], Speed(0, 0, 0, 0, 0)
        # Batches of nearly one size share their programs.
        for rows in np.array_split(np.arange(len(requests)), batches) if batches else ():
            chunk = requests[rows[0] : rows[-1] + 1]
            begin, compiled = time.perf_counter(), compile_seconds()

            def report(share: float, rows=rows, begin=begin - compiled) -> None:
                ends.append(time.perf_counter() - compile_seconds() - begin)
                progress((rows[0] + share * len(rows)) / len(requests))

            results = self._generate_batch(chunk, self.bucket(chunk), report)
            compiling = compile_seconds() - compiled
            self.speed = speed = Speed(
                first_token=ends[0],
                seconds=speed.seconds + time.perf_counter() - begin - compiling,
                compiling=speed.compiling + compiling,
                tokens=speed.tokens + sum(len(result.ids) for result in results),
                music=speed.music + sum(result.seconds for result in results),
            )
            yield from results

    def replay(self, request: Request, bucket: Bucket, row: int) -> Result:
        """Makes one piece again as it was made in a batch: in the same bucket and row, whoever its neighbours were."""
        if bucket.rows % self._groups:
            raise UserError(
                f"it was made in a batch of {bucket.rows} pieces, which this --mesh cannot share; leave it out"
            )
        return self._generate_batch([request] * bucket.rows, bucket, lambda share: None)[row]

    def bucket(self, requests: Sequence[Request]) -> Bucket:
        """The smallest bucket that holds `requests`."""
        longest = 1 + max(len(request.prompt) for request in requests)
        top_k = [request.settings.top_k for request in requests]
        few = 0 < min(top_k) <= max(top_k) <= MAX_CANDIDATES
        budget = max(request.settings.max_tokens for request in requests)
        return Bucket(
            rows=self._rows(len(requests)),
            # A lone BOS needs one slot; other prompts share a few sizes, so that few programs are compiled.
            width=1 if longest == 1 else min(self.config.context_length // 2, max(32, _power_of_two(longest))),
            branches=max(len(request.branches) for request in requests) if self.config.conditions else 1,
            candidates=min(MAX_CANDIDATES, self.spec.vocab_size) if few else self.spec.vocab_size,
            budget=_power_of_two(budget),
            counted=any(request.settings.polyphony for request in requests),
        )

    def _rows(self, count: int) -> int:
        """Rows for `count` requests: a power of two, and as many on each device."""
        return self._groups * _power_of_two(-(-count // self._groups))

    def _generate_batch(self, requests, bucket, progress) -> list[Result]:
        context = self.config.context_length
        padded = [*requests, *[requests[-1]] * (bucket.rows - len(requests))]
        window = np.full((bucket.rows, bucket.width), self.spec.pad, np.int32)
        first = np.zeros(bucket.rows, np.int32)
        seen = np.zeros((bucket.rows, self.spec.vocab_size), bool)
        for row, request in enumerate(padded):
            kept = np.append(self.spec.bos, request.prompt)[-bucket.width :]
            first[row] = bucket.width - len(kept)
            window[row, first[row] :] = kept
            seen[row, request.prompt] = True
        clock = self._clock(padded, bucket)
        plan = self._plan(padded, bucket, clock)
        state = DecodeState(
            cache=[],
            logits=jnp.zeros(0),
            window=jnp.asarray(window),
            index=jnp.int32(bucket.width),
            first=jnp.asarray(first),
            output=jnp.full((bucket.rows, bucket.budget), self.spec.pad, jnp.int32),
            count=jnp.int32(0),
            done=jnp.arange(bucket.rows) >= len(requests),
            seen=jnp.asarray(seen),
            clock=clock,
            heard=None,
        )
        state = jax.device_put(state, shardings(state, self.mesh))
        plan = jax.device_put(plan, sharding(self.mesh))
        whole = min(context, _power_of_two(bucket.width + bucket.budget))
        state = self._open_window(state, plan, bucket.width, max(min(SMALLEST_WINDOW, whole), 2 * bucket.width))
        count = 0
        while True:
            stop = min(count + STEPS_A_DISPATCH, bucket.budget) if count else 1  # the first one is waited for
            state = decode(
                self.graph, self.params, plan, state, jnp.int32(stop),
                grammar=self.grammar, candidates=bucket.candidates, pad=self.spec.pad, mesh=self.mesh,
            )  # fmt: skip
            clock = (state.clock.seconds, state.clock.bar)
            count, index, done, *clock = jax.device_get((state.count, state.index, state.done, *clock))
            progress(_share(count, *clock, done, plan, len(requests)))
            if done.all() or count >= bucket.budget:
                break
            if index == context:
                state = self._open_window(state, plan, context // 2, context)
            elif index == state.window.shape[1]:
                slots = min(2 * int(index), context)
                window = jnp.pad(state.window, ((0, 0), (0, slots - int(index))))
                grown = cache.grow(state.cache, slots + self.config.prefix_slots)
                state = state._replace(cache=grown, window=window)
        output, clock, begin = jax.device_get((state.output, state.clock, plan.limits.begin))
        output, seconds = output[: len(requests), : int(count)], np.maximum(constraints.end_seconds(clock) - begin, 0)
        return [Result(self._strip(ids), bucket, row, float(seconds[row])) for row, ids in enumerate(output)]

    def _clock(self, requests: Sequence[Request], bucket: Bucket) -> GrammarState:
        """The clocks after the prompts, with the limits of what is new."""
        clock = constraints.start(self.grammar, [request.prompt for request in requests], self.spec.pad)
        polyphony = [request.settings.polyphony or MAX_POLYPHONY + 1 for request in requests]
        asked = [request.programs is None or DRUMS in request.programs for request in requests]
        return clock._replace(
            ends=clock.ends if bucket.counted else clock.ends[:, :0],
            polyphony=jnp.asarray(polyphony, jnp.int32),
            drums=clock.drums & jnp.asarray(asked),
        )

    def _limits(self, requests: Sequence[Request], clock: GrammarState) -> Limits:
        begin = jnp.copy(clock.seconds)  # the original is donated with the state
        seconds = jnp.asarray([request.settings.seconds for request in requests], jnp.float32)
        bars = np.array([request.settings.bars or constraints.ENDLESS for request in requests], np.int32)
        begun = np.array([len(request.prompt) > 0 for request in requests])  # a bar that a prompt has begun is not new
        begin_bar = jnp.maximum(clock.bar, 0) + begun
        every = range(DRUMS + 1)
        programs = [every if request.programs is None else request.programs for request in requests]
        return Limits(
            begin=begin,
            end=begin + seconds,
            begin_bar=begin_bar,
            end_bar=begin_bar + bars,
            playable=jnp.asarray(np.stack([self.grammar.playable(each) for each in programs])),
        )

    def _plan(self, requests: Sequence[Request], bucket: Bucket, clock: GrammarState) -> Plan:
        """Arrays of a row a request."""

        def column(name: str, dtype) -> jax.Array:
            return jnp.asarray([getattr(request.settings, name) for request in requests], dtype)

        table = np.zeros((bucket.branches, len(requests)), np.float32)
        asked = [[{}] * bucket.branches for _ in requests]
        for row, request in enumerate(requests):
            branches = request.branches
            if len(branches) < bucket.branches:  # a row without guidance among others: its base counts for nothing
                branches = [({}, 0.0), *branches] if len(branches) == 1 else branches
            for branch, (values, scale) in enumerate(branches):
                asked[row][branch], table[branch, row] = values, scale
        conditions = {}
        for condition in self.config.conditions:
            null = condition.null()
            values = [values.get(condition.name, null) for branches in asked for values in branches]
            conditions[condition.name] = jnp.asarray(np.stack(values)[:, None])
        return Plan(
            controls=Controls(
                seed=column("seed", jnp.uint32),
                temperature=column("temperature", jnp.float32),
                top_k=column("top_k", jnp.int32),
                top_p=column("top_p", jnp.float32),
                min_p=column("min_p", jnp.float32),
                repetition_penalty=column("repetition_penalty", jnp.float32),
            ),
            scales=jnp.asarray(table[1:]),
            conditions=conditions,
            max_tokens=column("max_tokens", jnp.int32),
            limits=self._limits(requests, clock),
        )

    def _open_window(self, state: DecodeState, plan: Plan, keep: int, slots: int) -> DecodeState:
        """Makes the last `keep` tokens of the window the prompt of a new one."""
        used = int(state.index)
        prompt = state.window[:, used - keep : used]
        first = jnp.maximum(state.first - (used - keep), 0)
        filled, logits, heard = prefill(
            self.graph, self.params, plan.conditions, prompt, first, slots=slots, mesh=self.mesh
        )
        return state._replace(
            cache=filled,
            logits=logits,
            window=jnp.pad(prompt, ((0, 0), (0, slots - keep)), constant_values=self.spec.pad),
            index=jax.device_put(np.int32(keep), sharding(self.mesh)),
            first=first,
            heard=heard,
        )

    def _strip(self, ids: np.ndarray) -> np.ndarray:
        """A row of output up to its EOS, without what stands after it."""
        return ids[~np.isin(ids, (self.spec.eos, self.spec.pad))].astype(np.uint16)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _share(count, seconds, bar, done, plan: Plan, rows: int) -> float:
    """The share of the work done: that of the slowest row, by its clock or by its tokens, whichever is further."""
    limits, max_tokens = jax.device_get((plan.limits, plan.max_tokens))
    share = (seconds - limits.begin) / (limits.end - limits.begin)
    share = np.maximum(share, (bar - limits.begin_bar) / (limits.end_bar - limits.begin_bar))
    share = np.maximum(share, count / max_tokens)
    return float(np.min(np.where(done, 1, np.clip(share, 0, 1))[:rows]))
