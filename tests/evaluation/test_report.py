"""The report: three files, well formed, self-contained, honest about what is missing."""

import csv
import json
import math
import re

import numpy as np
import pytest
from symusic import Note, Score, Track

from amt_jax.evaluation.following import Followed
from amt_jax.evaluation.likelihood import Likelihood, TypeScore
from amt_jax.evaluation.metrics import METRICS, Comparison, Estimate, compare
from amt_jax.evaluation.report import NAMES, Piece, Report, training_curves, within_floor
from amt_jax.music.features import features
from amt_jax.music.render import piano_roll_png
from tests.html_page import Checker

MISSING = Estimate(math.nan, math.nan, math.nan)
LIKELIHOOD = Likelihood(
    pieces=3,
    tokens=1234,
    notes=300,
    frames=0,
    nats_per_token=Estimate(1.5, 1.4, 1.6),
    nats_per_note=Estimate(6.0, 5.0, 7.0),
    nats_per_frame=MISSING,
    perplexity=Estimate(4.5, 4.0, 5.0),
    bits_per_second=MISSING,
    accuracy=Estimate(0.51, 0.5, 0.52),
    types={"Pitch": TypeScore(300, 2.5, 0.25), "EOS": TypeScore(3, 4.0, 0.0)},
)


def make_piece(random, notes=32):
    score = Score(480)
    track = Track("", 0, False)
    for beat in range(notes):
        track.notes.append(Note(beat * 240, 240, int(random.integers(50, 80)), int(random.integers(40, 100))))
    score.tracks.append(track)
    return score


@pytest.fixture(scope="module")
def report():
    random = np.random.default_rng(0)
    scores = [make_piece(random) for _ in range(12)]
    sets = {"samples": [features(s) for s in scores[:4]], "real": [features(s) for s in scores[4:]]}
    sets["random"] = [features(Score(480))]
    return Report(
        about={"run": "runs/<b>odd & name</b>", "seed": 0},
        vocab_size=419,
        likelihoods={"composer given": LIKELIHOOD, "nothing given": LIKELIHOOD},
        sets=sets,
        comparisons=compare({"samples": sets["samples"], "random": sets["random"]}, sets["real"]),
        pieces=[
            Piece("a <piece>", piano_roll_png(scores[0]), "samples/a.mid", "samples/a.mp3"),
            Piece("b", b"", "", ""),
        ],
        history=[{"step": 1, "split": "train", "loss": 5.0}, {"step": 2, "split": "valid", "loss": 4.0}, {"step": 3}],
    )


def test_page_is_well_formed_and_self_contained(report, tmp_path):
    path = report.save(tmp_path / "new" / "folder")
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    outside = [r for r in checker.references if not r.startswith(("data:", "#"))]
    assert outside == ["samples/a.mid", "samples/a.mp3"]
    assert "<b>odd" not in text
    assert "a <piece>" in "".join(checker.texts)
    assert not re.search(r"\bnan\b", text)
    assert "<script" not in text
    assert "@import" not in text
    ids = re.findall(r'id="([^"]+)"', text)
    references = re.findall(r'(?:url\(|href=")#([^")]+)', text)
    assert set(references) <= set(ids)
    for metric in METRICS:
        assert metric.title in text
    assert text == report.to_html()  # no dates, no random ids of its own


def test_json_and_csv_say_the_same(report, tmp_path):
    report.save(tmp_path)
    data = json.loads((tmp_path / NAMES[0]).read_text(encoding="utf-8"))
    with open(tmp_path / NAMES[1], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert data["likelihood"]["composer given"]["bits_per_second"]["value"] is None
    assert data["likelihood"]["composer given"]["types"]["Pitch"]["nats"] == 2.5
    found = {(row["part"], row["metric"], row["set"], row["statistic"]): row for row in rows}
    assert found["likelihood", "nats_per_token", "composer given", "value"]["value"] == "1.5"
    assert found["likelihood", "bits_per_second", "composer given", "value"]["value"] == ""
    density = data["music"]["note_density"]
    assert float(found["music", "note_density", "samples", "mean"]["value"]) == density["means"]["samples"]["value"]
    assert float(found["music", "note_density", "real", "real to real"]["high"]) == density["floor"]["high"]
    assert data["music"]["groove_consistency"]["distances"]["random"]["value"] is None
    assert set(data["music"]) == {metric.name for metric in METRICS}


def test_parts_may_be_missing(tmp_path):
    empty = Report(about={}, vocab_size=2, likelihoods={}, sets={}, comparisons=[])
    checker = Checker()
    checker.feed(empty.save(tmp_path).read_text(encoding="utf-8"))
    assert not checker.open
    assert empty.summary() == []


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0 %"), (0.000004, "0.0004 %"), (0.00002, "0.002 %"), (0.05, "5.00 %"), (0.333, "33.3 %"), (1.0, "100 %")],
)
def test_small_shares_are_not_shown_as_none(share, shown):
    followed = {"tempo": Followed(9, {"told": Estimate(share, share, share)})}
    page = Report(about={}, vocab_size=2, likelihoods={}, sets={}, comparisons=[], following=followed).to_html()
    assert f"<td>{shown} <span" in page


def test_summary_speaks_of_the_main_figures(report):
    text = " ".join(report.summary())
    assert "1.50 nats a token" in text
    assert "blind guess has 419" in text
    assert "Samples: " in text
    assert "only 8 real pieces" in text


@pytest.mark.parametrize(
    ("metric", "value", "floor", "expected"),
    [
        ("note_density", 1.0, Estimate(0.5, 0.2, 1.2), True),
        ("note_density", 1.3, Estimate(0.5, 0.2, 1.2), False),
        ("pitch_class_similarity", 0.95, Estimate(0.97, 0.94, 0.99), True),
        ("pitch_class_similarity", 0.9, Estimate(0.97, 0.94, 0.99), False),
        ("note_density", math.nan, Estimate(0.5, 0.2, 1.2), None),
        ("note_density", 1.0, MISSING, None),
    ],
)
def test_within_floor(metric, value, floor, expected):
    found = Comparison(metric, {}, {}, {"samples": Estimate(value, value, value)}, floor)
    assert within_floor(found, "samples") is expected


def test_training_curves_skip_what_is_not_a_loss():
    history = [
        {"step": 1, "split": "train", "loss": 5.0, "type_loss": {}},
        {"step": 2, "split": "train", "loss": math.nan},
        {"step": 2, "split": "valid", "loss": 4.5},
        {"step": 3, "split": "else", "loss": 1.0},
    ]
    assert training_curves(history) == {"training": ([1], [5.0]), "validation": ([2], [4.5])}
