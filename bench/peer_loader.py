"""The PyTorch side of bench.loader_speed: a torch DataLoader over memory-mapped shards of uint16 tokens.

Run under a Python that has torch. Reads one line of json, writes one: the seconds that its batches took.
"""

import bisect
import itertools
import json
import sys
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset):
    """All windows of `length` tokens of each shard, end to end, with their targets, the tokens one further."""

    def __init__(self, shards, length):
        self.shards, self.length = [np.memmap(path, np.uint16, "r") for path in shards], length
        self.ends = np.cumsum([(len(shard) - 1) // length for shard in self.shards]).tolist()

    def __len__(self):
        return self.ends[-1]

    def __getitem__(self, index):
        shard = bisect.bisect_right(self.ends, index)
        start = (index - (self.ends[shard - 1] if shard else 0)) * self.length
        window = torch.from_numpy(self.shards[shard][start : start + self.length + 1].astype(np.int64))
        return window[:-1], window[1:]


def main():
    command = json.loads(sys.stdin.readline())
    loader = DataLoader(
        Windows(command["shards"], command["length"]),
        batch_size=command["batch"],
        shuffle=True,
        drop_last=True,
        num_workers=command["workers"],
        persistent_workers=command["workers"] > 0,
    )
    batches = itertools.chain.from_iterable(loader for _ in itertools.count())
    for _ in range(command["warm"]):
        next(batches)
    start = time.perf_counter()
    for _ in range(command["batches"]):
        inputs, targets = next(batches)
    seconds = time.perf_counter() - start
    assert inputs.shape == targets.shape == (command["batch"], command["length"])
    print(json.dumps({"seconds": seconds, "version": torch.__version__}))


if __name__ == "__main__":
    main()
