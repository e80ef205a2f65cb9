"""Generation speed of configs/remi_composer.py's decoder against `transformers.generate` with its cache.

The same sizes, prompt, number of new tokens and sampling (temperature 0.9, top-k 40, top-p 0.95) on both sides, in
float32; ours runs the whole sampler with its grammar. Both stay loaded and take turns; compiling is shown apart.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

from amt_jax.errors import run_command
from bench.peer import Peer, compare, take_turns, write_results
from bench.train_speed import SIZES, threads


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.generate_speed", description=__doc__)
    parser.add_argument("--peer", default=".venv-peer/bin/python", help="Python with torch and transformers")
    parser.add_argument("--batches", default="1,8", help="rows generated together (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=448, help="new tokens (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("bench/results/generate_speed.json"))
    args = parser.parse_args()

    import jax

    generate = our_generator(args.prompt, args.tokens)
    peer = Peer(args.peer, kind="generation", threads=threads(), context=8192, **SIZES)
    sampling = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
    rows = []
    for batch in map(int, args.batches.split(",")):
        first = generate(batch)
        ask = {"batch": batch, "prompt": args.prompt, "tokens": args.tokens, **sampling}
        sides = {"ours": lambda b=batch: generate(b), "peer": lambda a=ask: peer.ask(**a)["seconds"]}
        seconds = take_turns(sides, args.rounds)
        found = compare(seconds["ours"], seconds["peer"])
        speed = batch * args.tokens / found["ours_seconds"]
        compiling = first - found["ours_seconds"]
        rows.append(
            {"batch": batch, "tokens": args.tokens} | found | {"ours_tokens_s": speed, "compiling_s": compiling}
        )
    peer.close()
    write_results(args.output, rows, {"jax": jax.__version__, "peer": peer.about, "rounds": args.rounds})


def our_generator(prompt: int, tokens: int):
    """A function: rows -> the seconds of generating them all."""
    import jax
    import numpy as np

    from amt_jax.model.params import init_params
    from amt_jax.sampling.sampler import Request, Sampler
    from amt_jax.sampling.settings import GenerationSettings
    from amt_jax.tokens.grammar import Grammar
    from amt_jax.tokens.symbolic import SymbolicTokenizer
    from bench.models import decoder

    config = decoder(**SIZES)
    tokenizer = SymbolicTokenizer.create("remi")
    params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
    sampler = Sampler(config, params, tokenizer.spec, Grammar.create(tokenizer.spec, tokenizer.names))
    ids = np.full(prompt - 1, tokenizer.names.index("Bar_None"), np.uint16)

    def run(batch: int) -> float:
        settings = [GenerationSettings(seed=seed, max_tokens=tokens, seconds=30_000) for seed in range(batch)]
        begin = time.perf_counter()
        results = list(sampler.generate([Request(each, prompt=ids) for each in settings]))
        assert all(len(result.ids) == tokens for result in results)
        return time.perf_counter() - begin

    return run


if __name__ == "__main__":
    run_command(main)
