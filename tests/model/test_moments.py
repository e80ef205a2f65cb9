"""What is heard, against a plain loop; that one token after another hears what a whole row does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.model.moments import hear, hear_last, hear_on, told

ROW, SYMBOLS = 24, 9  # id 0 begins a moment, 1 to 6 sound, 7 and 8 do neither


@pytest.fixture(scope="module")
def config(make_config):
    pitches = tuple(id - 1 if 1 <= id <= 6 else -1 for id in range(17))
    return make_config(history=(1, 2, 5), pitches=pitches, moments=tuple(id == 0 for id in range(17)))


def by_hand(tokens, segments, config):
    """For each token the pitches of its moment so far, of those before it, and the moment's number."""
    heard, moments = [], []
    for time, (token, segment) in enumerate(zip(tokens, segments, strict=True)):
        if time == 0 or segment != segments[time - 1]:
            moments = [set()]
        elif config.moments[token]:
            moments.append(set())
        moments[-1] |= {config.pitches[token]} - {-1}
        past = [moments[-1 - lag] if len(moments) > lag else set() for lag in config.history]
        heard.append(([set(moments[-1]), *past], len(moments) - 1))
    return heard


rows = st.lists(st.integers(0, SYMBOLS - 1), min_size=ROW, max_size=ROW)


@given(tokens=rows, cuts=st.sets(st.integers(1, ROW - 1), max_size=4))
@settings(deadline=None, max_examples=100)
def test_it_is_what_a_loop_finds(config, tokens, cuts):
    segments = np.cumsum([time in cuts for time in range(ROW)]) + 1
    heard = jax.device_get(hear(jnp.array([tokens]), jnp.array([segments]), config))
    for time, (chords, moment) in enumerate(by_hand(tokens, segments, config)):
        assert [set(np.flatnonzero(chord)) for chord in heard.chords[0, time]] == chords
        assert heard.moment[0, time] == moment


@given(tokens=rows, prompt=st.integers(1, ROW), padding=st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_token_after_token_is_the_whole_row(config, tokens, prompt, padding):
    """After a prompt with padding before it, as the sampler reads it."""
    whole = hear(jnp.array([tokens]), jnp.ones((1, ROW), jnp.int32), config)
    segments = np.repeat([[0, 1]], [padding, prompt], axis=1)
    heard = hear_last(jnp.array([[0] * padding + tokens[:prompt]]), jnp.array(segments), config)
    for time in range(prompt - 1, ROW):
        if time >= prompt:
            heard = hear_on(heard, jnp.array([tokens[time]]), config)
        expected = jax.tree.map(lambda x, time=time: x[:, time], whole)
        jax.tree.map(np.testing.assert_array_equal, told(heard, config), expected)
