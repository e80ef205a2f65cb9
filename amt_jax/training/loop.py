"""A training run from beginning to end, or from wherever it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from amt_jax import storage
from amt_jax.data.cache import open_dataset
from amt_jax.data.card import Card
from amt_jax.data.conditions import SEMANTIC, TEXT, open_conditions
from amt_jax.data.pipeline import Records, Rows, batches
from amt_jax.data.plan import EvalPlan, TrainPlan
from amt_jax.errors import UserError
from amt_jax.parallel.mesh import local_rows, make_mesh, put_batch
from amt_jax.parallel.processes import check_same, is_first, put_wishes, together
from amt_jax.training import profile
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.config import TrainConfig, differences, transformer_config
from amt_jax.training.lengths import cut, length_at, phases
from amt_jax.training.metrics import Metrics, add
from amt_jax.training.optimizer import learning_rate_schedule
from amt_jax.training.program import WISHES, Program, compile_step, make_program
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.step import Validated
from amt_jax.training.summary import size_of, summary, weak_spots
from amt_jax.training.transfer import transfer

WARM_STEPS, TRACED_STEPS = 2, 5  # with --profile: steps before the trace, and in it
EXPLODED = 3  # times the first loss, or that of guessing: above it a run does not recover


def train(config: TrainConfig, run: RunFolder, *, allow_config_change: bool = False, profiled: bool = False) -> bool:
    """Trains, alone in its run folder; see `train_alone`."""
    with contextlib.ExitStack() as stack:
        with together():
            stack.enter_context(run.locked())
        return train_alone(config, run, allow_config_change, profiled)


def train_alone(config: TrainConfig, run: RunFolder, allow_config_change: bool, profiled: bool) -> bool:
    """Trains until the config's length, Ctrl-C or SIGTERM; goes on where the run folder's last checkpoint is.

    Every process of the run calls it with the same arguments.

    Args:
      config: the run.
      run: its folder, made if there is none.
      allow_config_change: whether a run may go on with another config than it began with.
      profiled: whether to trace a few steps, and to tell what they spent their time on.

    Returns whether it is over: trained to the end, or stopped by the Ctrl-C of a person. A SIGTERM comes from a cluster
    that takes its machines back, which has to know that there is more to do.
    """
    # --- Data: every process reads its rows of each global batch.
    with together():
        card, dataset = open_dataset(config.dataset, ("train", "valid"))
        records = Records(dataset, card, "train")
        plan = TrainPlan(records.lengths, config.context, config.seed)
        none = config.conditions.keys().isdisjoint(card.conditions)
        if none and SEMANTIC in config.conditions and TEXT in card.conditions:
            raise UserError(
                f"the config is led by semantic tokens, which {config.dataset} has none of yet; make them: "
                f"python -m data_prep.cluster --dataset={config.dataset}"
            )
        model_config = transformer_config(config, card)
        conditions = open_conditions(dataset, card, model_config)
        rows_source = Rows(records, plan, conditions, config.augmentation, config.seed)
        validation = None
        if card.splits.get("valid") and card.splits["valid"].records:
            held_out = Records(dataset, card, "valid")
            validation = Rows(held_out, EvalPlan(held_out.lengths, config.context, config.context), conditions)
        resuming = has_checkpoint(run)
        if resuming:
            check_resumable(run, config, card, allow_config_change)
    check_same("config", dataclasses.replace(config, dataset="", init=""))  # paths may differ
    check_same("dataset", (card.spec, card.splits, card.conditions))
    total_steps = config.steps or math.ceil(config.epochs * plan.rows_per_epoch / config.rows_per_step)

    # --- Network, optimizer and where they lie on the devices.
    mesh = make_mesh(config.mesh, config.batch_size, model_config)
    program = make_program(config, model_config, card.spec, mesh, total_steps)
    lengths = phases(config.lengths, config.context, total_steps)
    for length, _ in lengths:
        if length % mesh.shape["sequence"]:
            raise UserError(
                f"the mesh's sequence = {mesh.shape['sequence']} does not divide {length} of config.lengths; "
                f"a multiple of {mesh.shape['sequence']} would do there"
            )

    # --- The run folder: the first process writes it, all must see it.
    with together():
        if is_first() and resuming:
            run.write_config(config)
        elif is_first():
            run.create(config, card)
    with together():
        if not run.exists():
            raise UserError(f"does not see {run.path}, which process 0 made: all hosts need one shared folder for runs")

    # --- Start: 1. this run's last checkpoint, 2. another run's weights, 3. fresh weights.
    checkpoints = Checkpoints(run.checkpoints_path, config.keep)
    if resuming:
        state, rows = checkpoints.restore(checkpoints.latest, program.layout)
    else:
        rows = 0
        params = program.init_params(jax.random.fold_in(jax.random.key(config.seed), 2**31))  # apart from every step's
        if config.init:
            with together():
                found = transfer(RunFolder(config.init), config, card, params)
            params = jax.device_put(found, jax.tree.map(lambda x: x.sharding, params))
        state = program.init_state(params)
    step = int(state.step)

    # --- Say what is about to happen, and compile it.
    unused = [name for name in card.conditions if name not in config.conditions]
    lacking = [name for name in config.conditions if name not in card.conditions]
    announce(
        f"{'resuming' if resuming else 'training'} {run.path} from step {step} to {total_steps}: "
        f"{len(records)} pieces, {plan.targets} tokens an epoch, "
        f"{total_steps * config.rows_per_step / plan.rows_per_epoch:.1f} epochs"
    )
    for line in (*summary(program, config, model_config), *weak_spots(program, config)):
        announce(line)
    ways = ", ".join(f"{each.name} ({each.way})" for each in model_config.conditions)
    others = {"not used": unused, "not in the dataset": lacking}
    # Only to those who train for words: the others name all conditions that there may be.
    if TEXT not in card.conditions and set(config.conditions) - {"composer"} in ({TEXT}, {SEMANTIC}, {TEXT, SEMANTIC}):
        announce(
            "words will not be heard: no captions of the dataset are encoded; data_prep.describe makes some and "
            "data_prep.encode encodes them (README, Words)"
        )
    announce("; ".join([f"conditions: {ways or 'none'}", *(f"{k}: {', '.join(v)}" for k, v in others.items() if v)]))
    if validation is None:
        announce("the dataset has no validation split: nothing is validated or calibrated, best is the last checkpoint")
    if config.lengths:
        announce("rows are cut: " + ", then ".join(f"{length} tokens up to step {stop}" for length, stop in lengths))

    @functools.lru_cache(maxsize=1)
    def step_function(length: int) -> jax.stages.Compiled:
        """The step for rows cut to `length`, compiled when its phase begins."""
        begin, rows = time.monotonic(), config.rows_per_step * config.context // length
        compiled = compile_step(
            program, dataclasses.replace(model_config, context_length=length), rows, plan.max_segments
        )
        needs = compiled.memory_analysis()
        announce(
            f"compiled for rows of {length} in {time.monotonic() - begin:.0f} s; in a step a device holds "
            f"{size_of(needs.argument_size_in_bytes)} and works in {size_of(needs.temp_size_in_bytes)} more"
        )
        return compiled

    step_function(length_at(lengths, step))

    # --- Steps. The metrics of step i - 1 are read after step i is dispatched, so that the device never waits.
    schedule = learning_rate_schedule(config.optimizer, total_steps)
    types = list(card.spec.ranges)
    log = Metrics(run, step, total_steps, types, config.log_every, config.rows_per_step * config.context, schedule)
    watch = Watch(math.log(model_config.vocab_size))
    slots = local_rows(mesh, config.rows_per_step)
    iterator = iter(batches(rows_source, config.rows_per_step, start=rows, slots=slots))
    saved, saved_at = step if resuming else None, time.monotonic()
    lowest = min((each.valid_loss for each in checkpoints.validated.values()), default=math.inf)
    unread = []  # (step, its metrics, what any process wished), at most one
    heard = [False] * WISHES  # what was wished in the steps read since the loop last looked
    # A stop may have come in the middle of the validation that was due after the last checkpoint's step.
    ended_epoch = rows // plan.rows_per_epoch > (rows - config.rows_per_step) // plan.rows_per_epoch
    was_due = step == total_steps or due(step, config.validate_every, ended_epoch)
    missed = validation and resuming and was_due and step not in checkpoints.validated
    first_traced = step + WARM_STEPS
    tracing = contextlib.ExitStack()  # holds the trace while there is one

    def read_metrics() -> None:
        """Reads the step that was not read yet, if any."""
        if not unread:
            return
        number, sums, wished = jax.device_get(unread.pop())
        problem = watch.problem(float(sums["loss"]) / max(float(sums["count"]), 1), float(sums["grad_norm"]))
        if problem:
            raise UserError(
                f"{problem} at step {number}; {last_good(saved, run)}. Try a lower config.optimizer.learning_rate, "
                f"a longer config.optimizer.warmup or a smaller config.optimizer.clip_norm, "
                f"with --allow-config-change to go on from there or another --run to start again"
            )
        log.train(number, sums, round(number * config.rows_per_step / plan.rows_per_epoch, 4))
        heard[:] = (wished | heard).tolist()

    try:
        with Interruption() as interruption, tracing:
            stop = False

            def wishes(save: bool = False) -> jax.Array:
                return put_wishes([interruption.requested, save], mesh)

            def validate_now() -> Validated | None:
                """What a validation found, told and logged; None if it was stopped in the middle."""
                found = validate(program, state.eval_params, validation, config.batch_size, wishes)
                return None if found is None else log.valid(step, found)

            if missed:
                validated = validate_now()
                stop = validated is None
                if not stop and validated.valid_loss < lowest:
                    lowest = validated.valid_loss
                    checkpoints.save(state, rows, validated)
            while step < total_steps and not stop:
                if profiled and is_first() and step in (first_traced, first_traced + TRACED_STEPS):
                    read_metrics()  # waits for the step before
                    tracing.close()
                    if step == first_traced:
                        tracing.enter_context(traced(run))
                length = length_at(lengths, step)
                old = config.save_minutes and time.monotonic() - saved_at > 60 * config.save_minutes
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    rows_here = config.rows_per_step * config.context // length
                    batch = put_batch(cut(next(iterator), length), mesh, rows_here)
                    state, sums, wished = step_function(length)(state, batch, wishes(bool(old)))
                read_metrics()
                # Several processes hear of a wish one step later, all in the same one; a process alone need not wait.
                stop, save = heard if jax.process_count() > 1 else [interruption.requested, old]
                heard[:] = [False] * WISHES
                step, rows, before = step + 1, rows + config.rows_per_step, rows
                unread.append((step, sums, wished))

                last = step == total_steps
                ended_epoch = rows // plan.rows_per_epoch > before // plan.rows_per_epoch
                validated = None
                if validation and not stop and (last or due(step, config.validate_every, ended_epoch)):
                    read_metrics()
                    tracing.close()
                    validated = validate_now()
                    stop = validated is None
                better = validated is not None and validated.valid_loss < lowest
                if last or better or save or stop or due(step, config.save_every, ended_epoch):
                    read_metrics()  # raises before a bad state is saved
                    log.publish()  # first, so that no checkpoint is ahead of its metrics
                    checkpoints.save(state, rows, validated)
                    lowest = validated.valid_loss if better else lowest
                    saved, saved_at = step, time.monotonic()
            read_metrics()
            tracing.close()
            if profiled and step <= first_traced:
                announce(f"nothing was traced: the first {WARM_STEPS} steps are not, and there were no more")
            checkpoints.wait()
    finally:
        log.close()
        checkpoints.close()

    # --- Say where everything is.
    if complete := step == total_steps and not stop:
        announce(
            f"trained {step} steps: {run.path}; listen with: python -m amt_jax.generate --run={run.path} --output=DIR"
        )
    else:
        announce(
            f"stopped after step {step} of {total_steps}, saved; go on with: python -m amt_jax.train --run={run.path}"
        )
    return complete or interruption.by_hand


@contextlib.contextmanager
def traced(run: RunFolder) -> Iterator[None]:
    """Traces what runs meanwhile into the run folder and tells what it cost."""
    with tempfile.TemporaryDirectory() if storage.is_remote(run.path) else contextlib.nullcontext() as here:
        folder = Path(here) if here else run.profile_path
        with profile.trace(folder):
            yield
        for line in profile.costs(folder).lines():
            announce(line)
        if here:
            storage.upload(folder, run.profile_path)
    announce(f"trace: {run.profile_path}; look at it with xprof, TensorBoard or (.json.gz) https://ui.perfetto.dev")


def validate(
    program: Program, params: Any, rows: Rows, batch_size: int, wishes: Callable[[], jax.Array]
) -> dict[str, Any] | None:
    """Sums over the whole validation split, each token once (see step.sums); None if any process wishes to stop."""
    total, unread = None, None
    for batch in batches(rows, batch_size, slots=local_rows(program.mesh, batch_size)):
        found = program.evaluate(params, put_batch(batch, program.mesh, batch_size), wishes())
        if unread is not None:
            sums, (stop, _) = jax.device_get(unread)
            if stop:
                return None
            total = add(total, sums)
        unread = found
    return add(total, jax.device_get(unread[0]))


def due(step: int, every: int, ended_epoch: bool) -> bool:
    """Whether a thing done every `every` steps, or at the end of epochs if 0, is to be done after `step`."""
    return step % every == 0 if every else ended_epoch


def has_checkpoint(run: RunFolder) -> bool:
    if not run.exists() or not run.checkpoints_path.exists():
        return False
    checkpoints = Checkpoints(run.checkpoints_path)
    try:
        return checkpoints.latest is not None
    finally:
        checkpoints.close()


def check_resumable(run: RunFolder, config: TrainConfig, card: Card, allowed: bool) -> None:
    """Raises UserError if the run began with another vocabulary, or another config or data and that is not allowed."""

    def told(config: TrainConfig, card: Card) -> dict[str, tuple]:
        return {name: card.conditions[name].meaning for name in config.conditions if name in card.conditions}

    if run.card.spec != card.spec or told(run.config, run.card) != told(config, card):
        raise UserError(
            f"dataset {config.dataset} has other tokens or conditions than {run.path} was made with; "
            f"start a new run from its weights: --run=NEW --config.init={run.path}"
        )
    if config.calibrate != run.config.calibrate:
        raise UserError(
            f"{run.path} was begun with config.calibrate={run.config.calibrate}, and losses with and without do not "
            f"compare; repeat that or start a new run from its weights: --run=NEW --config.init={run.path}"
        )
    if bool(config.ema) != bool(run.config.ema):
        raise UserError(
            f"{run.path} was begun with config.ema={run.config.ema}; an average is kept from the first step or not at "
            f"all, so repeat that or start a new run from its weights: --run=NEW --config.init={run.path}"
        )
    changes = differences(run.config, config)
    for name in ("train", "valid"):
        old, new = (c.splits[name].content[:12] if name in c.splits else "none" for c in (run.card, card))
        if old != new:
            changes.append(f"content of the {name} split: {old} -> {new}")
    if changes and not allowed:
        raise UserError(
            f"{run.path} was begun with another config ({'; '.join(changes)}); "
            f"repeat its config, add --allow-config-change, or name another --run"
        )


class Watch:
    """Tells when a run is beyond help."""

    def __init__(self, guessing: float):
        """Takes the loss of guessing, in nats."""
        self._limit, self._guessing = None, guessing

    def problem(self, loss: float, grad_norm: float) -> str:
        """What is wrong with a step, or nothing."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return f"the loss became {loss} (gradient norm {grad_norm})"
        self._limit = self._limit or EXPLODED * max(loss, self._guessing)
        return f"the loss exploded to {loss:.3g}" if loss > self._limit else ""


def last_good(saved: int | None, run: RunFolder) -> str:
    return f"the last good checkpoint is that of step {saved} in {run.path}" if saved else "no checkpoint was saved yet"


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop; a second Ctrl-C aborts."""

    def __init__(self):
        self.requested = self.by_hand = False

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        self.requested = True
        self.by_hand = number == signal.SIGINT
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nfinishing this step and saving; Ctrl-C again to abort", file=sys.stderr, flush=True)


def announce(text: str) -> None:
    if is_first():
        tqdm.write(text, file=sys.stdout)  # beside a progress bar, if there is one
        sys.stdout.flush()
