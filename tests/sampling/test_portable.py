"""What is exported, against what it was exported from."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from symusic import Note, Score, Track

from amt_jax.data.card import Vocabulary
from amt_jax.data.conditions import Conditions
from amt_jax.model.params import fingerprint
from amt_jax.sampling import sampler
from amt_jax.sampling.play import Model
from amt_jax.sampling.portable import named, save_programs, save_weights, unnamed
from amt_jax.sampling.request import Bucket, Request
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.symbolic import SymbolicTokenizer

VOCABULARIES = {
    "composer": Vocabulary("categorical", ("A", "B, C", "OTHER"), (1, 1, 1)),
    "mood": Vocabulary("multi_label", ("calm", "sad"), (1, 1)),
    "words": Vocabulary("text", length=2, width=4),
    "tempo": Vocabulary("scalar", knots=(60.0, 90.0, 120.0)),
}


@pytest.fixture(scope="module")
def folder(setup, tmp_path_factory):
    """The model of `setup`, exported for two pieces with guidance."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = save_weights(folder, setup.config, setup.params)
    sizes = {"batch": 2, "guided": True, "platforms": ["cpu"]}
    save_programs(folder, setup.config, setup.tokenizer, VOCABULARIES, checkpoint, **sizes)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Model(folder)


@pytest.fixture(scope="module")
def start(setup):
    """The ids of a beginning."""
    (result,) = setup.sampler.generate([Request(GenerationSettings(seconds=500, max_tokens=32))])
    return result.ids


def test_weights_come_back_bit_for_bit(setup, folder):
    restored = unnamed(setup.params, load_file(folder / "weights.safetensors"))
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), restored, setup.params)
    with safe_open(folder / "weights.safetensors", "numpy") as file:
        about = file.metadata()
    assert about["fingerprint"] == fingerprint(setup.params) == fingerprint(restored)
    config = json.loads(about["config"])
    assert config == json.loads(json.dumps(dataclasses.asdict(setup.config)))
    assert "layers.0.attention.qkv.kernel" in named(setup.params)


@pytest.mark.parametrize("length", [0, 20])
def test_plays_as_the_sampler_does(setup, model, start, length, monkeypatch):
    """Every way in, guidance, a penalty, a begun bar, and a window that grows, is full and moves on."""
    monkeypatch.setattr(sampler, "SMALLEST_WINDOW", 32)
    monkeypatch.setitem(model.about, "smallest_window", 32)
    words = np.zeros((3, 5), np.float16)
    words[0, 0] = words[1, 2] = 1
    told = {"composer": "B, C", "mood": ["calm", "sad"]}
    conditions = Conditions(VOCABULARIES, {"composer": 1, "mood": 1})
    settings = {"seconds": 500.0, "max_tokens": 100, "guidance": 2.5, "repetition_penalty": 1.5, "top_p": 1.0}
    prompt = start[:length]
    requests = [
        Request(
            GenerationSettings(**settings, seed=seed),
            {name: conditions.value(name, value) for name, value in told.items()} | {"words": words},
            prompt,
        )
        for seed in (2**32 - 1, 0)
    ]
    expected = [np.concatenate([prompt, result.ids]) for result in setup.sampler.generate(requests)]
    asked = {"composer": "b, c", "mood": "sad,calm", "words": words}
    made = list(model.generate(2, prompt, **asked, **settings, seed=2**32 - 1))
    assert min(map(len, made)) > setup.config.context_length
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("length", [0, 20])
def test_bars_end_it_and_fewer_pieces_than_a_batch_are_made(setup, model, start, length):
    request = Request(GenerationSettings(seconds=36000, bars=2, seed=3, max_tokens=128), prompt=start[:length])
    bucket = Bucket(rows=2, width=32 if length else 1, branches=2, candidates=64, budget=128)
    (made,) = model.generate(1, start[:length], bars=2, seed=3, max_tokens=128)
    assert 0 < len(made) - length < 128
    np.testing.assert_array_equal(made[length:], setup.sampler.replay(request, bucket, 0).ids)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(
    ("name", "asked", "value"),
    [
        ("composer", None, None),
        ("composer", "a", "A"),
        ("mood", "calm", ["calm"]),
        ("mood", "sad, calm", ["calm", "sad"]),
        ("tempo", "10", 10),
        ("tempo", 97.5, 97.5),
        ("tempo", 120, 120),
    ],
)
def test_values_are_told_as_a_run_tells_them(tmp_path, name, asked, value, length):
    vocabulary = VOCABULARIES[name]
    about = {"kind": vocabulary.kind, "values": vocabulary.values, "knots": vocabulary.knots, "length": length}
    about["width"] = vocabulary.size
    (tmp_path / "manifest.json").write_text(json.dumps({"conditions": {name: about}, "dtype": "float32"}))
    save_file({}, tmp_path / "weights.safetensors")
    expected = Conditions({name: vocabulary}, {name: length}).value(name, value)
    np.testing.assert_array_equal(Model(tmp_path).value(name, asked), expected, strict=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"count": 0}, "count is at least 1"),
        ({"top_k": 65}, "top_k is a whole number from 1 to 64, not 65"),
        ({"top_k": 2.5}, "whole number"),
        ({"polyphony": 3}, "unknown 'polyphony'; there are seconds"),
        ({"composer": "Bahc"}, "unknown composer 'Bahc'; there are A, B, C, OTHER"),
        ({"words": "a waltz"}, "its encoder is not here"),
        ({"prompt": [3] * 32}, "a prompt has at most 31 tokens, not 32"),
        ({"prompt": [419]}, "ids below 419"),
    ],
)
def test_what_cannot_be_is_said(model, asked, message):
    with pytest.raises(ValueError, match=message):
        next(model.generate(**asked))


@pytest.mark.parametrize("preset", ["remi", "remi_multitrack"])
def test_midi_is_what_the_tokenizer_decodes(tmp_path, preset):
    """With BPE, one piano or several instruments."""
    tokenizer = SymbolicTokenizer.create(preset)
    score = Score(480)
    for program in (0, 40):
        notes = [Note(240 * index, 240, 60 + index % 5 + program // 10, 80) for index in range(60)]
        score.tracks.append(Track(program=program, notes=notes))
    tokenizer.train_bpe([tokenizer.encode(score, merge=False)], tokenizer.spec.base_size + 20)
    tokenizer.save(tmp_path)
    about = {"vocabulary": tokenizer.names, "merges": tokenizer.spec.merges, "eos": tokenizer.spec.eos}
    about |= {"tokenization": "REMI", "one_stream": preset != "remi", "dtype": "float32"}
    (tmp_path / "manifest.json").write_text(json.dumps(about))
    save_file({}, tmp_path / "weights.safetensors")
    ids = tokenizer.encode(score)
    assert max(ids) >= tokenizer.spec.base_size
    Model(tmp_path).save_midi(ids, tmp_path / "made.mid")
    made, expected = Score(tmp_path / "made.mid").tracks, tokenizer.decode(ids).tracks
    assert [(track.program, track.notes) for track in made] == [(track.program, track.notes) for track in expected]
