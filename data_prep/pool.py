"""Pool: one function over many inputs in worker processes, where a hang or a crash costs one input only."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from amt_jax.errors import UserError

TIMED_OUT = "timed out"
CRASHED = "crashed"
# Inputs under way for each worker: enough that none waits for the parent, few enough to stop at once.
AHEAD = 8


class Failure(Exception):
    """The function gave no result for an input; `reason` is `TIMED_OUT` or `CRASHED`."""

    def __init__(self, reason: str, details: str):
        super().__init__(f"{reason}: {details}")
        self.reason, self.details = reason, details


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while files were worked on: `done` of `total` are safe in the journal."""

    def __init__(self, done: int, total: int):
        super().__init__()
        self.done, self.total = done, total


@contextlib.contextmanager
def progress(title: str, unit: str, total: int, done: int) -> Iterator[tqdm]:
    """A progress bar over `total` inputs of which some are `done` already; under it Ctrl-C is `Interrupted`."""
    with tqdm(total=total, initial=done, desc=title, unit=unit, smoothing=0.1) as bar:
        try:
            yield bar
        except KeyboardInterrupt:
            raise Interrupted(bar.n, bar.total) from None


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _interrupt_held() -> Iterator[None]:
    """Lets Ctrl-C wait for the end of the block: a worker that is half started cannot be stopped cleanly.

    Processes started in it never see Ctrl-C, which terminals send to all of them: the parent stops them.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # Where it starts later, it ends the blocking below.
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    # Blocked here for what is started here; the handler is for the process's other threads, which do not block it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def start_server(preload: list[str]) -> None:
    """Starts the process that workers are forked from: whoever calls `run_all` in threads does this before, outside."""
    context = _context(preload)
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        with _interrupt_held():
            forkserver.ensure_running()


def _context(preload: list[str]) -> multiprocessing.context.BaseContext:
    forked = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload(["pebble", *preload])
    return context


def run_all(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], workers: int, timeout: float, preload: list[str]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields (task, function(*task)) as they finish, in any order; a task without a result yields its Failure.

    Args:
      function: a module-level function; it, its arguments and results are pickled.
      tasks: argument tuples.
      workers: processes; none of them runs what the parent has imported.
      timeout: seconds after which a task's process is killed.
      preload: modules to import once, before the workers are forked off.

    Raises UserError if workers die while they do nothing.
    """
    from pebble import ProcessExpired, ProcessPool

    context = _context(preload)
    done, pending, tasks = queue.SimpleQueue(), {}, iter(tasks)
    pool = ProcessPool(workers, context=context)
    try:
        with _interrupt_held():
            pool.schedule(abs, (0,))
        while True:
            while len(pending) < AHEAD * workers and (task := next(tasks, None)) is not None:
                future = pool.schedule(function, task, timeout=timeout)
                pending[future] = task
                future.add_done_callback(done.put)
            if not pending:
                return
            future = done.get()
            task = pending.pop(future)
            try:
                result = future.result()
            except TimeoutError:
                result = Failure(TIMED_OUT, f"after {timeout:g} seconds")
            except BrokenProcessPool:
                raise UserError(
                    "the worker processes die; if memory is short, run the same command again with fewer --workers"
                ) from None
            except ProcessExpired as error:
                result = Failure(CRASHED, f"exit code {error.exitcode}")
            except Exception as error:  # MemoryError and the like: as good as a crash for this input.
                result = Failure(CRASHED, f"{type(error).__name__}: {error}"[:120])
            yield task, result
    finally:
        # Not close(): on an interrupt or an error nobody waits for the rest.
        pool.stop()
        pool.join()
