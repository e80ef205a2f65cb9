"""What is heard, against a plain loop; that one token after another hears what a whole row does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.model.moments import Heard, Relative, hear, hear_on

ROW, SYMBOLS = 24, 9  # id 0 begins a moment, 1 to 6 sound, 7 and 8 do neither


@pytest.fixture(scope="module")
def config(make_config):
    pitches = tuple(id - 1 if 1 <= id <= 6 else -1 for id in range(17))
    return make_config(history=3, pitches=pitches, moments=tuple(id == 0 for id in range(17)))


def by_hand(tokens, segments, config):
    """For each token the pitches of its moment so far, of those before it, and the moment's number."""
    heard, moments = [], []
    for time, (token, segment) in enumerate(zip(tokens, segments, strict=True)):
        if time == 0 or segment != segments[time - 1]:
            moments = [set()]
        elif config.moments[token]:
            moments.append(set())
        moments[-1] |= {config.pitches[token]} - {-1}
        past = [moments[-2 - back] if len(moments) > back + 1 else set() for back in range(config.history)]
        heard.append((set(moments[-1]), past, len(moments) - 1))
    return heard


def sets(now, past):
    """Rows of 0 and 1 as sets of pitches."""
    return set(np.flatnonzero(now)), [set(np.flatnonzero(each)) for each in past]


rows = st.lists(st.integers(0, SYMBOLS - 1), min_size=ROW, max_size=ROW)


@given(tokens=rows, cuts=st.sets(st.integers(1, ROW - 1), max_size=4))
@settings(deadline=None, max_examples=100)
def test_it_is_what_a_loop_finds(config, tokens, cuts):
    segments = np.cumsum([time in cuts for time in range(ROW)]) + 1
    heard = jax.device_get(hear(jnp.array([tokens]), jnp.array([segments]), config))
    for time, (now, past, moment) in enumerate(by_hand(tokens, segments, config)):
        assert sets(heard.now[0, time], heard.past[0, time]) == (now, past)
        assert heard.moment[0, time] == moment


@given(tokens=rows)
@settings(deadline=None, max_examples=50)
def test_token_after_token_is_the_whole_row(config, tokens):
    whole = hear(jnp.array([tokens]), jnp.ones((1, ROW), jnp.int32), config)
    heard = jax.tree.map(lambda x: x[:, 0], whole)
    for time in range(1, ROW):
        heard = hear_on(heard, jnp.array([tokens[time]]), config)
        jax.tree.map(np.testing.assert_array_equal, heard, jax.tree.map(lambda x, time=time: x[:, time], whole))


@pytest.mark.parametrize("shift", [-4, 3])
def test_what_is_transposed_bends_the_transposed_logits(make_config, shift):
    pitches = 60
    config = make_config(
        vocab_size=pitches + 1,
        history=2,
        relative=5,
        pitches=(-1, *range(pitches)),
        moments=(True,) + (False,) * pitches,
    )
    relative = Relative(config, rngs=nnx.Rngs(0))
    random, middle = np.random.default_rng(0), slice(20, 40)
    x = random.normal(size=(4, config.d_model)).astype(np.float32)
    chords = np.zeros((4, 3, pitches), np.float32)
    chords[..., middle] = random.random((4, 3, 20)) < 0.3

    def bent(chords):
        added = relative(x, Heard(chords[:, 0], chords[:, 1:], np.zeros(4, np.int32)))
        assert not added[:, 0].any()  # no pitch
        return np.asarray(added[:, 1:])

    plain, moved = bent(chords), bent(np.roll(chords, shift, axis=-1))
    assert np.ptp(plain[:, middle], axis=1).min() > 0.01
    np.testing.assert_allclose(moved[:, 5:-5], np.roll(plain, shift, axis=-1)[:, 5:-5], atol=1e-6)
