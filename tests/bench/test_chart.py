import json
import struct

import pytest

from amt_jax.errors import UserError
from bench.chart import bars, main


def test_results_become_a_chart(tmp_path, monkeypatch):
    row = {"dtype": "float32", "ratio": 1.5, "ratio_min": 1.4, "ratio_max": 1.6}
    (tmp_path / "train_speed.json").write_text(json.dumps({"rows": [row]}))
    (bar,) = bars(tmp_path, "train_speed")
    assert (bar["label"], bar["peer"], bar["ratio"]) == ("training 25.4 M, float32", "PyTorch, float32", 1.5)
    picture = tmp_path / "docs" / "speed.png"
    monkeypatch.setattr("sys.argv", ["chart", f"--results={tmp_path}", f"--output={picture}"])
    main()
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert width > height > 100


def test_without_results_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["chart", f"--results={tmp_path}"])
    with pytest.raises(UserError, match=r"no results in .*; make bench writes them"):
        main()
