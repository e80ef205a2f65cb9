"""A training run from beginning to end, or from wherever it stopped."""

from __future__ import annotations

import dataclasses
import functools
import math
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from amt_jax.data.cache import open_dataset
from amt_jax.data.card import Card
from amt_jax.data.pipeline import Records, Rows, batches
from amt_jax.data.plan import EvalPlan, TrainPlan
from amt_jax.errors import UserError
from amt_jax.model.params import abstract_model, init_params
from amt_jax.training.checkpoint import Checkpoints
from amt_jax.training.config import TrainConfig, differences, transformer_config
from amt_jax.training.metrics import Metrics, add
from amt_jax.training.optimizer import learning_rate_schedule, make_optimizer
from amt_jax.training.run_folder import RunFolder
from amt_jax.training.sharding import make_mesh, parameter_shardings, put_batch, replicated
from amt_jax.training.step import Regularization, TrainState, eval_step, train_step

EXPLODED = 3  # times the first loss, or that of guessing: above it a run does not recover


def train(config: TrainConfig, run: RunFolder, *, allow_config_change: bool = False) -> None:
    """Trains, alone in its run folder; see `train_alone`."""
    with run.locked():
        train_alone(config, run, allow_config_change)


def train_alone(config: TrainConfig, run: RunFolder, allow_config_change: bool) -> None:
    """Trains until the config's length, Ctrl-C or SIGTERM; goes on where the run folder's last checkpoint is.

    Args:
      config: the run.
      run: its folder, made if there is none.
      allow_config_change: whether a run may go on with another config than it began with.
    """
    # --- Data: every process reads its share of each global batch.
    card, dataset = open_dataset(config.dataset, ("train", "valid"))
    records = Records(dataset, card, "train")
    plan = TrainPlan(records.lengths, config.context, config.seed)
    rows_source = Rows(records, plan, config.augmentation, config.seed)
    total_steps = config.steps or math.ceil(config.epochs * plan.rows_per_epoch / config.rows_per_step)
    share = {"process": jax.process_index(), "processes": jax.process_count()}
    validation = None
    if card.splits.get("valid") and card.splits["valid"].records:
        held_out = Records(dataset, card, "valid")
        validation = Rows(held_out, EvalPlan(held_out.lengths, config.context, config.context))

    # --- Network, optimizer and where they lie on the devices.
    model_config = transformer_config(config, card)
    mesh = make_mesh(config.mesh, config.batch_size)
    model = abstract_model(model_config)
    optimizer = make_optimizer(config.optimizer, total_steps)
    layout = state_layout(model, optimizer, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, layout)
    types = list(card.spec.ranges)
    step_function = jax.jit(
        functools.partial(
            train_step,
            graph=model.graph,
            optimizer=optimizer,
            type_ids=card.spec.type_ids(),
            num_types=len(types),
            seed=config.seed,
            accumulation=config.accumulation,
            regularization=Regularization(
                config.label_smoothing, config.token_dropout, card.spec.pad, model_config.conditions, dropout=True
            ),
        ),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    eval_function = jax.jit(
        functools.partial(eval_step, graph=model.graph, type_ids=card.spec.type_ids(), num_types=len(types)),
        out_shardings=replicated(mesh),
    )

    # --- Start: 1. this run's last checkpoint, 2. another run's weights, 3. fresh weights.
    resuming = has_checkpoint(run)
    if resuming:
        check_resumable(run, config, card, allow_config_change)
        run.write_config(config)
    else:
        run.create(config, card)
    checkpoints = Checkpoints(run.checkpoints_path, config.keep)
    if resuming:
        state, rows = checkpoints.restore(checkpoints.latest, layout)
    else:
        rows = 0
        key = jax.random.fold_in(jax.random.key(config.seed), 2**31)  # apart from every step's
        params = jax.jit(functools.partial(init_params, model_config), out_shardings=shardings.params)(key)
        if config.init:
            params = jax.device_put(transfer(RunFolder(config.init), config, card, params), shardings.params)
        state = TrainState(
            params,
            jax.jit(optimizer.init, out_shardings=shardings.optimizer)(params),
            jax.device_put(jnp.int32(0), shardings.step),
        )
    step = first_step = int(state.step)

    # --- Say what is about to happen.
    if mesh.size < jax.device_count():
        announce(
            f"note: {mesh.size} of {jax.device_count()} devices share a batch of {config.batch_size} evenly; "
            f"--config.batch_size={jax.device_count()} (or a multiple) uses all"
        )
    size = sum(x.size for x in jax.tree.leaves(model.shapes))
    unused = [name for name in card.conditions if name not in config.conditions]
    announce(
        f"{'resuming' if resuming else 'training'} {run.path} from step {step} to {total_steps}: "
        f"{size / 1e6:.1f} M parameters, {len(records)} pieces, {plan.targets} tokens an epoch, "
        f"{total_steps * config.rows_per_step / plan.rows_per_epoch:.1f} epochs, "
        f"{mesh.size} x {jax.devices()[0].device_kind}, {model_config.dtype}"
    )
    used = ", ".join(condition.name for condition in model_config.conditions) or "none"
    announce(f"conditions: {used}" + (f"; not used: {', '.join(unused)}" if unused else ""))
    if validation is None:
        announce("the dataset has no validation split: nothing is validated, the best checkpoint is the last")

    # --- Steps. The metrics of step i - 1 are read after step i is dispatched, so that the device never waits.
    schedule = learning_rate_schedule(config.optimizer, total_steps)
    log = Metrics(run, step, total_steps, types, config.log_every, config.rows_per_step * config.context, schedule)
    watch = Watch(math.log(model_config.vocab_size))
    iterator = iter(batches(rows_source, config.rows_per_step, start=rows, **share))
    saved, saved_at = step if resuming else None, time.monotonic()
    lowest = min(checkpoints.losses.values(), default=math.inf)
    unread = []  # (step, its metrics), at most one

    def read_metrics():
        while unread:
            number, sums = unread.pop()
            sums = jax.device_get(sums)
            problem = watch.problem(float(sums["loss"]) / max(float(sums["count"]), 1), float(sums["grad_norm"]))
            if problem:
                raise UserError(
                    f"{problem} at step {number}; {last_good(saved, run)}. Try a lower config.optimizer.learning_rate, "
                    f"a longer config.optimizer.warmup or a smaller config.optimizer.clip_norm, "
                    f"with --allow-config-change to go on from there or another --run to start again"
                )
            epoch = number * config.rows_per_step / plan.rows_per_epoch
            log.train(number, sums, round(epoch, 4))

    try:
        with Interruption() as interruption:
            while step < total_steps and not interruption.requested:
                batch = put_batch(next(iterator), mesh)
                state, sums = step_function(state, batch)
                read_metrics()
                step, rows, before = step + 1, rows + config.rows_per_step, rows
                unread.append((step, sums))

                last = step == total_steps
                ended_epoch = rows // plan.rows_per_epoch > before // plan.rows_per_epoch
                valid_loss = None
                if validation and (last or due(step, config.validate_every, ended_epoch)):
                    read_metrics()
                    found = validate(eval_function, state.params, validation, config.batch_size, mesh, share)
                    valid_loss = log.valid(step, found)
                old = config.save_minutes and time.monotonic() - saved_at > 60 * config.save_minutes
                better = valid_loss is not None and valid_loss < lowest
                if last or better or old or interruption.requested or due(step, config.save_every, ended_epoch):
                    read_metrics()  # raises before a bad state is saved
                    log.publish()  # first, so that no checkpoint is ahead of its metrics
                    checkpoints.save(state, rows, valid_loss)
                    lowest = valid_loss if better else lowest
                    saved, saved_at = step, time.monotonic()
            read_metrics()
            if step > first_step and saved != step:
                log.publish()
                checkpoints.save(state, rows)  # the signal came just after that step's own chance to save
            checkpoints.wait()
    finally:
        log.close()
        checkpoints.close()

    # --- Say where everything is.
    if step < total_steps:
        announce(
            f"stopped after step {step} of {total_steps}, saved; go on with: python -m amt_jax.train --run={run.path}"
        )
    else:
        announce(
            f"trained {step} steps: {run.path}; listen with: python -m amt_jax.generate --run={run.path} --output=DIR"
        )


def state_layout(model: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes and shardings of the whole state; the optimizer's moments lie as their parameters do."""
    shardings = parameter_shardings(mesh, model.axes, model.shapes)

    def placed(shape, sharding):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    whole = replicated(mesh)
    optimizer_state = optax.tree_utils.tree_map_params(
        optimizer,
        placed,
        jax.eval_shape(optimizer.init, model.shapes),
        shardings,
        transform_non_params=lambda shape: placed(shape, whole),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    return TrainState(jax.tree.map(placed, model.shapes, shardings), optimizer_state, step)


def validate(eval_function, params, rows: Rows, batch_size: int, mesh, share: Mapping[str, int]) -> dict[str, Any]:
    """Sums over the whole validation split, each token once; see step.sums."""
    total, unread = None, None
    for batch in batches(rows, batch_size, **share):
        found = eval_function(params, put_batch(batch, mesh))
        if unread is not None:
            total = add(total, unread)
        unread = found
    return add(total, unread)


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
    if run.card.spec != card.spec or any(
        run.card.conditions[name].values != card.conditions[name].values
        for name in config.conditions
        if name in run.card.conditions and name in card.conditions
    ):
        raise UserError(
            f"dataset {config.dataset} has other tokens or conditions than {run.path} was made with; "
            f"start a new run from its weights: --run=NEW --config.init={run.path}"
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


def transfer(source: RunFolder, config: TrainConfig, card: Card, fresh: Any) -> Any:
    """Another run's best weights for this dataset: conditions matched by the names of their values.

    Args:
      source: the run to start from; its vocabulary and network must be the same.
      config: of the new run.
      card: of the new run's dataset.
      fresh: initial parameters, kept for condition values that the source does not know.
    """
    if source.card.spec != card.spec:
        raise UserError(
            f"config.init={source.path} has the vocabulary {source.card.spec.name} of {source.card.spec.vocab_size} "
            f"ids, dataset {config.dataset} has {card.spec.name} of {card.spec.vocab_size}; "
            f"prepare the dataset with that run's tokenizer"
        )
    # These may differ: they do not change the shapes of weights or their meaning.
    same = {"dropout": 0.0, "remat": False, "dtype": ""}
    old, new = (dataclasses.asdict(dataclasses.replace(c.model, **same)) for c in (source.config, config))
    changes = [f"config.model.{name}: {old[name]!r} -> {new[name]!r}" for name in old if old[name] != new[name]]
    if changes:
        raise UserError(f"config.init={source.path} is another network ({'; '.join(changes)}); use its values")
    params = source.load_model("best")[1]
    # A network without conditions has no "conditioning" at all.
    tables, known = (tree.get("conditioning", {}).get("tables", {}) for tree in (params, fresh))
    if known:
        params["conditioning"] = {
            "tables": {
                name: _match(known[name], tables.get(name), card.conditions[name].values, source, name)
                for name in known
            }
        }
    else:
        params.pop("conditioning", None)
    return params


def _match(fresh: Any, old: Any, values: tuple[str, ...], source: RunFolder, name: str) -> np.ndarray:
    """The fresh table with the rows of null and of every value known to the old one put in. [ids, D]"""
    table = np.array(fresh)
    if old is not None:
        old = np.asarray(old)
        old_ids = {value: i + 1 for i, value in enumerate(source.card.conditions[name].values)}
        table[0] = old[0]
        for index, value in enumerate(values, start=1):
            if value in old_ids:
                table[index] = old[old_ids[value]]
    return table


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
        self.requested = False

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nfinishing this step and saving; Ctrl-C again to abort", file=sys.stderr, flush=True)


def announce(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
