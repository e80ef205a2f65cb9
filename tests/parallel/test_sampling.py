"""Several devices make the music and the scores that one makes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from amt_jax.data.card import Card
from amt_jax.data.pipeline import Records
from amt_jax.errors import UserError
from amt_jax.evaluation.likelihood import evaluate_likelihood
from amt_jax.model.conditioning import ConditionConfig
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import init_params
from amt_jax.parallel.mesh import MeshConfig, local_mesh
from amt_jax.sampling.request import Request
from amt_jax.sampling.sampler import Sampler
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.grammar import Grammar
from amt_jax.tokens.symbolic import SymbolicTokenizer

TOKENIZER = SymbolicTokenizer.create("remi")
CONFIG = TransformerConfig(
    vocab_size=TOKENIZER.spec.vocab_size, num_streams=1, num_layers=2, num_heads=4, num_kv_heads=2, d_model=32,
    d_ff=32, context_length=64, dropout=0.0, norm="rmsnorm", activation="swiglu", qk_norm=True, bias=False,
    rope_theta=1e4, clock="tokens", history=(), remat="none", dtype="float32",
    conditions=(ConditionConfig("composer", 3, scale=1.0, dropout=0.5),),
)  # fmt: skip
MESHES = ["data=4", "tensor=2", "data=2,fsdp=2,tensor=2"]


def one_hot(number):
    return np.eye(3, dtype=np.float16)[[number]]


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(init_params, CONFIG))(jax.random.key(0))


def sampler(params, mesh, weights="auto"):
    grammar, devices = Grammar.create(TOKENIZER.spec, TOKENIZER.names), local_mesh(MeshConfig.parse(mesh), CONFIG)
    return Sampler(CONFIG, params, TOKENIZER.spec, grammar, mesh=devices, weights=weights)


@pytest.fixture(scope="module")
def requests():
    settings = GenerationSettings(seconds=600, max_tokens=100, guidance=2, seed=3)  # over two windows
    return [Request(dataclasses.replace(settings, seed=seed), {"composer": one_hot(seed % 3)}) for seed in range(4)]


@pytest.fixture(scope="module")
def expected(params, requests):
    return list(sampler(params, "").generate(requests))


@pytest.mark.parametrize("mesh", MESHES)
def test_the_music_is_the_same(params, requests, expected, mesh):
    made = sampler(params, mesh)
    found = list(made.generate(requests))
    assert {result.bucket for result in found} == {result.bucket for result in expected}  # 4 rows in each
    for a, b in zip(found, expected, strict=True):
        assert len(b.ids) > 50
        np.testing.assert_array_equal(a.ids, b.ids)


def test_the_music_of_8_bit_matrices_is_the_same(params, requests, expected):
    one, many = (list(sampler(params, mesh, "int8").generate(requests)) for mesh in ("", MESHES[-1]))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
    assert any(not np.array_equal(a.ids, b.ids) for a, b in zip(one, expected, strict=True))


def test_a_batch_is_filled_up_to_what_the_devices_share(params, requests):
    made = sampler(params, "data=4")
    assert made.bucket(requests[:1]).rows == 4
    assert made.bucket([*requests, requests[0]]).rows == 8
    with pytest.raises(UserError, match="made in a batch of 1 pieces"):
        made.replay(requests[0], sampler(params, "").bucket(requests[:1]), 0)


def test_what_three_devices_made_one_makes_again(params, requests, expected):
    bucket = sampler(params, "data=3").bucket(requests[:2])
    assert bucket.rows == 3
    np.testing.assert_array_equal(sampler(params, "").replay(requests[0], bucket, 0).ids, expected[0].ids)


@pytest.mark.parametrize("mesh", MESHES)
def test_the_likelihood_is_the_same(tmp_path, params, write_dataset, make_pieces, mesh, told):
    write_dataset(tmp_path / "set", make_pieces([5, 300, 64, 63, 1]), spec=TOKENIZER.spec)
    records = Records(tmp_path / "set", Card.load(tmp_path / "set"), "train")
    one = evaluate_likelihood(CONFIG, params, records, told(records.card))
    many = evaluate_likelihood(
        CONFIG, params, records, told(records.card), mesh=local_mesh(MeshConfig.parse(mesh), CONFIG)
    )
    assert (many.tokens, many.notes, many.pieces) == (one.tokens, one.notes, one.pieces)
    np.testing.assert_allclose(dataclasses.astuple(many.nats_per_token), dataclasses.astuple(one.nats_per_token), 1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datum=2", "unknown mesh axis 'datum' (did you mean 'data'"),
        ("data", "mesh axis data has '' devices; a mesh is given as data=2,tensor=4"),
        ("tensor=4", "tensor = 4 does not divide config.model.num_kv_heads 2"),
        ("data=16", "= 16 devices, but there are 8 devices"),
        ("sequence=2", "time is not cut"),
    ],
)
def test_a_mesh_that_cannot_be_is_named(text, message):
    with pytest.raises(UserError) as error:
        local_mesh(MeshConfig.parse(text), CONFIG)
    assert message in str(error.value)
