"""The likelihood against direct computation, piece by piece."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from flax import nnx

from amt_jax.data.card import Card, Shard, Split, Vocabulary, content_hash, file_sha256
from amt_jax.data.pipeline import Records, Retold
from amt_jax.data.record import Record
from amt_jax.evaluation.likelihood import evaluate_likelihood
from amt_jax.evaluation.metrics import bootstrap
from amt_jax.model.conditioning import ConditionConfig
from amt_jax.model.config import TransformerConfig
from amt_jax.model.transformer import Transformer
from amt_jax.tokens.spec import TokenSpec

SPEC = TokenSpec(
    "test",
    1,
    40,
    0,
    1,
    2,
    {"PAD": (0, 1), "BOS": (1, 2), "EOS": (2, 3), "Pitch": (3, 20), "PitchDrum": (20, 25), "Velocity": (25, 40)},
)
CONTEXT = 16
CONFIG = TransformerConfig(
    vocab_size=40, num_streams=1, num_layers=2, num_heads=2, num_kv_heads=2, d_model=16, d_ff=32,
    context_length=CONTEXT, dropout=0.5, norm="layernorm",
    activation="gelu", qk_norm=False, bias=True, rope_theta=10_000.0, clock="tokens",
    history=(), remat="none",
    dtype="float32", conditions=(ConditionConfig("composer", 3, scale=1.0, dropout=0.6),),
)  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    random = np.random.default_rng(0)
    data = [
        Record(
            random.integers(3, 40, n).astype(np.uint16), {"composer": "AB"[i % 2]}, str(i), str(i), f"{i}.mid"
        ).to_bytes()
        for i, n in enumerate([5, 3, 7, 0, 50, 15, 16, 17])
    ]
    path = folder / "test-00000.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for each in data:
        writer.write(each)
    writer.close()
    lengths = np.array([len(Record.from_bytes(each).ids) for each in data], np.int32)
    np.save(folder / "test-00000.lengths.npy", lengths)
    shard = Shard(path.name, len(data), int(lengths.sum()), file_sha256(path))
    splits = {"test": Split((shard,), content_hash(data))}
    return Records(folder, Card(SPEC, splits, {"composer": Vocabulary("categorical", ("A", "B"), (4, 4))}), "test")


@pytest.fixture(scope="module")
def params():
    return nnx.to_pure_dict(nnx.state(Transformer(CONFIG, rngs=nnx.Rngs(0)), nnx.Param))


@jax.jit
def log_probabilities(params, window, composer):
    """Of one window [T] on its own, padded with -1 to a length that compiles once. [T, V]"""
    model = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)))), params)
    segments = (window >= 0).astype(jnp.int32)[None]
    inputs = jnp.maximum(window, 0)[None, :, None]
    logits = model(inputs, jnp.arange(len(window))[None], segments, {"composer": composer[None, None, None]})
    return jax.nn.log_softmax(logits[0, :, 0])


def direct(params, records, index, conditioned=True, context=CONTEXT):
    """Nats of each target of one record: windows by half a context, each target from the first window that has it."""
    record = records[index]
    sequence = np.concatenate([[SPEC.bos], record.ids, [SPEC.eos]]).astype(np.int32)
    composer = records.card.conditions["composer"].vector(record.conditions["composer"] if conditioned else None)
    nats = []
    for start in range(0, len(sequence), context // 2):
        inputs, targets = sequence[:-1][start : start + context], sequence[1:][start : start + context]
        window = np.pad(inputs, (0, context - len(inputs)), constant_values=-1)
        log_p = log_probabilities(params, window, composer)
        nats += [-float(log_p[i, targets[i]]) for i in range(len(nats) - start, len(targets))]
    return nats


@pytest.mark.parametrize("conditioned", [True, False])
def test_equals_direct_computation(params, records, conditioned, told):
    scored = records if conditioned else Retold(records, lambda index: {})
    found = evaluate_likelihood(CONFIG, params, scored, told(records.card), notes=records.lengths)
    nats = [direct(params, records, index, conditioned) for index in range(len(records))]
    total = sum(map(sum, nats))
    assert found.tokens == sum(map(len, nats)) == int(records.lengths.sum()) + len(records)
    assert found.nats_per_token.value == pytest.approx(total / found.tokens, rel=1e-5)
    assert found.notes == records.lengths.sum()
    assert found.nats_per_note.value == pytest.approx(total / found.notes, rel=1e-5)
    assert found.perplexity.value == pytest.approx(math.exp(total / found.tokens), rel=1e-4)
    pairs = np.array([[sum(piece), len(piece)] for piece in nats])  # the interval is over pieces
    expected = bootstrap(lambda x: x[:, 0].sum() / x[:, 1].sum(), [pairs], 0)
    assert dataclasses.astuple(found.nats_per_token) == pytest.approx(dataclasses.astuple(expected), rel=1e-5)


def test_conditions_matter(params, records, told):
    with_them = evaluate_likelihood(CONFIG, params, records, told(records.card))
    without = evaluate_likelihood(CONFIG, params, Retold(records, lambda index: {}), told(records.card))
    assert with_them.nats_per_token.value != without.nats_per_token.value


def test_a_whole_piece_in_one_window(params, records, told):
    """In windows of 128 every piece is scored as a whole, whatever it is packed with."""
    wide = evaluate_likelihood(dataclasses.replace(CONFIG, context_length=128), params, records, told(records.card))
    total = sum(sum(direct(params, records, index, context=128)) for index in range(len(records)))
    assert wide.nats_per_token.value * wide.tokens == pytest.approx(total, rel=1e-5)


def test_a_model_that_knows_nothing_scores_log_v(params, records, told):
    nothing = jax.tree.map(jnp.zeros_like, params)
    found = evaluate_likelihood(CONFIG, nothing, records, told(records.card), seconds=np.full(len(records), 2.0))
    assert found.nats_per_token.value == pytest.approx(math.log(40), rel=1e-6)
    assert found.perplexity.value == pytest.approx(40, rel=1e-5)
    assert found.accuracy.value == 0  # the likeliest of equals is id 0, PAD, which is never a target
    assert found.bits_per_second.value == pytest.approx(found.tokens * math.log2(40) / (2 * len(records)))
    assert {kind: score.nats for kind, score in found.types.items()} == pytest.approx(
        dict.fromkeys(("EOS", "Pitch", "PitchDrum", "Velocity"), math.log(40))
    )
    assert found.types["EOS"].count == len(records)
    assert sum(score.count for score in found.types.values()) == found.tokens


def test_types_add_up(params, records, told):
    found = evaluate_likelihood(CONFIG, params, records, told(records.card))
    total = sum(score.count * score.nats for score in found.types.values())
    assert total / found.tokens == pytest.approx(found.nats_per_token.value)
    right = sum(score.count * score.accuracy for score in found.types.values())
    assert right / found.tokens == pytest.approx(found.accuracy.value)
    assert all(math.isnan(x.value) for x in (found.bits_per_second, found.nats_per_note, found.nats_per_frame))
