"""TokenSpec refuses ranges that do not tile the base vocabulary, expands merges, survives json."""

import json

import numpy as np
import pytest

from amt_jax.tokens.spec import TokenSpec


def made_spec(**changes) -> TokenSpec:
    fields = {
        "name": "small",
        "num_streams": 1,
        "vocab_size": 8,
        "pad": 0,
        "bos": 1,
        "eos": 2,
        "ranges": {"PAD": (0, 1), "BOS": (1, 2), "EOS": (2, 3), "Pitch": (3, 6)},
        "merges": ((3, 4), (4, 5, 5)),
    }
    return TokenSpec(**(fields | changes))


def test_merges_stand_for_base_ids():
    spec = made_spec()
    assert spec.base_size == 6
    ids = np.array([6, 5, 7, 2], np.uint16)
    expanded = spec.expand(ids)
    assert expanded.dtype == np.uint16
    assert expanded.tolist() == [3, 4, 5, 4, 5, 5, 2]
    assert spec.expand(expanded).tolist() == expanded.tolist()
    assert made_spec(vocab_size=6, merges=()).expand(ids) is ids


def test_every_id_has_a_type():
    assert made_spec().type_ids().tolist() == [0, 1, 2, 3, 3, 3, 3, 3]


def test_json_keeps_everything():
    spec = made_spec()
    assert TokenSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "ranges",
    [
        {"a": (0, 2), "b": (3, 6)},
        {"a": (0, 4), "b": (3, 6)},
        {"a": (1, 6)},
        {"a": (0, 5)},
        {"a": (0, 8)},
    ],
)
def test_ranges_tile_the_base_vocabulary(ranges):
    with pytest.raises(ValueError, match="ranges"):
        made_spec(ranges=ranges)


def test_a_misspelt_field_is_an_error():
    with pytest.raises(TypeError):
        TokenSpec.from_json(made_spec().to_json() | {"vocabsize": 3})
