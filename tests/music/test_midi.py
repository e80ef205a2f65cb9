"""Loading refuses what cannot be music, with a reason; saving is whole and carries a text."""

import pickle
import random
import time

import mido
import numpy as np
import pretty_midi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from symusic import ControlChange, Note, Score, Tempo, TimeSignature, Track

from amt_jax.music import midi


def made_score(seed: int = 0, notes: int = 40) -> Score:
    rng = random.Random(seed)
    score = Score(480)
    score.tempos.append(Tempo(0, 100.0))
    score.time_signatures.append(TimeSignature(0, 3, 4))
    for program, is_drum in ((0, False), (40, False), (0, True)):
        track = Track(program=program, is_drum=is_drum, name=f"track {program}")
        for _ in range(notes):
            track.notes.append(Note(rng.randrange(9600), rng.randrange(60, 900), rng.randrange(36, 84), 64))
        track.controls.append(ControlChange(0, 64, 127))
        score.tracks.append(track.sort())
    return score


def reason(score: Score) -> str:
    with pytest.raises(midi.MidiError) as caught:
        midi.load_bytes(score.dumps_midi())
    return caught.value.reason


def variable_length(value: int) -> bytes:
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append((value & 0x7F) | 0x80)
    return bytes(reversed(parts))


def raw_file(track: bytes, division: int = 480) -> bytes:
    """A one-track MIDI file; `track` without its end."""
    track += b"\x00\xff\x2f\x00"
    head = b"MThd\x00\x00\x00\x06\x00\x00\x00\x01" + division.to_bytes(2, "big")
    return head + b"MTrk" + len(track).to_bytes(4, "big") + track


NOTE = b"\x00\x90\x3c\x40\x60\x80\x3c\x40"


def test_a_plain_file_loads_whatever_its_name(tmp_path):
    for name in ("a.mid", "B.MIDI", "no suffix", "ünï çode.Mid"):
        path = tmp_path / name
        path.write_bytes(raw_file(NOTE))
        assert midi.load(path).note_num() == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a MIDI file"),
        (b"\xff\xd8\xff\xe0 a picture", "not a MIDI file"),
        (raw_file(b""), "no notes"),
        (raw_file(b"\x00\x90\x3c\x40\x00\x80\x3c\x40"), "no notes"),
        (raw_file(NOTE, division=0), "bad resolution"),
        (raw_file(NOTE + variable_length(10**8) + NOTE[1:], division=1), "too long"),
        (raw_file(b"\x00\xff\x51\x03\x00\x00\x01" + NOTE), "bad tempo"),
        (raw_file(b"\x00\xff\x51\x03\x00\x00\x00" + NOTE), "bad tempo"),
        (raw_file(b"\x00\xff\x51\x03\xff\xff\xff" + NOTE), "bad tempo"),
        (raw_file(b"\x00\xff\x58\x04\x00\x02\x18\x08" + NOTE), "bad time signature"),
        (raw_file(b"\x00\xff\x58\x04\x04\x07\x18\x08" + NOTE), "bad time signature"),
    ],
)
def test_refusals_name_their_reason(data, reason):
    with pytest.raises(midi.MidiError) as caught:
        midi.load_bytes(data)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_limits_on_amounts(monkeypatch, tmp_path):
    score = made_score()
    monkeypatch.setattr(midi, "MAX_NOTES", 100)
    assert reason(score) == "too many notes"
    monkeypatch.setattr(midi, "MAX_NOTES", 200)
    monkeypatch.setattr(midi, "MAX_TRACKS", 2)
    assert reason(score) == "too many tracks"
    monkeypatch.setattr(midi, "MAX_BYTES", 10)
    (tmp_path / "big.mid").write_bytes(score.dumps_midi())
    with pytest.raises(midi.MidiError, match="file too large"):
        midi.load(tmp_path / "big.mid")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.mid", tmp_path):
        with pytest.raises(midi.MidiError, match="unreadable"):
            midi.load(path)


def test_notes_without_length_are_dropped():
    assert midi.load_bytes(raw_file(b"\x00\x90\x3c\x40\x00\x80\x3c\x40" + NOTE)).note_num() == 1


def test_an_error_crosses_processes():
    error = pickle.loads(pickle.dumps(midi.MidiError("too long", "9 beats")))
    assert (error.reason, str(error)) == ("too long", "too long: 9 beats")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=300))
def test_a_text_comes_back(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "text.mid"
    score = made_score(notes=1)
    midi.save(score, path, text)
    assert midi.read_text(path) == text
    assert not score.markers


def test_saved_files_open_everywhere(tmp_path):
    path = tmp_path / "song.mid"
    midi.save(made_score(), path, '{"seed": 1}')
    assert list(tmp_path.iterdir()) == [path]
    notes = midi.load(path).note_num()
    played = [m for track in mido.MidiFile(path).tracks for m in track if m.type == "note_on" and m.velocity]
    assert notes == len(played) == sum(len(each.notes) for each in pretty_midi.PrettyMIDI(str(path)).instruments)
    midi.save(made_score(), path)
    assert midi.read_text(path) is None


def test_200_damaged_files_load_or_are_refused_quickly():
    rng = random.Random(1)
    whole = made_score().dumps_midi()
    outcomes: dict[str, int] = {}
    for index in range(200):
        data = bytearray(whole)
        if index % 2:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randrange(0, 4)):
            if data:
                data[rng.randrange(min(len(data), 60 if index % 4 == 0 else len(data)))] = rng.randrange(256)
        start = time.perf_counter()
        try:
            score = midi.load_bytes(bytes(data))
            outcome = "loaded"
            for track in score.tracks:
                notes = track.notes.numpy()
                assert np.all(notes["duration"] > 0)
                assert np.all(notes["time"] >= 0)
        except midi.MidiError as error:
            outcome = error.reason
        assert time.perf_counter() - start < 1
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["loaded"] > 20
    assert sum(outcomes.values()) - outcomes["loaded"] > 20
