"""Small pieces of music for tests."""

from __future__ import annotations

import random
from pathlib import Path

from symusic import Note, Score, Tempo, TimeSignature, Track


def tune(seed: int, notes: int = 60, *, program: int = 0, transpose: int = 0, stretch: int = 1, tempo: float = 120.0):
    """A melody over a bass, different for each seed; `stretch` slows it down in beats."""
    random_ = random.Random(seed)
    score = Score(480)
    score.tempos.append(Tempo(0, tempo))
    score.time_signatures.append(TimeSignature(0, 4, 4))
    melody, bass = Track(program=program), Track(program=program)
    time, pitch = 0, 70
    for index in range(notes):
        length = random_.choice((240, 480)) * stretch
        pitch = min(max(pitch + random_.randint(-5, 5), 60), 90)
        melody.notes.append(Note(time, length, pitch + transpose, 80))
        if index % 4 == 0:
            bass.notes.append(Note(time, length, 40 + random_.randint(0, 7) + transpose, 60))
        time += length
    score.tracks.extend([melody, bass])
    return score


def write(score: Score, path: Path) -> Path:
    """Writes `score` to `path`, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(score.dumps_midi())
    return path
