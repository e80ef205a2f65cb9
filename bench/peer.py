"""The other side of a comparison: a process that stays loaded and takes turns with us."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from amt_jax.errors import UserError


class Peer:
    """bench/peer_model.py, running under another Python that has torch and transformers."""

    def __init__(self, python: str, **setup: Any):
        if not Path(python).exists():
            raise UserError(f"no Python at {python!r}; `make bench` makes an environment with torch and transformers")
        script = Path(__file__).with_name("peer_model.py")
        # Passive waiting: threads that spin between two turns would slow the other side down.
        env = os.environ | {"OMP_WAIT_POLICY": "passive"}
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.about = self.ask(**setup)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise UserError("the peer process ended; its error stands above")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)


@contextlib.contextmanager
def open_peer(python: str, **setup: Any) -> Iterator[Peer | None]:
    """The other side, or nobody where `python` is "none"."""
    if python == "none":
        yield None
        return
    peer = Peer(python, **setup)
    yield peer
    peer.close()


def take_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round in range(rounds + 1):
        for name, run in sides.items():
            taken = run()
            if round:
                seconds[name].append(taken)
    return seconds


def compare(ours: Sequence[float], peer: Sequence[float] | None = None) -> dict[str, float]:
    """Medians of both, and the median of the rounds' ratios theirs / ours: above 1, we are faster."""
    if peer is None:
        return {"ours_seconds": statistics.median(ours)}
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    return {
        "ours_seconds": statistics.median(ours),
        "peer_seconds": statistics.median(peer),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def write_results(path: Path, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Prints a table of `rows` and writes everything as json."""
    names = list(rows[0])
    table = [[f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *table, strict=True)]
    for line in [names, *table]:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
    machine = {"machine": platform.machine(), "python": platform.python_version(), "cores": os.cpu_count()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": machine | about, "rows": rows}, indent=1) + "\n")
    print(f"written: {path}")
