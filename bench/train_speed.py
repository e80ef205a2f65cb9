"""Training speed of the decoder of configs/remi_composer.py, or of amt_86m, against the same decoder in PyTorch.

Both sides stay loaded and take turns: forward, backward, clipping, AdamW on the same sizes, dropout off. On a CPU both
compute in float32 and PyTorch runs eagerly, unless asked; on a GPU both compute in bfloat16 and PyTorch is compiled,
with its flash attention and fused AdamW. What counts is the median of the rounds' ratios. MFU is model FLOPs over what
a product of two 8192 x 8192 matrices reaches in the same run.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path

from amt_jax.errors import run_command
from bench.models import SIZES
from bench.peer import compare, open_peer, take_turns, write_results


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_speed", description=__doc__)
    parser.add_argument(
        "--peer", default=".venv-peer/bin/python", help="Python with torch, or none (default: %(default)s)"
    )
    parser.add_argument("--model", default="remi_composer", choices=SIZES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--pieces", type=int, default=1, help="packed in a row, on our side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1, help="steps a turn (default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of our side (default: by device)")
    parser.add_argument("--output", type=Path, default=Path("bench/results/train_speed.json"))
    args = parser.parse_args()

    from amt_jax.training.memory import keep_freed_memory

    keep_freed_memory()  # as the train command does
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs some of a GPU's memory
    import jax

    gpu = jax.default_backend() == "gpu"
    dtype = args.dtype or ("bfloat16" if gpu else "float32")
    ours, flops = our_steps(args.batch, args.length, args.model, args.pieces, dtype, args.steps)
    shape = {"batch": args.batch, "length": args.length}
    with open_peer(args.peer, kind="training", threads=threads(), **shape, **SIZES[args.model]) as peer:
        sides = {"ours": ours} | ({"peer": lambda: peer.ask(steps=args.steps)["seconds"]} if peer else {})
        found = compare(**take_turns(sides, args.rounds))
        memory = {"peer_gb": peer.ask(steps=1)["memory"] / 1e9} if peer and gpu else {}
        about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "peer": peer and peer.about}
    step = found["ours_seconds"] / args.steps
    row = {"model": args.model} | shape | {"pieces": args.pieces, "dtype": dtype} | found
    row |= {"ours_tokens_s": args.batch * args.length / step}
    if gpu:
        ceiling = matrix_product_flops()
        row |= {"ceiling_tflops": ceiling / 1e12, "ours_mfu": flops / step / ceiling}
        row |= {"ours_gb": jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9} | memory
    write_results(args.output, [row], about | {"rounds": args.rounds, "steps_a_turn": args.steps})


def threads() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def matrix_product_flops() -> float:
    """Floating-point operations a second of a large product in bfloat16, the median of ten."""
    import statistics

    import jax

    a, b = jax.random.normal(jax.random.key(0), (2, 8192, 8192), "bfloat16")
    product = jax.jit(lambda a, b: a @ b)
    times = []
    for _ in range(13):
        begin = time.perf_counter()
        for _ in range(10):
            out = product(a, b)
        out.block_until_ready()
        times.append((time.perf_counter() - begin) / 10)
    return 2 * 8192**3 / statistics.median(times[3:])


def our_steps(
    batch: int, length: int, model: str = "remi_composer", pieces: int = 1, dtype: str = "float32", steps: int = 1
):
    """A function that takes `steps` real train steps and returns its seconds; model FLOPs of one."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from amt_jax.model.params import abstract_model, init_params
    from amt_jax.parallel.attention import placement
    from amt_jax.parallel.mesh import one_device
    from amt_jax.training.flops import model_flops
    from amt_jax.training.optimizer import make_optimizer
    from amt_jax.training.step import Regularization, TrainState, train_step
    from bench.models import decoder, optimizer_config

    config = decoder(dtype=dtype, context_length=length, **SIZES[model])
    abstract = abstract_model(config)
    optimizer = make_optimizer(optimizer_config(), 1000)
    step = jax.jit(
        functools.partial(
            train_step, graph=abstract.graph, optimizer=optimizer, type_ids=np.zeros(config.vocab_size, np.int32),
            num_types=1, seed=0, accumulation=1, regularization=Regularization(label_smoothing=0.1),
            placement=placement(one_device()),
        ),
        donate_argnums=0,
    )  # fmt: skip

    @jax.jit
    def start():
        params = init_params(config, jax.random.key(0))
        return TrainState(params, optimizer.init(params), jnp.int32(0))

    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (batch, length + 1, 1)).astype(np.int32)
    each = length // pieces
    rows = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": np.tile(np.arange(length, dtype=np.int32) // each + 1, (batch, 1)),
        "lengths": np.full((batch, pieces), each, np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32) % each, (batch, 1)),
        "weights": np.ones((batch, length), np.float32),
        "conditions": {},
    }
    state, rows = start(), jax.device_put(rows)

    def run() -> float:
        nonlocal state
        begin = time.perf_counter()
        for _ in range(steps):
            state, found = step(state, rows)
        float(found["loss"])
        return time.perf_counter() - begin

    return run, model_flops(config, batch)


if __name__ == "__main__":
    run_command(main)
