"""The grammar accepts all that the encoder makes, and all that it accepts decodes to exactly what its clock says."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Score, Track

from amt_jax.errors import MidiError
from amt_jax.tokens.grammar import DRUMS, KINDS, MAX_POLYPHONY, Grammar, GrammarState
from amt_jax.tokens.symbolic import PRESETS, SymbolicTokenizer

EXAMPLE = (
    *("Bar_None", "TimeSig_4/4", "Position_0", "Tempo_121.29", "Pitch_60", "Velocity_63", "Duration_1.0.8"),
    *("Rest_4.0.2", "Position_8"),
)


@pytest.fixture(scope="module", params=[*PRESETS, "remi bpe", "tsd bpe"])
def tokenizer(request, make_score) -> SymbolicTokenizer:
    preset, *bpe = request.param.split()
    tokenizer = SymbolicTokenizer.create(preset)
    if bpe:
        pieces = []
        for seed in range(20):
            with contextlib.suppress(MidiError):
                pieces.append(tokenizer.encode(make_score(seed)))
        tokenizer.train_bpe(pieces, 600)
    return tokenizer


@pytest.fixture(scope="module")
def grammar(tokenizer) -> Grammar:
    return Grammar.create(tokenizer.spec, tokenizer.names)


def walk(grammar: Grammar, kinds: np.ndarray, seed: int, rows: int = 8, steps: int = 100):
    """Random walks, each kind of token as likely as the next. Ids [rows, steps], the states before each and at last."""
    rng = np.random.default_rng(seed)
    of_kind = np.eye(kinds.max() + 1)[kinds]  # [V, kinds]
    state, ids, states = grammar.start((rows,)), [], []
    state = state._replace(ends=state.ends[:, :0])  # faster
    for _ in range(steps):
        allowed, after = grammar.look(state)
        allowed[:, grammar.eos] = False
        assert allowed.any(-1).all(), "a dead end"
        count = allowed @ of_kind
        weight = np.where(allowed, 1 / np.maximum(count @ of_kind.T, 1), 0)
        token = np.array([np.searchsorted(np.cumsum(w), rng.random() * w.sum(), side="right") for w in weight])
        states.append(state)
        state = GrammarState(*(field[np.arange(rows), token] for field in after))
        ids.append(token)
    return np.stack(ids, 1), [*states, state]


def bar_of(score: Score, tick: int) -> int:
    """The bar that a tick of a score is in, by its time signatures alone."""
    bar = 0
    signatures = list(score.time_signatures)
    ends = [each.time for each in signatures[1:]] + [np.inf]
    for signature, end in zip(signatures, ends, strict=True):
        ticks = signature.numerator * 4 * score.ticks_per_quarter // signature.denominator
        if end > tick:
            return bar + (tick - signature.time) // ticks
        bar += -(-(end - signature.time) // ticks)
    raise AssertionError


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_the_encoder_makes_is_accepted(tokenizer, grammar, make_score, seed):
    try:
        ids = tokenizer.encode(make_score(seed))
    except MidiError:
        return
    state = grammar.start()
    for index in [*ids.tolist(), grammar.eos]:
        allowed, state = grammar.run(state, index)
        assert allowed, (index, state)
    assert KINDS[state.state] == "END"
    assert not grammar.allowed(state).any()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_accepted_decodes_to_what_the_clock_says(tokenizer, grammar, seed):
    types = tokenizer.spec.type_ids()
    ids, states = walk(grammar, types, seed)
    for before, after in itertools.pairwise(states):
        assert (after.tick >= before.tick).all()
        assert (after.seconds >= before.seconds).all()
        assert (after.bar >= before.bar).all()
    bases = [tokenizer.spec.expand(row) for row in ids]
    onsets = [[] for _ in bases]
    state = grammar.start((len(bases),))
    for column in itertools.zip_longest(*bases, fillvalue=tokenizer.spec.pad):
        before, state = state, grammar.advance(state, np.array(column))
        for row in np.flatnonzero(state.notes > before.notes):
            onsets[row].append(int(state.tick[row]))
    for one, other in zip(state._replace(ends=states[-1].ends), states[-1], strict=True):
        np.testing.assert_array_equal(one, other)  # Merges go where their base ids go.
    for row, tokens in enumerate(ids):
        score = tokenizer.decode(tokens)
        assert score.ticks_per_quarter == grammar.ticks_per_quarter
        assert sorted(note.time for track in score.tracks for note in track.notes) == onsets[row]
        first, stop = tokenizer.spec.ranges["Duration"]
        assert state.notes[row] == np.sum((bases[row] >= first) & (bases[row] < stop))
        notes = [
            (note.time, DRUMS if track.is_drum else track.program, note.pitch)
            for track in score.tracks
            for note in track.notes
        ]
        assert len(set(notes)) == len(notes), "the same note twice at once"
        if onsets[row]:
            assert max(note.end for track in score.tracks for note in track.notes) == state.note_end[row]
        ends = sorted((note.end for track in score.tracks for note in track.notes if not track.is_drum), reverse=True)
        np.testing.assert_array_equal(state.ends[row], [*ends, *[0] * MAX_POLYPHONY][:MAX_POLYPHONY])
        tick = int(state.tick[row])
        assert bar_of(score, tick) == state.bar[row]
        score.tracks = [Track(notes=[Note(tick, 1, 60, 60)])]
        np.testing.assert_allclose(score.to("second").tracks[0].notes[0].time, state.seconds[row], rtol=1e-4)


def test_the_notes_of_a_moment_ascend_by_program_and_pitch_drums_last():
    tokenizer = SymbolicTokenizer.create("remi_multitrack")
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)

    def accepted(*names: str) -> bool:
        state, every = grammar.start(), True
        for name in ["Bar_None", "TimeSig_4/4", "Position_0", *names]:
            allowed, state = grammar.run(state, tokenizer.names.index(name))
            every &= bool(allowed)
        return every

    def note(program: int, pitch: int) -> list[str]:
        kind = "PitchDrum" if program == -1 else "Pitch"
        return [f"Program_{program}", f"{kind}_{pitch}", "Velocity_63", "Duration_1.0.8"]

    assert accepted(*note(0, 60), *note(0, 64), *note(5, 40), *note(-1, 38), *note(-1, 42))
    assert not accepted(*note(0, 60), *note(0, 60))
    assert not accepted(*note(0, 64), *note(0, 60))
    assert not accepted(*note(5, 40), "Program_0")
    assert not accepted(*note(-1, 38), "Program_0")
    assert not accepted(*note(0, 108), "Program_0")
    assert accepted(*note(5, 40), "Position_1", *note(0, 60))


def test_the_worked_example():
    tokenizer = SymbolicTokenizer.create("remi")
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    state = grammar.start()
    ticks, kinds = [], []

    def follows(name: str) -> bool:
        return bool(grammar.allowed(state)[tokenizer.names.index(name)])

    for name in EXAMPLE:
        if name.startswith("Rest"):
            assert not follows("Position_0")
            assert follows("Position_1")
            assert follows("EOS_None")
        if name.startswith("Position_8"):
            assert not follows("Position_7")
            assert not follows("Position_32")
            assert not follows("TimeSig_3/4")
        assert follows(name)
        state = grammar.advance(state, tokenizer.names.index(name))
        ticks.append(int(state.tick))
        kinds.append(KINDS[state.state])
    assert ticks == [0, 0, 0, 0, 0, 0, 0, 80, 80]
    assert kinds == ["BAR", "METER", "POSITION", "TEMPO", "PITCH", "VELOCITY", "NOTE", "REST", "POSITION"]
    assert (int(state.bar), int(state.note_end), int(state.notes)) == (1, 16, 1)
    assert abs(state.seconds - 5 * 60 / 121.29) < 1e-5
    assert not follows("EOS_None")


def test_a_piano_plays_no_drums_and_nothing_ends_before_its_first_note(tokenizer, grammar):
    first, stop = tokenizer.spec.ranges.get("PitchDrum", (0, 0))
    reachable = (grammar.next_state[:, first:stop] >= 0).any()
    assert reachable == ("Program" in tokenizer.spec.ranges)
    for name in ("pad", "bos"):
        assert (grammar.next_state[:, getattr(tokenizer.spec, name)] == -1).all()
    ids, states = walk(grammar, tokenizer.spec.type_ids(), seed=0)
    for index in range(ids.shape[1]):
        ends = grammar.allowed(states[index])[:, grammar.eos]
        assert not ends[states[index].notes == 0].any()
    state = grammar.advance(states[-1], np.full(len(ids), tokenizer.spec.pad))
    for old, new in zip(states[-1], state, strict=True):
        np.testing.assert_array_equal(old, new)
