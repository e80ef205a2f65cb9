"""Wishes: what a text is understood as, and what follows from it for an order."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from amt_jax.data.captions import FILE, Caption
from amt_jax.data.card import Card, Vocabulary
from amt_jax.errors import UserError
from amt_jax.sampling.order import Order
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.sampling.wish import Reader
from amt_jax.text.bert import BertEncoder
from amt_jax.text.clusters import Clusters
from amt_jax.text.tfidf import TfidfEncoder
from amt_jax.tokens.spec import TokenSpec

BERT = Path(__file__).parents[1] / "pretrained" / "goldens" / "bert"
CAPTIONS = ("a calm waltz for piano", "a fast jig for fiddle", "a sad song for guitar and piano")


@pytest.fixture
def folder(tmp_path):
    encoder = TfidfEncoder.fit(CAPTIONS)
    encoder.save(tmp_path)
    lines = [json.dumps(dataclasses.asdict(Caption(text, False, False, 1, 1))) for text in CAPTIONS]
    (tmp_path / FILE).write_text("\n".join(lines) + "\n")
    pooled = encoder.pooled(CAPTIONS)
    np.save(tmp_path / "pooled.npy", pooled.astype(np.float16))
    Clusters(pooled, {}, encoder.digest).save(tmp_path)
    return tmp_path


@pytest.fixture
def card():
    conditions = {
        "text": Vocabulary("text", width=4),
        "composer": Vocabulary("categorical", ("A", "Bach", "Saint-Saens")),
        "genre": Vocabulary("multi_label", ("jig", "waltz")),
        "tempo": Vocabulary("scalar", knots=(60.0, 180.0)),
        "density": Vocabulary("scalar", knots=(2.0, 12.0)),
        "semantic": Vocabulary("categorical", ("0", "1", "2")),
    }
    return Card(TokenSpec("test", 1, 40, 0, 1, 2, {}), {}, conditions=conditions)


@pytest.fixture
def reader(folder, card):
    return Reader(folder, card, has_programs=True)


def order(text, **values):
    instruments = values.pop("instruments", ())
    return Order(GenerationSettings(), {"text": text, **values}, instruments=instruments)


def test_what_a_text_says_is_told_apart_from_it(reader):
    made, wish = reader.fulfil(order("a calm waltz at 90 BPM without drums"))
    assert made.conditions == {"text": wish.understanding.text, "genre": ["waltz"], "tempo": 90.0, "semantic": "0"}
    assert "drums" not in made.instruments
    assert "piano" in made.instruments
    assert wish.nearest[0][0] == CAPTIONS[0]
    assert "told to the model besides the text: genre waltz; tempo 90" in wish.lines()
    assert "kept out: drums" in wish.lines()


@pytest.mark.parametrize(("text", "bpm"), [("a slow waltz", 71.0), ("presto", 144.0), ("not slow", None)])
def test_words_for_a_tempo_are_told_as_one(reader, text, bpm):
    made, wish = reader.fulfil(order(text))
    assert made.conditions.get("tempo") == bpm
    assert (f"tempo {bpm}".removesuffix(".0") in str(wish.lines())) == (bpm is not None)


@pytest.mark.parametrize(
    ("text", "composer"),
    [
        ("A waltz in Bach's style", "Bach"),
        ("a Saint-Saens waltz", "Saint-Saens"),
        ("not like Bach", None),
        ("Offenbach", None),
        ("Bach or Saint-Saens", None),
    ],
)
def test_the_one_composer_that_a_text_names_is_told(reader, text, composer):
    assert reader.read(text).conditions.get("composer") == composer


@pytest.mark.parametrize(("text", "notes"), [("few notes", 3.0), ("dense", 11.0), ("not dense", None)])
def test_words_for_a_density_are_told_as_one(reader, text, notes):
    assert reader.read(text).conditions.get("density") == notes


def test_a_text_longer_than_the_encoder_reads_is_said(reader, folder, card):
    assert "reads the first" not in str(reader.read("a calm waltz " * 1000).lines())
    encoder = BertEncoder(str(BERT), length=8)
    encoder.save(folder)
    np.save(folder / "pooled.npy", encoder.pooled(CAPTIONS).astype(np.float16))
    Clusters(encoder.pooled(CAPTIONS), {}, encoder.digest).save(folder)
    reader = Reader(folder, card, has_programs=True)
    text = "sad song with piano and guitar and drums"
    read = encoder.words_read(text)
    assert 0 < read < 8
    assert f"note: the model's text encoder reads the first {read} of 8 words; the music is not led by the others" in (
        reader.read(text).lines()
    )
    assert "reads the first" not in str(reader.read("sad").lines())


@pytest.mark.parametrize(
    ("text", "unheard"),
    [
        ("a waltz for bass", ("bass",)),  # training texts have a bassoon
        ("a waltz for drums", ()),  # and a drum kit
        ("a hip hop song for violin", ()),  # and hip-hop, and a fiddle
        ("a calm tango for bassoon and tuba", ("tango", "tuba")),
    ],
)
def test_what_no_training_text_has(folder, card, text, unheard):
    texts = (*CAPTIONS[:2], "a song for bassoon and drum kit, Hip-Hop")
    lines = [json.dumps(dataclasses.asdict(Caption(text, False, False, 1, 1))) for text in texts]
    (folder / FILE).write_text("\n".join(lines) + "\n")
    assert Reader(folder, card, has_programs=True).read(text).unheard == unheard


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a calm piece with kazoo", ("kazoo",)),
        ("a calm tango for tuba in A minor at 90 bpm, no drums", ()),  # words of music, if in no training text
        ("a waltz like Saint-Saens", ()),
        ("sad songs with kazoos, fiddle and thunder", ("kazoos", "thunder")),
    ],
)
def test_a_word_that_nothing_knows_is_said(reader, text, unknown):
    wish = reader.read(text)
    assert wish.unknown == unknown
    assert (f"note: not understood: {', '.join(unknown)}" in wish.lines()) == bool(unknown)


def test_what_a_text_to_be_led_away_from_is_read_as(reader):
    assert reader.read("calm waltz").lines_against() == ['led away from: "calm waltz" (keywords: calm, waltz)']
    assert reader.read("zxcvb").lines_against() == [
        'led away from: "zxcvb" (keywords: zxcvb)',
        "note: the model's text encoder knows none of these words; the music is not led away from them",
    ]


def test_what_is_said_apart_from_the_text_counts_and_is_shown(reader):
    asked = order("a calm waltz without drums", genre=["jig"], semantic="2", instruments=("drums",))
    made, wish = reader.fulfil(asked)
    assert made.conditions == asked.conditions
    assert made.instruments == ("drums",)
    assert "told to the model besides the text: genre jig" in wish.lines()
    assert "semantic token: 2" in wish.lines()
    assert not any("kept out" in line for line in wish.lines())


def test_instruments_named_apart_from_the_text_replace_its_own(folder, card):
    known = card.conditions | {"instruments": Vocabulary("multi_label", ("piano",))}
    reader = Reader(folder, dataclasses.replace(card, conditions=known), has_programs=True)
    text = "a slow waltz for piano"
    assert reader.fulfil(order(text))[0].conditions["instruments"] == ["piano"]
    made, wish = reader.fulfil(order(text, instruments=("guitar", "bass")))  # the model was trained with neither
    assert "instruments" not in made.conditions
    assert "told to the model besides the text: genre waltz; tempo 71" in wish.lines()


def test_a_text_that_says_nothing(reader):
    made, wish = reader.fulfil(order("zzz"))
    assert made.conditions == {"text": "zzz"}
    assert not wish.nearest
    assert any("knows none of these words" in line for line in wish.lines())
    assert reader.fulfil(Order(GenerationSettings()))[1] is None


def test_a_name_can_be_drawn_whatever_the_text():
    assert order("\udcff sad").name == "? sad, seed 0"


@pytest.mark.parametrize("name", [FILE, "pooled.npy"])
@pytest.mark.parametrize("content", [b"x", None])
def test_a_damaged_run_is_named(reader, folder, name, content):
    (folder / name).unlink()
    if content:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"the captions in .* are damaged"):
        reader.fulfil(order("a calm waltz"))
