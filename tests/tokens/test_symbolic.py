"""Notes survive encode and decode, ids are stable after one pass, decode takes anything."""

import contextlib
import json
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Score, Tempo, TimeSignature, Track

from amt_jax.errors import UserError
from amt_jax.music import midi
from amt_jax.tokens.symbolic import PRESETS, SymbolicTokenizer

TOKENIZERS = {preset: SymbolicTokenizer.create(preset) for preset in PRESETS}


def notes_of(score):
    return sorted(
        (track.program, track.is_drum, note.time, note.duration, note.pitch, note.velocity)
        for track in score.tracks
        for note in track.notes
    )


def test_sizes_and_specials():
    assert {name: t.spec.vocab_size for name, t in TOKENIZERS.items()} == {
        "remi": 419,
        "remi_multitrack": 548,
        "tsd": 483,
        "amt_events": 512,
        "remigen": 512,
    }
    for name, tokenizer in TOKENIZERS.items():
        specials = (0, 2, 3) if name in ("amt_events", "remigen") else (0, 1, 2)
        assert (tokenizer.spec.pad, tokenizer.spec.bos, tokenizer.spec.eos) == specials
        assert [tokenizer.spec.ranges[name][0] for name in ("PAD", "BOS", "EOS")] == list(specials)


def test_the_vocabulary_of_events():
    names = TOKENIZERS["amt_events"].names
    assert names[:4] == ("PAD_None", "UNK_None", "BOS_None", "EOS_None")
    assert names[4:14] == tuple(f"SemanticToken_{style}" for style in range(10))
    kinds = [name.split("_")[0] for name in names[14:]]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Pitch": 128, "Duration": 185, "TimeShift": 185}


def test_without_meters_music_keeps_its_seconds():
    """A note of a second after a second, at whatever tempo; then one that a change of tempo makes shorter."""
    for bpm in (60, 90, 240):
        beats = round(960 * bpm / 60)
        score = Score(960)
        score.tempos = [Tempo(0, bpm), Tempo(2 * beats, 2 * bpm)]
        score.time_signatures.append(TimeSignature(0, 3, 4))
        score.tracks.append(Track(notes=[Note(beats, beats, 60, 80), Note(3 * beats, beats, 60, 80)]))
        for preset in ("amt_events", "remigen"):
            tokenizer = TOKENIZERS[preset]
            decoded = tokenizer.decode(tokenizer.encode(score)).to("second")
            heard = [(note.time, note.duration) for note in decoded.tracks[0].notes]
            np.testing.assert_allclose(heard, [(1, 1), (2.5, 0.5)], atol=1 / 48)


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_notes_survive_and_ids_are_stable(preset, make_score, seed):
    tokenizer = TOKENIZERS[preset]
    try:
        ids = tokenizer.encode(make_score(seed))
    except midi.MidiError:  # Nothing but drums, or out of range.
        return
    assert ids.dtype == np.uint16
    decoded = tokenizer.decode(ids)
    again = tokenizer.encode(decoded)
    np.testing.assert_array_equal(ids, again)
    assert notes_of(decoded) == notes_of(tokenizer.decode(again))


@pytest.mark.parametrize("preset", PRESETS)
def test_notes_on_the_grid_come_back_as_they_were(preset):
    rng = random.Random(0)
    score = Score(8)
    for program in (0, 40):
        track = Track(program=program)
        for pitch in range(30, 90, 4):
            velocity = 3 + 4 * (pitch % 30)
            track.notes.append(Note(rng.randrange(64), rng.randrange(1, 30), pitch + program // 40, velocity))
        score.tracks.append(track)
    tokenizer = TOKENIZERS[preset]
    decoded = tokenizer.decode(tokenizer.encode(score))
    scale = decoded.ticks_per_quarter // 8
    instruments, loudness = PRESETS[preset].programs, PRESETS[preset].velocities
    assert notes_of(decoded) == sorted(
        (program * instruments, drum, time * scale, length * scale, pitch, velocity if loudness else 100)
        for program, drum, time, length, pitch, velocity in notes_of(score)
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_the_order_of_tracks_and_notes_does_not_matter(preset):
    rng = random.Random(3)
    notes = [(program, rng.randrange(2000), 50, rng.randrange(40, 80), 64) for program in (5, 80) for _ in range(50)]
    results = []
    for order in range(2):
        score = Score(120)
        rng.shuffle(notes)
        for program in ((5, 80), (80, 5))[order]:
            track = Track(program=program)
            for each, *note in notes:
                if each == program:
                    track.notes.append(Note(*note))
            score.tracks.append(track)
        results.append(TOKENIZERS[preset].encode(score))
    np.testing.assert_array_equal(*results)


def test_remi_is_one_piano_without_drums():
    score = Score(8)
    for program, is_drum, pitch in ((0, False, 60), (40, False, 60), (40, False, 64), (0, True, 40)):
        track = Track(program=program, is_drum=is_drum)
        track.notes.append(Note(0, 8, pitch, 64))
        score.tracks.append(track)
    decoded = TOKENIZERS["remi"].decode(TOKENIZERS["remi"].encode(score))
    assert [(track.program, track.is_drum) for track in decoded.tracks] == [(0, False)]
    assert [note.pitch for note in decoded.tracks[0].notes] == [60, 64]
    multi = TOKENIZERS["remi_multitrack"]
    assert len(multi.decode(multi.encode(score)).tracks) == 3
    del score.tracks[:3]
    with pytest.raises(midi.MidiError, match="nothing but drums"):
        TOKENIZERS["remi"].encode(score)


@pytest.mark.parametrize("preset", PRESETS)
def test_damaged_files_that_load_encode_quickly(preset, make_score):
    rng = random.Random(2)
    encoded = 0
    for seed in range(200):
        data = bytearray(make_score(seed).dumps_midi())
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        start = time.perf_counter()
        with contextlib.suppress(midi.MidiError):
            encoded += len(TOKENIZERS[preset].encode(midi.load_bytes(bytes(data)))) > 0
        assert time.perf_counter() - start < 2
    assert encoded > 20


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 70_000) | st.integers(0, 600), max_size=300))
def test_decode_takes_anything(preset, ids):
    score = TOKENIZERS[preset].decode(np.array(ids, np.int64))
    for track in score.tracks:
        times = [note.time for note in track.notes]
        assert times == sorted(times)
        for note in track.notes:
            assert note.time >= 0
            assert note.duration > 0
            assert 0 <= note.pitch < 128
            assert 0 < note.velocity < 128
    back = Score.from_midi(score.dumps_midi())
    assert back.note_num() <= score.note_num()


@pytest.mark.parametrize("preset", PRESETS)
def test_save_and_load(preset, tmp_path):
    TOKENIZERS[preset].save(tmp_path)
    loaded = SymbolicTokenizer.load(tmp_path)
    assert loaded.name == preset
    assert loaded.spec == TOKENIZERS[preset].spec
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert json.loads((tmp_path / "tokenizer.json").read_text())["preset"] == preset


def test_a_missing_or_damaged_tokenizer_is_said(tmp_path):
    with pytest.raises(UserError, match="without its tokenizer"):
        SymbolicTokenizer.load(tmp_path)
    for content in ("", "{}", '{"preset": "remi", "_vocab_base": 3}', '{"preset": "nonsense"}', "[]", "\0\xff"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match="damaged"):
            SymbolicTokenizer.load(tmp_path)
    with pytest.raises(UserError, match="remi_multitrack"):
        SymbolicTokenizer.create("remi_multi")


@pytest.fixture(scope="module", params=PRESETS)
def trained(request, make_score):
    """A tokenizer with BPE and the pieces it learnt from."""
    tokenizer = SymbolicTokenizer.create(request.param)
    pieces = []
    for seed in range(30):
        with contextlib.suppress(midi.MidiError):
            pieces.append(tokenizer.encode(make_score(seed)))
    tokenizer.train_bpe(pieces, 700)
    return tokenizer, pieces


def test_bpe_is_lossless_and_shorter(trained, tmp_path):
    tokenizer, pieces = trained
    spec = tokenizer.spec
    assert spec.vocab_size == 700
    assert spec.base_size == SymbolicTokenizer.create(tokenizer.name).spec.base_size
    assert all(len(ids) > 1 and max(ids) < spec.base_size for ids in spec.merges)
    merged = [tokenizer.merge(ids) for ids in pieces]
    assert sum(map(len, merged)) < 0.85 * sum(map(len, pieces))
    for ids, short in zip(pieces, merged, strict=True):
        assert short.dtype == np.uint16
        np.testing.assert_array_equal(spec.expand(short), ids)
        assert notes_of(tokenizer.decode(short)) == notes_of(tokenizer.decode(ids))
    score = tokenizer.decode(pieces[0])
    np.testing.assert_array_equal(tokenizer.encode(score), merged[0])
    np.testing.assert_array_equal(tokenizer.encode(score, merge=False), pieces[0])

    tokenizer.save(tmp_path)
    loaded = SymbolicTokenizer.load(tmp_path)
    assert loaded.spec == spec
    assert type(spec).from_json(json.loads(json.dumps(spec.to_json()))) == spec
    np.testing.assert_array_equal(loaded.merge(pieces[0]), merged[0])


def test_bpe_learns_the_same_again(trained):
    tokenizer, pieces = trained
    again = SymbolicTokenizer.create(tokenizer.name)
    again.train_bpe(pieces, 700)
    assert again.spec == tokenizer.spec


def test_bpe_of_an_impossible_size_is_said():
    tokenizer = SymbolicTokenizer.create("remi")
    for size in (0, 419, 70_000):
        with pytest.raises(UserError, match="420 to 65536"):
            tokenizer.train_bpe([np.arange(3, 50, dtype=np.uint16)], size)
    tokenizer.train_bpe([np.array([3, 3, 3], np.uint16)], 500)
    assert tokenizer.spec.vocab_size == 419
