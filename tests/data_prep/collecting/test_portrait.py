import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import KeySignature, Note, Score, Track

from data_prep.collecting import portrait
from data_prep.collecting.portrait import Making
from tests.music_files import tune

MAKINGS = [Making(), Making(standardise_key=True, standardise_tempo=120.0, window_seconds=5.0, min_notes=3)]


def strict(value) -> str:
    """JSON as the standard has it, without NaN."""
    return json.dumps(value, allow_nan=False)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 500), st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=6))
@pytest.mark.parametrize("making", MAKINGS)
def test_hostile_files_have_a_portrait_or_a_reason(making, seed, edits):
    score = tune(seed, 20)
    score.key_signatures.append(KeySignature(0, 2, 1))
    data = bytearray(score.dumps_midi())
    for place, edit in edits:
        place %= len(data)
        data[place : place + len(edit)] = edit
    found = portrait.from_bytes(bytes(data), making)
    assert len(found.sha256) == 64
    assert bool(found.reason) == (not found.parts) or found.dropped
    for part in found.parts:
        strict(part.facts)
        assert part.facts["notes"] > 0
        assert part.facts["density"] > 0


def test_a_damaged_key_signature_is_left_out():
    score = tune(1, 20)
    score.key_signatures.append(KeySignature(0, 2, 1))
    data = score.dumps_midi().replace(b"\xff\x59\x02\x02\x01", b"\xff\x59\x02\x02\xf0")
    assert data != score.dumps_midi()
    assert portrait.from_bytes(data, MAKINGS[1]).parts


def test_drums_alone_have_no_key_and_no_voices():
    score = Score(480)
    score.tracks.append(Track(is_drum=True))
    score.tracks[0].notes.extend([Note(beat * 480, 100, 36, 80) for beat in range(8)])
    (part,) = portrait.from_bytes(score.dumps_midi(), dataclasses.replace(MAKINGS[1], window_seconds=0.0)).parts
    assert (part.facts["key"], part.facts["polyphony"], part.facts["instruments"]) == ("", "", ["drums"])
    assert part.facts["transposed"] == 0
    strict(part.facts)


def test_all_windows_of_a_piece_move_by_one_interval():
    score = tune(3, 400)
    parts = portrait.from_bytes(score.dumps_midi(), MAKINGS[1]).parts
    assert len(parts) > 10
    assert len({part.facts["transposed"] for part in parts}) == 1
    assert all(math.isclose(part.facts["tempo"], 120.0) for part in parts)
    assert [part.facts["start"] for part in parts] == [5.0 * part.number for part in parts]


def test_too_few_notes_everywhere():
    found = portrait.from_bytes(tune(3, 20).dumps_midi(), Making(window_seconds=5.0, min_notes=1000))
    assert found.parts == ()
    assert found.dropped > 0
