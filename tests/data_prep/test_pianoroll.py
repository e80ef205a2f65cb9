"""A file of piano-rolls becomes a dataset folder as it is, and what is wrong in one is named."""

import json

import pytest

from amt_jax.data.card import Card
from amt_jax.data.pipeline import Records
from amt_jax.errors import run_command
from amt_jax.tokens.tokenizer import load
from data_prep import pianoroll

ROLLS = {
    "train": [[[60, 64], [60], []], [[21, 108]], [[60, 64], [60], []]],
    "valid": [[[], [61]], [[21, 108]]],
    "test": [[[50]]],
}


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """A function: what the file holds, flags -> exit code, what was printed, the dataset's folder."""

    def run(rolls, *flags):
        path = tmp_path / "rolls.json"
        path.write_text(rolls if isinstance(rolls, str) else json.dumps(rolls), encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["pianoroll", f"--input={path}", f"--output={tmp_path / 'set'}", *flags])
        with pytest.raises(SystemExit) as exit_:
            run_command(pianoroll.main)
        return exit_.value.code, capsys.readouterr(), tmp_path / "set"

    return run


def test_the_dataset_holds_the_file(prepare):
    code, captured, folder = prepare(ROLLS, "--frame-seconds=0.5")
    assert code == 0
    card, tokenizer = Card.load(folder), load(folder)
    card.verify(folder)
    assert tokenizer.spec == card.spec
    assert tokenizer.frame_seconds == 0.5
    for split, pieces in ROLLS.items():
        records = Records(folder, card, split)
        assert [tokenizer.decode_frames(records[index].ids) for index in range(len(records))] == pieces
        assert records[len(records) - 1].source == f"rolls.json/{split}/{len(records) - 1}"
    assert "3 pieces        7 frames        8 pitches        15 tokens" in captured.out
    assert captured.out.count("1 like another of this or an earlier split") == 2
    assert not (folder / ".prepare").exists()


def test_a_dataset_is_not_written_over(prepare):
    _, _, folder = prepare(ROLLS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, captured, _ = prepare(ROLLS | {"test": [[[51]]]})
    assert (code, captured.err.count("\n")) == (2, 1)
    assert "holds a dataset already" in captured.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("rolls", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ([], "is not like"),
        ({"train": [[[60]]]}, "no split 'valid'; it has train"),
        (ROLLS | {"vaild": []}, "unknown split 'vaild' (did you mean 'valid'?)"),
        (ROLLS | {"valid": []}, "split valid is empty"),
        (ROLLS | {"valid": 3}, "split valid is not a list of pieces"),
        (ROLLS | {"valid": [[[60]], []]}, "split valid, piece 1 has no frames"),
        (ROLLS | {"valid": [60]}, "split valid, piece 0 is not a list of frames"),
        (ROLLS | {"valid": [[[60], 60]]}, "split valid, piece 0, frame 1 is not a list of MIDI pitches"),
        (ROLLS | {"valid": [[[60.5]]]}, "split valid, piece 0, frame 0 is not a list of MIDI pitches"),
        (ROLLS | {"valid": [[[], [60, 60]]]}, "split valid, piece 0, frame 1: [60, 60] do not ascend"),
        (ROLLS | {"valid": [[[], [60, 50]]]}, "split valid, piece 0, frame 1: [60, 50] do not ascend"),
        (ROLLS | {"valid": [[[], [20, 50]]]}, "split valid, piece 0, frame 1: [20, 50] are not all from 21 to 108"),
        (ROLLS | {"valid": [[[], [109]]]}, "split valid, piece 0, frame 1: [109] are not all from 21 to 108"),
    ],
)
def test_what_is_wrong_is_named(prepare, rolls, message):
    code, captured, folder = prepare(rolls)
    assert code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not folder.exists()


def test_a_frame_has_a_length_that_midi_can_say(prepare):
    code, captured, folder = prepare(ROLLS, "--frame-seconds=9")
    assert code == 2
    assert "0.03 to 7.5 seconds" in captured.err
    assert not folder.exists()
