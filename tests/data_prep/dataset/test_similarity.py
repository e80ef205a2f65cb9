import numpy as np
from symusic import Note, Score, Track

from data_prep.dataset.similarity import HASHES, signature, similar
from tests.music_files import tune


def pairs(*scores):
    return similar([signature(score) for score in scores])


def test_transposed_slower_or_slightly_changed_music_is_similar():
    changed = tune(1, 200)
    changed.tracks[0].notes.pop(100)
    assert pairs(tune(1, 200), tune(1, 200, transpose=3), tune(2, 200), tune(1, 200, stretch=2, tempo=90), changed) == {
        (0, 1),
        (0, 3),
        (0, 4),
        (1, 3),
        (1, 4),
        (3, 4),
    }


def test_a_performance_is_similar_to_its_score():
    random = np.random.default_rng(0)
    score, played = tune(1, 200), tune(1, 200)
    for track in played.tracks:
        for note in track.notes:
            note.time += int(random.integers(0, 20))
    assert pairs(score, played) == {(0, 1)}


def test_drums_and_little_music_have_no_signature():
    drums = Score(480)
    drums.tracks.append(Track(is_drum=True))
    for index in range(100):
        drums.tracks[0].notes.append(Note(index * 240, 120, 36 + index * 7 % 11, 90))
    scale = Score(480)
    scale.tracks.append(Track())
    for index in range(400):
        scale.tracks[0].notes.append(Note(index * 240, 240, 60 + index % 8, 90))
    assert not len(signature(drums))
    assert not len(signature(scale))
    assert not len(signature(tune(1, 3)))
    assert len(signature(tune(1, 100))) == HASHES


def test_estimates_the_share_of_common_music():
    first, second = tune(1, 2000), tune(2, 2000)
    both = first.copy()
    end = both.end() + 480
    for note in second.tracks[0].notes:
        both.tracks[0].notes.append(Note(note.time + end, note.duration, note.pitch, note.velocity))
    estimate = (signature(first) == signature(both)).mean()
    assert abs(estimate - 0.5) < 0.15
