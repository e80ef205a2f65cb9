import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest

from amt_jax.errors import UserError
from launch import chips
from launch.report import Figures, estimate

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler of the tpu extra: make test-heavy"
)


def run(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch.compile_check", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


@pytest.mark.heavy
@needs_compiler
def test_a_small_slice_is_compiled_for(tmp_path):
    done = run(
        "--config=demo", "--topology=v5e:2x2", "--config.mesh.fsdp=2", "--config.context=256",
        "--config.optimizer.name=adamw",  # the formula leaves out what an optimizer multiplies
        "--config.model.num_layers=1", "--config.accumulation=2", f"--output={tmp_path / 'report.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "memory a chip" in done.stdout
    assert "estimate, not measured" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert math.prod(report["mesh"].values()) == 4
    step, prefill, decode = report["programs"]
    assert step["kernels"] == dict.fromkeys(("splash_mha_dkv", "splash_mha_dq", "splash_mha_fwd"), 2)  # microbatches
    assert prefill["kernels"] == {"splash_mha_fwd": 1}
    assert decode["kernels"] == {}
    assert step["flops"] * 4 == pytest.approx(report["formula_flops"], rel=0.03)
    assert report["model_flops"] < report["formula_flops"]
    # Both halves of the kernels come together in each microbatch, and their gradients are cut in halves again.
    assert {"all-gather", "all-reduce"} <= set(step["collectives"])
    assert prefill["flops"] > decode["flops"] > 0
    assert decode["open_loops"] == 1  # until every piece has ended
    assert report["checkpoint"]["bytes"] == pytest.approx(12 * report["parameters"], rel=0.01)


@pytest.mark.heavy
@needs_compiler
def test_no_array_of_a_long_context_is_square(tmp_path):
    """Two layers of the 25 M preset at 8192; the largest array of all is smaller than one head's scores would be."""
    done = run(
        "--config=remi_composer", "--topology=v5e:2x2", "--config.model.num_layers=2",
        f"--output={tmp_path / 'report.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "attention: splash_mha_dkv 16 x, splash_mha_dq 16 x, splash_mha_fwd 32 x" in done.stdout  # remat
    report = json.loads((tmp_path / "report.json").read_text())
    step, prefill, _ = report["programs"]
    assert step["flops"] * 4 == pytest.approx(report["formula_flops"], rel=0.01)
    for program in (step, prefill):
        assert "8192,8192" not in program["largest"][0]
        assert program["largest"][1] < 8192**2 * 2


@pytest.mark.heavy
@needs_compiler
def test_what_is_computed_again_is_not_kept(tmp_path):
    memory = []
    # Of two layers and 2,048 tokens "none" keeps the least.
    for remat, forwards in (("none", 32), ("dots", 32), ("full", 64)):
        done = run(
            "--config=remi_composer", "--topology=v5e:2x2", "--config.model.num_layers=4",
            f"--config.model.remat={remat}", f"--output={tmp_path / 'report.json'}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / "report.json").read_text())
        step = report["programs"][0]
        assert step["kernels"] == {"splash_mha_dkv": 32, "splash_mha_dq": 32, "splash_mha_fwd": forwards}
        assert step["flops"] * 4 == pytest.approx(report["formula_flops"], rel=0.01)
        memory.append(step["temporaries"])
    assert memory == sorted(set(memory), reverse=True)


@pytest.mark.heavy
@needs_compiler
def test_what_does_not_fit_says_so():
    done = run("--config=demo", "--topology=v5e:2x2", "--config.mesh.fsdp=8")
    assert done.returncode == 2
    assert "but there are 4 devices" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_topology_names_its_neighbours():
    done = run("--config=demo", "--topology=v5e:4x5")
    assert done.returncode == 2
    assert "v5e:4x4" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_compiler_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'amt_jax\[tpu\]'"):
        chips.slice_devices("v5e:2x2")


def test_the_estimate_lies_between_full_and_no_overlap():
    program = Figures(
        "step", 0, 0, 0, 0, 0, 197e12, 819e9 / 2, {"all-reduce": (1, 100e9), "all-gather": (1, 100e9)},
        ("f32[2]", 8), {}, 0, 0,
    )  # fmt: skip
    found = estimate(program, "v5e:4x4")
    assert (found.compute, found.memory, found.interconnect) == (1, 0.5, 1)
    assert (found.fastest, found.slowest) == (1, 2.5)
