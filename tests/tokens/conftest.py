"""What several tests here need: scores that make time hard."""

import random

import pytest
from symusic import Note, Score, Tempo, TimeSignature, Track

METERS = [(4, 4), (3, 4), (6, 8), (3, 8), (2, 4), (12, 8), (7, 8), (1, 4)]


def make_score(seed: int) -> Score:
    """A score as files hold them: tracks, drums, changes of meter and tempo, gaps over bars, any resolution."""
    rng = random.Random(seed)
    tpq = rng.choice([1, 8, 24, 120, 480, 960])
    beats = rng.choice([4, 40, 200])
    score = Score(tpq)
    for _ in range(rng.randrange(6)):
        score.tempos.append(Tempo(rng.randrange(beats * tpq), rng.uniform(30, 300)))
    for _ in range(rng.randrange(5)):
        score.time_signatures.append(TimeSignature(rng.randrange(beats * tpq), *rng.choice(METERS)))
    if score.time_signatures and rng.random() < 0.5:
        score.time_signatures[0].time = 0
    for _ in range(rng.randrange(1, 4)):
        track = Track(program=rng.randrange(128), is_drum=rng.random() < 0.3)
        for _ in range(rng.randrange(1, 40)):
            length = max(1, int(tpq * rng.choice([0.1, 0.3, 1, 2.5, 14])))
            track.notes.append(Note(rng.randrange(beats * tpq), length, rng.randrange(10, 120), rng.randrange(1, 128)))
        score.tracks.append(track)
    return Score.from_midi(score.dumps_midi())  # Sorted, as a file's would be.


@pytest.fixture(scope="session", name="make_score")
def make_score_fixture():
    return make_score
