"""Generation speed of configs/remi_composer.py's decoder against `transformers.generate` with its cache.

The same sizes, prompt, number of new tokens and sampling (temperature 0.9, top-k 40, top-p 0.95) on both sides; ours
runs the whole sampler with its grammar. On a CPU in float32, or ours with --weights; on a GPU in bfloat16, and
transformers with its static cache and compiled step. Both stay loaded and take turns; compiling is shown apart. The
floor is the time that a GPU's memory needs to hand over weights and filled cache once a token.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path

from amt_jax.errors import run_command
from amt_jax.sampling.settings import WEIGHTS
from bench.models import SIZES
from bench.peer import compare, open_peer, take_turns, write_results
from bench.train_speed import threads


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.generate_speed", description=__doc__)
    parser.add_argument("--peer", default=".venv-peer/bin/python", help="Python with torch and transformers, or none")
    parser.add_argument("--batches", default="1,8", help="rows generated together (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=448, help="new tokens (default: %(default)s)")
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help="of our side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("bench/results/generate_speed.json"))
    args = parser.parse_args()

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs some of a GPU's memory
    import jax

    gpu = jax.default_backend() == "gpu"
    dtype = "bfloat16" if gpu else "float32"
    sizes, batches = SIZES["remi_composer"], [int(batch) for batch in args.batches.split(",")]
    generate = our_generator(args.prompt, args.tokens, dtype, max(batches), args.weights)
    sampling = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
    rows = []
    with open_peer(args.peer, kind="generation", threads=threads(), context=8192, **sizes) as peer:
        for batch in batches:
            first = generate(batch)
            ask = {"batch": batch, "prompt": args.prompt, "tokens": args.tokens, **sampling}
            sides = {"ours": lambda b=batch: generate(b)}
            sides |= {"peer": lambda a=ask: peer.ask(**a)["seconds"]} if peer else {}
            found = compare(**take_turns(sides, args.rounds))
            speed = batch * args.tokens / found["ours_seconds"]
            row = {"batch": batch, "tokens": args.tokens, "dtype": dtype, "weights": args.weights} | found
            row |= {"ours_tokens_s": speed, "compiling_s": first - found["ours_seconds"]}
            if gpu:
                floor = bytes_a_step(batch, args.prompt + args.tokens / 2, sizes) / copy_speed()
                row["floor_tokens_s"] = batch / floor
            rows.append(row)
        about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "peer": peer and peer.about}
    write_results(args.output, rows, about | {"rounds": args.rounds})


def bytes_a_step(batch: int, filled: float, sizes: dict[str, int]) -> float:
    """What a decoding step reads at least, in bfloat16: each kernel once, each row's keys and values."""
    from amt_jax.training.flops import kernel_sizes
    from bench.models import decoder

    kernels = kernel_sizes(decoder(**sizes))
    weights = kernels.pop("embedding") + sizes["num_layers"] * sum(kernels.values())
    return 2 * (weights + batch * filled * sizes["num_layers"] * 2 * sizes["d_model"])


def copy_speed() -> float:
    """Bytes a second that a copy of 4 GB reads and writes, the median of ten."""
    import statistics

    import jax
    import jax.numpy as jnp

    x = jnp.zeros(2**30, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    times = []
    for _ in range(13):
        begin = time.perf_counter()
        add(x).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * x.nbytes / statistics.median(times[3:])


def our_generator(prompt: int, tokens: int, dtype: str, max_batch: int, weights: str):
    """A function: rows -> the seconds of generating them all."""
    import numpy as np

    from amt_jax.sampling.request import Request
    from amt_jax.sampling.settings import GenerationSettings

    sampler = our_sampler(dtype, max_batch, weights)
    ids = np.full(prompt - 1, sampler.spec.ranges["Bar"][0], np.uint16)

    def run(batch: int) -> float:
        settings = [GenerationSettings(seed=seed, max_tokens=tokens, seconds=30_000) for seed in range(batch)]
        begin = time.perf_counter()
        results = list(sampler.generate([Request(each, prompt=ids) for each in settings]))
        assert all(len(result.ids) == tokens for result in results)
        return time.perf_counter() - begin

    return run


def our_sampler(dtype: str, max_batch: int, weights: str):
    """configs/remi_composer.py's decoder, untrained."""
    import jax

    from amt_jax.model.params import init_params
    from amt_jax.sampling.sampler import Sampler
    from amt_jax.tokens.grammar import Grammar
    from amt_jax.tokens.symbolic import SymbolicTokenizer
    from bench.models import decoder

    config = decoder(dtype=dtype, **SIZES["remi_composer"])
    tokenizer = SymbolicTokenizer.create("remi")
    params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    return Sampler(config, params, tokenizer.spec, grammar, max_batch=max_batch, weights=weights)


if __name__ == "__main__":
    run_command(main)
