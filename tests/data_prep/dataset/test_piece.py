import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Score, Track

from data_prep.dataset import piece
from tests.music_files import tune, write


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([120, 240, 960]), st.integers(0, 4000))
def test_the_hash_sees_the_notes_and_nothing_else(seed, resolution, silence):
    score = tune(seed)
    expected = piece.content_hash(score)
    other = score.resample(resolution, 1)
    other.tracks = [other.tracks[1], other.tracks[0]]
    other.tempos.clear()
    other = other.shift_time(silence)
    for track in other.tracks:
        track.name = "another"
        for note in track.notes:
            note.velocity = 33
    assert piece.content_hash(other) == expected
    assert piece.content_hash(tune(seed, transpose=1)) != expected
    assert piece.content_hash(tune(seed, program=5)) != expected
    score.tracks[0].is_drum = True
    assert piece.content_hash(score) != expected


def test_a_piece_of_a_file(tmp_path):
    score = tune(1, tempo=60.0)
    result = piece.from_file(str(write(score, tmp_path / "a.mid")), "remi")
    assert not result.reason
    assert result.ids.dtype == np.uint16
    assert len(result.ids) > 100
    assert result.seconds == pytest.approx(score.to("second").end(), abs=0.01)
    assert piece.from_file(str(tmp_path / "nowhere.mid"), "remi").reason == "unreadable"


def test_seconds_follow_the_tempo_map():
    score = tune(1)
    score.tempos = [type(score.tempos[0])(480, 60.0), type(score.tempos[0])(960, 240.0)]
    assert piece.from_bytes(score.dumps_midi(), "remi").seconds == pytest.approx(score.to("second").end(), abs=0.01)


def test_bad_content_gives_a_reason():
    whole = tune(1).dumps_midi()
    assert piece.from_bytes(b"", "remi").reason
    assert piece.from_bytes(b"\xff\xd8\xff\xe0 a picture", "remi").reason
    assert piece.from_bytes(Score(480).dumps_midi(), "remi").reason == "no notes"
    drums = Score(480)
    drums.tracks.append(Track(is_drum=True))
    drums.tracks[0].notes.append(Note(0, 480, 36, 80))
    assert piece.from_bytes(drums.dumps_midi(), "remi").reason
    random_ = random.Random(0)
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 8)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        result = piece.from_bytes(bytes(data[: random_.randint(1, len(data))]), "remi")
        assert bool(result.reason) != bool(len(result.ids))
