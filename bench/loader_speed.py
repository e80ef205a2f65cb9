"""Loading speed against a torch DataLoader, and against what training eats.

Both sides make batches of the same training split in random order: the DataLoader slices memory-mapped tokens, ours
reads records, keeps the pieces in a row apart and counts positions in them. Ours is measured with tokens alone, as the
DataLoader has them, and as configs/remi_modern.py trains: pieces transposed anew each epoch, their conditions told.
What training eats is bench.train_speed's step, in turns with both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from amt_jax.errors import UserError, run_command
from bench.models import SIZES
from bench.peer import compare, take_turns, write_results
from bench.train_speed import our_steps, threads

WARM = 20  # batches that are not counted: what was read ahead, and the start of the DataLoader's workers


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.loader_speed", description=__doc__)
    parser.add_argument("--dataset", default="demo/bench", help="dataset folder (default: %(default)s)")
    parser.add_argument("--peer", default=".venv-peer/bin/python", help="Python with torch (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batches", type=int, default=500, help="a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("bench/results/loader_speed.json"))
    args = parser.parse_args()
    if not Path(args.peer).exists():
        raise UserError(f"no Python at {args.peer!r}; `make bench` makes an environment with torch")

    from amt_jax.training.memory import keep_freed_memory

    keep_freed_memory()  # as the train command does
    import jax

    from amt_jax.data.card import Card
    from amt_jax.data.pipeline import Records

    records = Records(args.dataset, Card.load(args.dataset), "train")
    with tempfile.TemporaryDirectory() as folder:
        shard = write_tokens(records, Path(folder) / "tokens.bin")
        size = {"batch": args.batch, "length": args.length}
        asked = size | {"shards": [str(shard)], "warm": WARM, "batches": args.batches}
        peers = {workers: {} for workers in (0, threads())}

        def peer(workers: int) -> float:
            command = json.dumps(asked | {"workers": workers})
            script = Path(__file__).with_name("peer_loader.py")
            done = subprocess.run([args.peer, script], input=command, stdout=subprocess.PIPE, text=True, check=True)
            peers[workers] = json.loads(done.stdout)
            return peers[workers]["seconds"]

        ours = {name: our_loader(records, args, varied=name == "remi_modern") for name in ("tokens", "remi_modern")}
        sides = ours | {f"peer {workers}": lambda workers=workers: peer(workers) for workers in peers}
        step, _ = our_steps(args.batch, args.length, 1, "float32", 1, SIZES["remi_composer"])
        seconds = take_turns(sides | {"training": step}, args.rounds)
    tokens = args.batch * args.length
    training = statistics.median(seconds["training"]) / tokens
    rows = []
    for name in ours:
        for workers in peers:
            found = compare(seconds[name], seconds[f"peer {workers}"])
            ours_s, peer_s = (tokens * args.batches / found[f"{side}_seconds"] for side in ("ours", "peer"))
            row = size | {"ours": name, "peer_workers": workers, "ours_tokens_s": ours_s, "peer_tokens_s": peer_s}
            rows.append(row | {key: found[key] for key in ("ratio", "ratio_min", "ratio_max")})
            rows[-1] |= {"training_tokens_s": 1 / training, "times_training": ours_s * training}
    about = {"jax": jax.__version__, "peer": peers[0]["version"], "rounds": args.rounds, "batches": args.batches}
    about |= {"pieces": len(records), "tokens_a_piece": float(records.lengths.mean())}
    write_results(args.output, rows, about)


def write_tokens(records, path: Path) -> Path:
    """The tokens of all records end to end, BOS and EOS around each, as uint16."""
    import numpy as np

    spec = records.card.spec
    with open(path, "wb") as file:
        for index in range(len(records)):
            file.write(np.concatenate([[spec.bos], records[index].ids, [spec.eos]]).astype(np.uint16).tobytes())
    return path


def our_loader(records, args: argparse.Namespace, *, varied: bool):
    """A function that takes so many batches and returns their seconds."""
    from amt_jax.data.conditions import Conditions, open_conditions
    from amt_jax.data.pipeline import Rows, batches
    from amt_jax.data.plan import TrainPlan
    from amt_jax.train import load_config
    from amt_jax.training.config import TrainConfig, transformer_config

    plan, conditions, augmentation = TrainPlan(records.lengths, args.length, seed=0), Conditions({}, {}), None
    if varied:
        config = TrainConfig.from_json(load_config("remi_modern"))
        conditions = open_conditions(args.dataset, records.card, transformer_config(config, records.card))
        augmentation = config.augmentation
    iterator = iter(batches(Rows(records, plan, conditions, augmentation), args.batch))

    def run() -> float:
        for _ in range(WARM):
            next(iterator)
        begin = time.perf_counter()
        for _ in range(args.batches):
            next(iterator)
        return time.perf_counter() - begin

    return run


if __name__ == "__main__":
    run_command(main)
