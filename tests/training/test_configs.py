import jax
import pytest

from amt_jax.data.card import Card, Vocabulary
from amt_jax.errors import UserError
from amt_jax.model.params import abstract_model
from amt_jax.tokens.spec import TokenSpec
from amt_jax.train import load_config, override
from amt_jax.training.config import TrainConfig, transformer_config
from amt_jax.training.optimizer import depth_factors
from amt_jax.training.run_folder import RunFolder


def parameters(name):
    composers = Vocabulary("categorical", tuple(f"composer {i}" for i in range(238)))
    card = Card(TokenSpec("remi", 1, 419, 0, 1, 2, {"all": (0, 419)}), {}, {"composer": composers})
    config = transformer_config(TrainConfig.from_json(load_config(name)), card)
    return sum(x.size for x in jax.tree.leaves(abstract_model(config).shapes))


def test_remi_composer_is_system_r():
    config = TrainConfig.from_json(load_config("remi_composer"))
    model, optimizer, composer = config.model, config.optimizer, config.conditions["composer"]
    assert (model.num_layers, model.num_heads, model.d_model, model.d_ff, config.context) == (8, 8, 512, 2048, 8192)
    assert (model.dropout, model.remat, composer.scale, composer.dropout) == (0.1, "full", 0.25, 0.6)
    assert (config.batch_size, config.accumulation, optimizer.learning_rate, optimizer.warmup) == (2, 8, 5e-4, 0.05)
    assert (optimizer.clip_norm, config.label_smoothing, config.token_dropout, config.save_every) == (1.0, 0.1, 0.01, 0)
    assert 25e6 <= parameters("remi_composer") <= 30e6


def test_amt_86m_is_the_decoder_of_system_a():
    config = TrainConfig.from_json(load_config("amt_86m"))
    model, optimizer = config.model, config.optimizer
    assert (model.num_layers, model.num_heads, model.d_model, model.dropout, config.context) == (12, 12, 768, 0.1, 2048)
    assert (optimizer.b1, optimizer.b2, optimizer.layer_decay, optimizer.final) == (0.9, 0.95, 0.95, 0.0)
    assert (config.accumulation, config.label_smoothing, round(optimizer.warmup * config.steps)) == (8, 0.1, 10_000)
    assert parameters("amt_86m") == pytest.approx(86e6, rel=0.01)


def test_amt_semantic_is_the_decoder_of_system_a_for_semantic_tokens():
    config = TrainConfig.from_json(load_config("amt_semantic"))
    model, optimizer = config.model, config.optimizer
    assert (model.num_layers, model.num_heads, model.d_model, model.d_ff) == (6, 8, 768, 1024)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_norm) == (1e-4, 0.01, 1.0)
    assert (config.rows_per_step, round(optimizer.warmup * config.steps)) == (32, 1000)
    assert parameters("amt_semantic") == pytest.approx(23.4e6, rel=0.04)  # by their count, with another vocabulary


def test_remi_modern_is_as_large():
    assert parameters("remi_modern") == pytest.approx(parameters("remi_composer"), rel=0.05)


def test_configs_are_found_by_name_and_path(tmp_path, monkeypatch):
    by_name = load_config("demo")
    assert by_name == load_config("configs/demo.py")
    monkeypatch.chdir(tmp_path)
    assert by_name == load_config("configs/demo.py") == load_config("demo")
    lines = "from configs import demo", "def get_config(arg):", "    return demo.get_config() if arg == '7' else None"
    (tmp_path / "mine.py").write_text("\n".join(lines))
    assert load_config(f"{tmp_path}/mine.py:7") == by_name
    with pytest.raises(UserError, match=r"no config .*demo.*: neither a file nor a name"):
        load_config(f"{tmp_path}/demo.py")


@pytest.mark.parametrize("name", ["demo:x", "text_cross:tiny", "pianoroll:jsp"])
def test_an_argument_that_a_config_does_not_take_is_refused(name):
    with pytest.raises(UserError, match="config "):
        load_config(name)


def test_overrides_keep_types_and_name_near_fields():
    fields = load_config("demo")
    changed = override(fields, ["--config.optimizer.learning_rate=1", "--config.model.bias=true", "--config.seed", "5"])
    assert changed["optimizer"]["learning_rate"] == 1.0
    assert changed["model"]["bias"] is True
    assert changed["seed"] == 5
    assert fields == load_config("demo")
    with pytest.raises(UserError, match=r"unknown field --config\.'model\.n_layers' .did you mean 'model\.num_l"):
        override(fields, ["--config.model.n_layers=2"])


def test_a_history_is_changed_in_a_run_as_in_a_config(tmp_path, make_config):
    run = RunFolder(tmp_path)
    run.write_config(make_config({"model.history": (1, 2)}))
    changed = override(run.config_json(), ["--config.model.history=(1,2,8)"])
    assert TrainConfig.from_json(changed) == make_config({"model.history": (1, 2, 8)})


@pytest.mark.parametrize("words", [["history=(1,3)"], ["clock=moments"], ["history=(2,)", "clock=moments"]])
def test_every_way_to_hear_moments_builds_a_network_whose_layers_may_differ_in_rate(words):
    fields = override(load_config("demo"), [f"--config.model.{word}" for word in words])
    spec = TokenSpec("rolls", 1, 92, 0, 1, 2, {"special": (0, 3), "Frame": (3, 4), "Pitch": (4, 92)})
    model = abstract_model(transformer_config(TrainConfig.from_json(fields), Card(spec, {})))
    factors = depth_factors(model.shapes, 0.5)
    assert jax.tree.structure(factors) == jax.tree.structure(model.shapes)
