"""The tables of likelihoods; training itself is tested elsewhere."""

import json

import numpy as np
import pytest

from amt_jax.errors import UserError
from bench.ablations import difference
from bench.ablations import table as choices
from bench.literature import main, speeds, table


def model(seed, nats, without=None):
    """What measure finds of one model."""
    scores = {"frames": {"nats_per_frame": {"value": nats, "low": nats - 0.2, "high": nats + 0.2}}}
    if without:
        scores["frames, leaks left out"] = {"nats_per_frame": {"value": without, "low": 0, "high": 9}}
    return {"seed": seed, "steps": 10, "minutes": 2.0, "scores": scores}


def test_the_table_has_mean_spread_and_published_figures():
    sets = {"jsb": [model(0, 4.3, 4.6), model(1, 4.5, 4.8)], "piano_midi": [model(0, 6.1)]}
    found = table({"about": {"split": "valid"}, "sets": sets})
    row = next(line for line in found.splitlines() if line.startswith("| jsb"))
    assert "RNN-NADE 5.56 | 4.400 (4.300 to 4.500, 2 seeds) | 4.700 | [4.20, 4.60] | 2 |" in row
    assert "| piano_midi | RNN-NADE 7.05 | 6.100 (6.100 to 6.100, 1 seed) |  |" in found


def test_the_speed_of_a_run_is_in_steps_a_second(tmp_path):
    config = {"context": 10, "batch_size": 2, "accumulation": 3}
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    lines = [{"split": "train", "tokens_per_second": 120.0}, {"split": "valid", "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert speeds(tmp_path) == [2.0]


def test_a_set_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["literature", f"--rolls={tmp_path}", "--minutes=1", "--sets", "jsb"])
    with pytest.raises(UserError, match=r"no jsb\.json in"):
        main()


def test_choices_are_compared_piece_by_piece():
    random = np.random.default_rng(0)
    frames = random.integers(20, 60, 40)
    hard = random.uniform(2, 8, 40) * frames  # pieces differ far more than models
    one, other = (np.stack([hard + better * frames, frames], axis=1) for better in (0.1, 0.0))
    lost = difference(one, other)
    assert lost.value == pytest.approx(0.1)
    assert 0.09 < lost.low <= lost.high < 0.11
    found = choices({"about": {"set": "jsb", "steps": 9}, "pieces": {"all": other.tolist(), "less": one.tolist()}})
    assert "| +0.100 [+0.100, +0.100] |" in found
