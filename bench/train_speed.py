"""Training speed of configs/remi_composer.py's decoder (25.4 M parameters) against the same decoder in plain PyTorch.

Both sides stay loaded and take turns, one step each: forward, backward, clipping, AdamW on the same sizes, dropout off,
no compilation on the PyTorch side unless asked. What counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

from amt_jax.errors import run_command
from bench.peer import Peer, compare, take_turns, write_results

SIZES = {"vocab_size": 419, "num_layers": 8, "num_heads": 8, "d_model": 512, "d_ff": 2048}


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_speed", description=__doc__)
    parser.add_argument("--peer", default=".venv-peer/bin/python", help="Python with torch (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of our side")
    parser.add_argument("--output", type=Path, default=Path("bench/results/train_speed.json"))
    args = parser.parse_args()

    from amt_jax.training.memory import keep_freed_memory

    keep_freed_memory()  # as the train command does
    import jax

    step = our_step(args.batch, args.length, args.dtype)
    shape = {"batch": args.batch, "length": args.length}
    peer = Peer(args.peer, kind="training", threads=threads(), **shape, **SIZES)
    seconds = take_turns({"ours": step, "peer": lambda: peer.ask(steps=1)["seconds"]}, args.rounds)
    peer.close()
    found = compare(seconds["ours"], seconds["peer"])
    row = shape | {"dtype": args.dtype} | found | {"ours_tokens_s": args.batch * args.length / found["ours_seconds"]}
    write_results(args.output, [row], {"jax": jax.__version__, "peer": peer.about, "rounds": args.rounds})


def threads() -> int:
    """The cores this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def our_step(batch: int, length: int, dtype: str):
    """A function that takes one real train step and returns its seconds."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from amt_jax.model.params import abstract_model, init_params
    from amt_jax.training.optimizer import make_optimizer
    from amt_jax.training.step import Regularization, TrainState, train_step
    from bench.models import decoder, optimizer_config

    config = decoder(dtype=dtype, context_length=length, **SIZES)
    model = abstract_model(config)
    optimizer = make_optimizer(optimizer_config(), 1000)
    step = jax.jit(
        functools.partial(
            train_step, graph=model.graph, optimizer=optimizer, type_ids=np.zeros(config.vocab_size, np.int32),
            num_types=1, seed=0, accumulation=1, regularization=Regularization(label_smoothing=0.1),
        ),
        donate_argnums=0,
    )  # fmt: skip

    @jax.jit
    def start():
        params = init_params(config, jax.random.key(0))
        return TrainState(params, optimizer.init(params), jnp.int32(0))

    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (batch, length + 1, 1)).astype(np.int32)
    rows = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": np.ones((batch, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
        "weights": np.ones((batch, length), np.float32),
        "conditions": {},
    }
    state = start()

    def run() -> float:
        nonlocal state
        begin = time.perf_counter()
        state, found = step(state, rows)
        float(found["loss"])
        return time.perf_counter() - begin

    return run


if __name__ == "__main__":
    run_command(main)
