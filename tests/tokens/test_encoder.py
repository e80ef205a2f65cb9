"""The encoder gives exactly MidiTok's own ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.errors import MidiError
from amt_jax.tokens.encoder import Encoder
from amt_jax.tokens.symbolic import PRESETS, SymbolicTokenizer

TOKENIZERS = {preset: SymbolicTokenizer.create(preset) for preset in PRESETS}


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_ids_are_those_of_miditok(preset, make_score, seed):
    tokenizer = TOKENIZERS[preset]
    try:
        score = tokenizer.preprocess(make_score(seed))
    except MidiError:
        return
    expected = tokenizer._tokenizer.encode(score, encode_ids=False, no_preprocess_score=True)
    expected = expected if PRESETS[preset].programs else expected[0]
    np.testing.assert_array_equal(Encoder(tokenizer.names).encode(score), expected.ids)
