import pytest

from amt_jax.evaluation.following import OTHER, judge
from amt_jax.music import instruments
from bench.arranged import BELOW, MELODY, TEMPOS, arrange
from bench.following import CHANCE, NONE, REAL, RIGHT, WRONG, table
from tests.music_files import tune


def notes(score):
    return [track.notes.numpy()[name].tolist() for track in score.tracks for name in ("time", "duration", "pitch")]


def test_the_highest_track_leads_and_a_third_of_the_pieces_stay_with_the_piano():
    pieces = [arrange(tune(0), f"0:{number}") for number in range(300)]
    assert {piece.tracks[0].program for piece in pieces} == set(MELODY.values())
    assert {piece.tracks[1].program for piece in pieces} == set(BELOW.values())
    alone = sum(instruments.labels(piece) == ["piano"] for piece in pieces) / 300
    # A third, and of the others one in 36 drew the piano twice.
    assert alone == pytest.approx(1 / 3 + 2 / 3 / 36, abs=0.08)
    swapped = tune(0)
    swapped.tracks = list(reversed(swapped.tracks))
    for number in range(10):
        again = arrange(swapped.copy(), f"0:{number}")
        assert [track.program for track in again.tracks][::-1] == [track.program for track in pieces[number].tracks]


def test_the_labels_are_those_of_the_programs():
    for label, program in (MELODY | BELOW).items():
        assert instruments.label(program) == label


def test_the_same_seed_arranges_alike_and_no_note_changes():
    first, second = arrange(tune(3), "7:a"), arrange(tune(3), "7:a")
    assert first.dumps_midi() == second.dumps_midi()
    assert notes(first) == notes(tune(3))


def test_a_tempo_is_drawn_only_where_none_is_marked():
    assert [change.qpm for change in arrange(tune(0, tempo=90), "x").tempos] == pytest.approx([90], abs=0.01)
    drawn = {round(arrange(tune(0), f"{number}").tempos[0].qpm) for number in range(50)}
    assert len(drawn) > 20
    assert TEMPOS[0] <= min(drawn)
    assert max(drawn) <= TEMPOS[1]


def test_one_track_is_not_arranged():
    score = tune(0)
    score.tracks.pop(1)
    assert arrange(score, "x") is None


def test_table():
    slow, fast = {"tempo": "slow"}, {"tempo": "fast"}
    shares = judge([slow, slow], {CHANCE: [[slow, fast]] * 2, REAL: [[slow]] * 2}, 0)["tempo"].shares
    as_json = {way: vars(share) for way, share in shares.items()}
    figure = {"value": 2.5, "low": 2.25, "high": 2.75}
    scored = dict.fromkeys(("nats_per_token", "saved_per_token", "saved_per_piece"), figure)
    text = table(
        {
            "about": {"seed": 0},
            "following": {"tempo": {"asked": 2, "shares": as_json}},
            "likelihood": dict.fromkeys((RIGHT, NONE, WRONG, OTHER), scored),
        }
    )
    lines = text.splitlines()
    assert "- seed: 0" in lines
    assert "| asked for | captions | chance | real music |" in lines
    assert "| tempo | 2 | 50 % [50, 50] | 100 % [100, 100] |" in lines
    assert f"| {NONE} | 2.500 [2.250, 2.750] |  |  |" in lines
    assert f"| {RIGHT} | 2.500 [2.250, 2.750] | 2.5000 [2.2500, 2.7500] | 2.5 [2.2, 2.8] |" in lines
