"""Where things lie on eight devices, and what a mesh that does not fit is told."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from amt_jax.errors import UserError
from amt_jax.model.config import TransformerConfig
from amt_jax.model.params import abstract_model
from amt_jax.parallel.mesh import MeshConfig, local_rows, make_mesh, put_batch
from amt_jax.training.config import OptimizerConfig
from amt_jax.training.optimizer import make_optimizer
from amt_jax.training.program import state_layout
from amt_jax.training.summary import device_bytes, weak_spots

MODEL = TransformerConfig(
    vocab_size=80, num_streams=1, num_layers=2, num_heads=8, num_kv_heads=4, d_model=64, d_ff=128, context_length=32,
    dropout=0.0, norm="rmsnorm", activation="swiglu", qk_norm=True, bias=False, rope_theta=1e4, clock="tokens",
    history=(), remat="none",
    dtype="float32",
)  # fmt: skip
OPTIMIZER = OptimizerConfig("adamw", 1e-2, 0.1, 0.1, 0.9, 0.99, 0.1, 1.0, 1.0)


@pytest.mark.parametrize(
    ("config", "batch", "shape"),
    [
        (MeshConfig(-1, 1, 1, 1), 8, (8, 1, 1, 1)),
        (MeshConfig(-1, 1, 1, 1), 6, (6, 1, 1, 1)),  # the most that share the batch evenly
        (MeshConfig(-1, 2, 1, 2), 4, (2, 2, 1, 2)),
        (MeshConfig(1, 1, 1, 1), 3, (1, 1, 1, 1)),
        (MeshConfig(1, 1, 2, 4), 1, (1, 1, 2, 4)),
    ],
)
def test_minus_one_fills(config, batch, shape):
    assert make_mesh(config, batch, MODEL).devices.shape == shape


@pytest.mark.parametrize(
    ("config", "batch", "message"),
    [
        (MeshConfig(16, 1, 1, 1), 16, "data 16 x fsdp 1 x tensor 1 x sequence 1 = 16 devices, but there are 8 devices"),
        (MeshConfig(-1, 16, 1, 1), 16, "data 1 x fsdp 16 x tensor 1 x sequence 1 = 16 devices, but there are 8"),
        (MeshConfig(4, 1, 1, 1), 6, "data x fsdp = 4 does not divide config.batch_size 6; 1, 2, 3, 6 would"),
        (MeshConfig(1, 3, 1, 1), 6, "fsdp = 3 does not divide config.model.d_model 64; 1, 2, 4, 8 would"),
        (MeshConfig(1, 1, 8, 1), 1, "tensor = 8 does not divide config.model.num_kv_heads 4; 1, 2, 4 would"),
        (MeshConfig(1, 1, 1, 3), 1, "tensor x sequence = 3 does not divide config.model.num_heads 8"),
        (MeshConfig(0, 1, 1, 1), 1, "an axis has at least 1 device"),
        (MeshConfig(-1, 1, -2, 1), 1, "an axis has at least 1 device"),
    ],
)
def test_what_does_not_fit_is_named(config, batch, message):
    with pytest.raises(UserError) as error:
        make_mesh(config, batch, MODEL)
    assert message in str(error.value)


def test_a_batch_that_several_processes_cannot_share_is_named():
    devices = [types.SimpleNamespace(process_index=number // 4) for number in range(8)]
    with pytest.raises(UserError, match=r"data x fsdp = 8 does not divide config.batch_size 6; .* a multiple of 8"):
        make_mesh(MeshConfig(-1, 1, 1, 1), 6, MODEL, devices)
    with pytest.raises(UserError, match="= 4 devices, but there are 8 devices of 2 processes"):
        make_mesh(MeshConfig(4, 1, 1, 1), 8, MODEL, devices)


def test_a_context_that_does_not_divide_is_named():
    with pytest.raises(UserError, match=r"sequence = 4 does not divide config.context 30; 1, 2, 3, 5, 6 would"):
        make_mesh(MeshConfig(1, 1, 1, 4), 1, dataclasses.replace(MODEL, context_length=30))


@pytest.mark.parametrize(
    ("config", "batch", "note"),
    [
        (MeshConfig(-1, 1, 1, 1), 8, ""),
        (MeshConfig(-1, 1, 1, 1), 6, "6 of 8 devices share a batch of 6 evenly; --config.batch_size=8 (or a multiple)"),
        (MeshConfig(-1, 2, 2, 1), 2, "4 of 8 devices share a batch of 2 evenly; --config.batch_size=4 (or a multiple)"),
        (MeshConfig(-1, 1, 1, 6), 8, "the mesh has 6 of 8 devices"),  # whatever the batch
        (MeshConfig(2, 1, 1, 1), 8, "the mesh has 2 of 8 devices"),
    ],
)
def test_devices_without_work_are_named(config, batch, note):
    model = dataclasses.replace(MODEL, num_heads=6, num_kv_heads=6, d_model=48, context_length=48)
    mesh = make_mesh(config, batch, model)
    shape = types.SimpleNamespace(mesh=mesh, layout=())
    lines = weak_spots(shape, types.SimpleNamespace(mesh=config, batch_size=batch))
    assert len(lines) == bool(note)
    assert note in "".join(lines)


@pytest.mark.parametrize(
    ("config", "crossing"),
    [
        (MeshConfig(3, 1, 4, 1), []),
        (MeshConfig(3, 1, 2, 2), []),
        (MeshConfig(4, 1, 3, 1), ["tensor"]),  # the second three lie on two hosts
        (MeshConfig(1, 1, 3, 4), ["tensor"]),
        (MeshConfig(1, 1, 1, 12), ["sequence"]),
    ],
)
def test_axes_across_three_hosts_of_four_devices_are_named(monkeypatch, config, crossing):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "device_count", lambda: 12)
    shape = dataclasses.asdict(config)
    mesh = types.SimpleNamespace(size=12, shape=shape, axis_names=tuple(shape), local_devices=range(4))
    lines = weak_spots(types.SimpleNamespace(mesh=mesh, layout=()), types.SimpleNamespace(mesh=config))
    assert [line.split()[1] for line in lines] == crossing


def test_parameters_and_moments_are_spread_by_the_rules():
    mesh = make_mesh(MeshConfig(2, 2, 2, 1), 4, MODEL)
    layout = state_layout(abstract_model(MODEL), make_optimizer(OPTIMIZER, 10), mesh)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="."): x.sharding.spec
        for path, x in jax.tree_util.tree_leaves_with_path(layout)
    }
    spread = {name: tuple(None if axes is None else axes for axes in spec) for name, spec in found.items()}
    fsdp, tensor = ("fsdp",), ("tensor",)
    for name, spec in {
        "embedding": (None, None, fsdp),
        "layers.0.attention.qkv.kernel": (fsdp, tensor),
        "layers.0.attention.out.kernel": (tensor, fsdp),
        "layers.1.feed_forward.up.kernel": (fsdp, tensor),
        "layers.1.feed_forward.gate.kernel": (fsdp, tensor),
        "layers.1.feed_forward.down.kernel": (tensor, fsdp),
        "layers.0.attention_norm.scale": (None,),
    }.items():
        everywhere = [place for path, place in spread.items() if path.endswith(name)]
        assert len(everywhere) == 3, name  # the parameter and AdamW's two moments
        assert {PartitionSpec(*spec)} == set(map(lambda place: PartitionSpec(*place), everywhere)), name


def test_memory_a_device_falls_with_fsdp():
    def kept(parts, averaged):
        mesh = make_mesh(MeshConfig(1, parts, 1, 1), 8, MODEL)
        layout = state_layout(abstract_model(MODEL), make_optimizer(OPTIMIZER, 10), mesh, averaged=averaged)
        return device_bytes(layout)

    for averaged, numbers in ((False, 3), (True, 4)):  # a parameter, two moments, its average
        whole = 4 * numbers * sum(x.size for x in jax.tree.leaves(abstract_model(MODEL).shapes))
        assert kept(1, averaged) == pytest.approx(whole, rel=1e-3)
        for parts in (2, 4, 8):
            assert kept(parts, averaged) == pytest.approx(whole / parts, rel=0.05)  # norms stay whole


def test_a_batch_is_cut_by_rows_and_time():
    mesh = make_mesh(MeshConfig(2, 1, 1, 4), 4, MODEL)
    batch = {"inputs": np.arange(4 * 32).reshape(4, 32, 1), "conditions": {"composer": np.arange(8).reshape(4, 2)}}
    np.testing.assert_array_equal(local_rows(mesh, 4), np.arange(4))
    placed = put_batch(batch, mesh, 4)
    assert {x.data.shape for x in placed["inputs"].addressable_shards} == {(2, 8, 1)}
    assert {x.data.shape for x in placed["conditions"]["composer"].addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(placed["inputs"], batch["inputs"])
    np.testing.assert_array_equal(placed["conditions"]["composer"], batch["conditions"]["composer"])
