"""Frames and ids are one to one, and whatever the grammar lets pass is music that reads back as the same ids."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Score, Track

from amt_jax.errors import MidiError, UserError
from amt_jax.tokens.grammar import KINDS, Grammar
from amt_jax.tokens.pianoroll import PianoRoll
from amt_jax.tokens.symbolic import SymbolicTokenizer
from amt_jax.tokens.tokenizer import load

TOKENIZER = PianoRoll()
GRAMMAR = Grammar.create(TOKENIZER.spec, TOKENIZER.names)
EOS = TOKENIZER.spec.eos
frames_strategy = st.lists(st.lists(st.integers(21, 108), max_size=5, unique=True).map(sorted), max_size=20)


@settings(deadline=None)
@given(frames_strategy)
def test_frames_and_ids_are_one_to_one(frames):
    ids = TOKENIZER.encode_frames(frames)
    assert ids.dtype == np.uint16
    assert TOKENIZER.decode_frames(ids) == frames
    state = GRAMMAR.start()
    for id in ids.tolist():
        allowed, state = GRAMMAR.run(state, id)
        assert allowed
    assert state.seconds == len(frames) * TOKENIZER.frame_seconds
    assert GRAMMAR.allowed(state)[EOS] == any(frames)


@settings(deadline=None)
@given(st.lists(st.integers(0, 91), max_size=60))
def test_ids_and_frames_are_one_to_one(ids):
    """Whatever the grammar accepts and ends with a frame is what its frames are written as."""
    ids, state = np.array([*ids, *TOKENIZER.encode_frames([[]])], np.uint16), GRAMMAR.start()
    for id in ids.tolist():
        allowed, state = GRAMMAR.run(state, id)
        if not allowed or id == EOS:
            return
    assert TOKENIZER.encode_frames(TOKENIZER.decode_frames(ids)).tolist() == ids.tolist()


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=60), st.sampled_from([0.25, 0.1, 1 / 3]))
def test_what_is_sampled_reads_back(draws, seconds):
    tokenizer = PianoRoll(seconds)
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    state, ids = grammar.start(), []
    for draw in draws:
        allowed = np.flatnonzero(grammar.allowed(state))
        # Each kind as likely as the other, or frames would be of all pitches.
        frame = tokenizer.spec.ranges["Frame"][0]
        ids.append(int(frame if draw < 0.5 else allowed[int((draw - 0.5) * 2 * len(allowed))]))
        state = grammar.advance(state, ids[-1])
        if ids[-1] == EOS:
            assert KINDS[state.state] == "END"
            assert not grammar.allowed(state).any()
            ids.pop()
            break
    if state.notes == 0:
        return
    if ids[-1] != frame:
        ids.append(frame)
    score = tokenizer.decode(np.array(ids))
    assert score.ticks_per_quarter == grammar.ticks_per_quarter
    assert max(note.end for note in score.tracks[0].notes) == state.note_end
    frames = tokenizer.decode_frames(np.array(ids))
    while not frames[-1]:  # a score ends with its last note
        frames.pop()
    expected = tokenizer.encode_frames(frames).tolist()
    assert tokenizer.encode(score).tolist() == expected
    assert tokenizer.encode(Score.from_midi(score.dumps_midi())).tolist() == expected


def test_a_pitch_in_neighbouring_frames_is_one_note():
    score = TOKENIZER.decode(TOKENIZER.encode_frames([[60], [60, 64], [], [60]]))
    notes = [(note.time, note.duration, note.pitch) for note in score.to("second").tracks[0].notes]
    assert sorted(notes) == [(0, 0.5, 60), (0.25, 0.25, 64), (0.75, 0.25, 60)]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_any_score_becomes_frames(make_score, seed):
    score = make_score(seed)
    try:
        ids = TOKENIZER.encode(score)
    except MidiError:
        pitches = [note.pitch for track in score.tracks if not track.is_drum for note in track.notes]
        assert not any(21 <= pitch <= 108 for pitch in pitches)
        return
    assert TOKENIZER.encode(TOKENIZER.decode(ids)).tolist() == ids.tolist()
    frames = TOKENIZER.decode_frames(ids)
    assert frames[-1]
    for track in score.to("second").tracks:
        for note in track.notes:
            if not track.is_drum and 21 <= note.pitch <= 108:
                assert note.pitch in frames[int(np.rint(note.time / 0.25))]


def test_short_notes_sound_and_drums_do_not():
    score = Score(480)
    score.tracks.append(Track(notes=[Note(0, 1, 60, 80), Note(200, 40, 62, 80), Note(480, 480, 20, 80)]))
    score.tracks.append(Track(is_drum=True, notes=[Note(0, 4800, 38, 80)]))
    assert TOKENIZER.decode_frames(TOKENIZER.encode(score)) == [[60], [62]]
    score.tracks.pop(0)
    with pytest.raises(MidiError, match="no pitched notes"):
        TOKENIZER.encode(score)


@pytest.mark.parametrize("ids", list(itertools.product((0, 1, 2, 3, 4, 50, 91, 200), repeat=2)))
def test_anything_decodes(ids):
    TOKENIZER.decode(np.array(ids, np.uint16))


def test_one_loader_reads_what_either_saved(tmp_path):
    for name, tokenizer in (("rolls", PianoRoll(0.5, (60, 62))), ("events", SymbolicTokenizer.create("remi"))):
        (tmp_path / name).mkdir()
        tokenizer.save(tmp_path / name)
        again = load(tmp_path / name)
        assert (type(again), again.spec, tuple(again.names)) == (
            type(tokenizer),
            tokenizer.spec,
            tuple(tokenizer.names),
        )


@pytest.mark.parametrize("content", ["", "[]", "{}", {"preset": "pianoroll"}, {"preset": "x"}, {"preset": []}])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("change", [{"frame_seconds": "x"}, {"frame_seconds": 0}, {"pitches": [1]}, {"pitches": None}])
def test_damaged_fields_are_named(tmp_path, change):
    TOKENIZER.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError):
        load(tmp_path)
