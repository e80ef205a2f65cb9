"""The house: who may know whom (CONTRIBUTING.md, "How the code lies")."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_USE = {
    "tokens": set(),
    "music": {"tokens"},
    "text": {"music", "pretrained"},
    "model": set(),
    "data": {"tokens"},
    "pretrained": set(),
    "parallel": {"model"},
    "training": {"tokens", "data", "model", "parallel"},
    "sampling": {"tokens", "music", "text", "data", "model", "parallel", "training"},
    "evaluation": {"tokens", "music", "text", "data", "model", "parallel", "training", "sampling"},
}


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", MAY_USE)
def test_arrows_point_down_only(room):
    for path in (ROOT / "amt_jax" / room).glob("*.py"):
        for name in imported(path):
            package, _, rest = name.partition(".")
            neighbour = rest.split(".")[0]
            if package == "amt_jax" and neighbour not in ("errors", "storage", "__version__", room):
                assert neighbour in MAY_USE[room], f"{path} imports {name}"
            assert package not in ("data_prep", "configs", "bench", "torch", "tensorflow", "apache_beam"), name
            if room in ("tokens", "music"):
                assert package not in ("jax", "flax"), f"{path} imports {name}"
            if room == "data":
                assert package not in ("jax", "flax"), f"{path} imports {name}"
