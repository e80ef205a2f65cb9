"""The grammar accepts all that the encoder makes, and all that it accepts decodes to exactly what its clock says."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Score, Track

from amt_jax.music.midi import MidiError
from amt_jax.tokens.grammar import KINDS, Grammar, GrammarState
from amt_jax.tokens.symbolic import PRESETS, SymbolicTokenizer

EXAMPLE = (
    *("Bar_None", "TimeSig_4/4", "Position_0", "Tempo_121.29", "Pitch_60", "Velocity_63", "Duration_1.0.8"),
    *("Rest_4.0.2", "Position_8"),
)


@pytest.fixture(scope="module", params=PRESETS)
def tokenizer(request) -> SymbolicTokenizer:
    return SymbolicTokenizer.create(request.param)


@pytest.fixture(scope="module")
def grammar(tokenizer) -> Grammar:
    return Grammar.create(tokenizer.spec, tokenizer.names)


def walk(grammar: Grammar, kinds: np.ndarray, seed: int, rows: int = 8, steps: int = 150):
    """Random walks, each kind of token as likely as the next. Ids [rows, steps], the states before each and at last."""
    rng = np.random.default_rng(seed)
    number = kinds.max() + 1
    state, ids, states = grammar.start((rows,)), [], []
    for _ in range(steps):
        allowed, after = grammar.look(state)
        allowed[:, grammar.eos] = False
        assert allowed.any(-1).all(), "a dead end"
        count = np.stack([np.bincount(kinds[row], minlength=number) for row in allowed])
        weight = np.where(allowed, 1 / np.maximum(count[:, kinds], 1), 0)
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


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_the_encoder_makes_is_accepted(tokenizer, grammar, make_score, seed):
    try:
        ids = tokenizer.encode(make_score(seed))
    except MidiError:
        return
    state = grammar.start()
    for index in [*ids.tolist(), grammar.eos]:
        allowed, state = grammar.run(state, index)
        assert allowed, (tokenizer.names[index], state)
    assert KINDS[state.state] == "END"
    assert not grammar.allowed(state).any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_accepted_decodes_to_what_the_clock_says(tokenizer, grammar, seed):
    types = tokenizer.spec.type_ids()
    ids, states = walk(grammar, types, seed)
    for before, after in itertools.pairwise(states):
        assert (after.tick >= before.tick).all()
        assert (after.seconds >= before.seconds).all()
        assert (after.bar >= before.bar).all()
    names = list(tokenizer.spec.ranges)
    for row, tokens in enumerate(ids):
        score = tokenizer.decode(tokens)
        assert score.ticks_per_quarter == grammar.ticks_per_quarter
        onsets = [int(states[i].tick[row]) for i in range(len(tokens)) if names[types[tokens[i]]] == "Duration"]
        decoded = sorted(note.time for track in score.tracks for note in track.notes)
        assert decoded == onsets
        assert states[-1].notes[row] == len(onsets)
        if onsets:
            assert max(note.end for track in score.tracks for note in track.notes) == states[-1].note_end[row]
        end = score.copy()
        end.tracks = [Track(notes=[Note(int(states[-1].tick[row]), 1, 60, 60)])]
        np.testing.assert_allclose(end.to("second").tracks[0].notes[0].time, states[-1].seconds[row], rtol=1e-4)
        if states[-1].bar[row] >= 0:
            assert bar_of(score, int(states[-1].tick[row])) == states[-1].bar[row]


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
    first, stop = tokenizer.spec.ranges["PitchDrum"]
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
