"""Prompts are read as the grammar reads them; a piece fills its time and never passes it."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amt_jax.sampling.constraints import EARLY_END, ENDLESS, Limits, constrain, start
from amt_jax.tokens.grammar import Grammar, GrammarState
from amt_jax.tokens.pianoroll import PianoRoll


def walk(grammar, seed, steps):
    """A random prompt that the grammar accepts, without an end."""
    random, state, ids = np.random.default_rng(seed), grammar.start(), []
    for _ in range(steps):
        allowed = grammar.allowed(state)
        allowed[grammar.eos] = False
        ids.append(random.choice(np.flatnonzero(allowed)))
        state = grammar.advance(state, ids[-1])
    return np.array(ids, np.uint16), state


def test_start_reads_prompts_of_any_lengths(setup):
    walks = [walk(setup.grammar, seed, steps) for seed, steps in enumerate((0, 1, 30, 513))]
    got = start(setup.grammar, [ids for ids, _ in walks], setup.tokenizer.spec.pad)
    for row, (_, state) in enumerate(walks):
        for name, ours, theirs in zip(GrammarState._fields, got, state, strict=True):
            np.testing.assert_allclose(ours[row], theirs, rtol=1e-5, err_msg=name)


def test_a_long_prompt_takes_no_time(setup):
    prompt = np.tile(walk(setup.grammar, 0, 400)[0], 20)
    start(setup.grammar, [prompt[:10]] * 2, 0)
    begin = time.perf_counter()
    jax.block_until_ready(start(setup.grammar, [prompt] * 2, 0))
    assert time.perf_counter() - begin < 1


@pytest.fixture
def after(setup):
    """A function: names of tokens -> the clock after them, one row."""

    def read(*names):
        ids = np.array([setup.tokenizer.names.index(name) for name in names])
        return start(setup.grammar, [ids], 0)

    return read


def within(setup, begin, end):
    """Limits of time alone, one row."""
    playable = jnp.ones((1, len(setup.tokenizer.names)), bool)
    return Limits(jnp.array([begin]), jnp.array([end]), jnp.array([0]), jnp.array([ENDLESS]), playable)


NOTE = ("Bar_None", "TimeSig_4/4", "Position_0", "Tempo_121.29", "Pitch_60", "Velocity_63")


def test_what_would_pass_the_end_is_an_ending_once_the_time_is_filled(setup, after):
    clock = after(*NOTE, "Duration_4.0.4")  # two seconds of sound, the clock at zero
    logits = jax.random.normal(jax.random.key(0), (1, len(setup.tokenizer.names)))
    allowed, then = setup.grammar.look(clock, jnp)
    got = constrain(setup.grammar, clock, logits, within(setup, 0.0, 1.5))
    eos = setup.grammar.eos
    # The note that sounds was there before; the shortest new one has to fit.
    allowed &= then.note_end <= clock.note_end[:, None]
    over = np.asarray(allowed & (then.seconds + then.position_ticks * then.tick_seconds > 1.5))[0]
    assert over.any()
    assert (got[0, over] == -np.inf).all()
    inside = np.asarray(allowed)[0] & ~over
    inside[eos] = False
    np.testing.assert_array_equal(got[0, inside], logits[0, inside])
    ending = np.logaddexp.reduce(np.asarray(logits)[0, over | (np.arange(len(over)) == eos)])
    np.testing.assert_allclose(got[0, eos], ending, rtol=1e-5)
    assert (got[0, ~np.asarray(allowed)[0]] == -np.inf).all()


def test_no_end_before_the_notes_fill_the_time(setup, after):
    logits = jnp.zeros((1, len(setup.tokenizer.names)))
    sound = 4 * 60 / 121.29

    def may_end(clock, end):
        got = constrain(setup.grammar, clock, logits, within(setup, 0.0, end))
        assert (got > -jnp.inf).any()
        return bool(got[0, setup.grammar.eos] > -jnp.inf)

    clock = after(*NOTE, "Duration_4.0.4")
    assert may_end(clock, sound / EARLY_END - 0.01)
    assert not may_end(clock, sound / EARLY_END + 0.01)
    # A long rest behind the note does not make the piece longer.
    assert not may_end(after(*NOTE, "Duration_4.0.4", *["Bar_None", "TimeSig_4/4"] * 2), 2 * sound + 0.1)


def test_where_nothing_fits_there_is_only_the_end(setup, after):
    clock = after("Bar_None")._replace(state=jnp.array([12]))  # after EOS: the rows that are done
    got = constrain(setup.grammar, clock, jnp.zeros((1, len(setup.tokenizer.names))), within(setup, 0.0, 9.0))
    assert got[0, setup.grammar.eos] == 0
    assert (jnp.delete(got[0], setup.grammar.eos) == -jnp.inf).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_piece_of_frames_ends_with_a_whole_frame(seed):
    tokenizer = PianoRoll(0.5, (60, 64))
    grammar, random, ids = Grammar.create(tokenizer.spec, tokenizer.names), np.random.default_rng(seed), []
    playable = jnp.ones((1, len(tokenizer.names)), bool)
    limits = Limits(jnp.array([0.0]), jnp.array([4.0]), jnp.array([0]), jnp.array([ENDLESS]), playable)

    @jax.jit
    def follow(clock, id):
        clock = grammar.advance(clock, id, jnp)
        return clock, constrain(grammar, clock, jnp.zeros((1, len(tokenizer.names))), limits)

    clock, id = grammar.start((1,), jnp), tokenizer.spec.bos
    while id != tokenizer.spec.eos:
        clock, logits = follow(clock, jnp.array([id]))
        ids.append(id := int(random.choice(np.flatnonzero(np.isfinite(logits[0])))))
    frames = tokenizer.decode_frames(np.array(ids))
    assert EARLY_END * 8 <= len(frames) <= 8
    assert ids[-2] == tokenizer.spec.ranges["Frame"][0]
    assert tokenizer.encode_frames(frames).tolist() == ids[:-1]
