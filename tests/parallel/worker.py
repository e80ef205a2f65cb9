"""One of several processes, started by test_peers.py: joins the others and does what it is told."""

import os
import sys
import time

from amt_jax.errors import UserError, run_command
from amt_jax.parallel import peers
from amt_jax.parallel.peers import connect


def main() -> None:
    what, timeout = sys.argv[1], float(sys.argv[2])
    if what == "freeze":
        peers.HEARTBEAT = 5
    with connect(timeout=timeout):
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        last = jax.process_index() == jax.process_count() - 1
        sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), PartitionSpec("d"))
        ones = jax.make_array_from_callback((jax.device_count(),), sharding, lambda index: np.ones(1, np.float32))
        total = jax.jit(jnp.sum)
        print(f"devices {float(total(ones))}\n", end="", flush=True)  # in one piece: others write here too
        if what == "agree":
            from amt_jax.parallel.processes import agree

            agree("no shard-00002 here; copy it" if last else "")
        if what == "user-error" and last:
            raise UserError("the disk is full; free some space")
        if what == "user-error":
            time.sleep(0.3)
            print("said when the other had failed already\n", end="", flush=True)
        if what == "bug" and last:
            raise ValueError("boom")
        while what != "nothing":
            if what in ("idle", "freeze"):
                time.sleep(0.1)  # between steps: in no collective
            elif what == "barrier" and last:
                time.sleep(1000)
            else:
                total(ones).block_until_ready()
        print("done\n", end="", flush=True)


if __name__ == "__main__":
    print(f"pid {os.getpid()}\n", end="", flush=True)
    run_command(main)
