"""Orders by name, recipes that travel in MIDI files, and what is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from amt_jax.data.card import Card, Vocabulary
from amt_jax.errors import UserError
from amt_jax.music import midi
from amt_jax.sampling.generator import Generator, Piece, same_platform
from amt_jax.sampling.order import make_orders, read_batch
from amt_jax.tokens.pianoroll import PianoRoll
from amt_jax.tokens.symbolic import SymbolicTokenizer

COMPOSERS = ("Bach", "Gervais, Nicolas", "7", "Nobody", "OTHER")


@pytest.fixture(scope="module")
def tokenizer():
    return SymbolicTokenizer.create("remi")


@pytest.fixture(scope="module")
def orders(tokenizer):
    """A function: values -> orders, for a model that knows some composers."""
    card = Card(tokenizer.spec, {}, {"composer": Vocabulary("categorical", COMPOSERS, (3, 2, 1, 0, 1))})
    return lambda **values: make_orders(card, tokenizer, values)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """A MIDI file of 24 beats."""
    from symusic import Note, Score, Track

    score = Score(480)
    score.tracks.append(Track(notes=[Note(480 * beat, 480, 60 + beat % 12, 80) for beat in range(24)]))
    path = tmp_path_factory.mktemp("music") / "old tune.mid"
    midi.save(score, path)
    return path


@pytest.fixture(scope="module")
def run(make_run, make_pieces, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made"), make_pieces([20, 30]))


@pytest.fixture(scope="module")
def generator(run):
    return Generator(run)


def asked(orders):
    return [order.conditions.get("composer") for order in orders]


@pytest.mark.parametrize(
    ("composer", "expected"),
    [
        (None, [None]),
        ("", [None]),
        (0, [None]),
        ("bach", ["Bach"]),
        ("Gervais, Nicolas", ["Gervais, Nicolas"]),
        (2, ["Gervais, Nicolas"]),
        ("1, OTHER,0", ["Bach", "OTHER", None]),
        ("7", ["7"]),  # its name, not its number
        (["Bach", "gervais, nicolas"], ["Bach", "Gervais, Nicolas"]),
        ("all", ["Bach", "Gervais, Nicolas", "7", "OTHER"]),  # no piece of Nobody's was ever heard
    ],
)
def test_composers_by_name_and_number(orders, composer, expected):
    assert asked(orders(composer=composer)) == expected


def test_seeds_count_up(orders):
    made = orders(composer="Bach,OTHER", count=3, seed=2**32 - 2, seconds=5)
    assert [order.settings.seed for order in made] == [2**32 - 2, 2**32 - 1, 0] * 2
    assert made[-1].name == "OTHER, seed 0"
    assert orders()[0].name == "free, seed 0"


def test_seconds_are_not_limited_where_bars_are_asked_for(orders):
    def length(**values):
        wanted = orders(**values)[0].settings
        return wanted.bars, wanted.seconds

    assert length() == (0, 40)
    assert length(bars=8) == (8, 36000)
    assert length(bars=8, seconds=9) == (8, 9)
    assert length(bars=0, seconds=9) == (0, 9)


def test_instruments_by_name(orders):
    multitrack = SymbolicTokenizer.create("remi_multitrack")

    def labels(asked):
        return make_orders(Card(multitrack.spec, {}), multitrack, {"instruments": asked})[0].instruments

    assert labels("Guitars, bass guitar,drums") == labels(["guitar", "bass", "drums", "bass"])
    assert labels("guitar") == ("guitar",)
    assert labels(None) == labels("") == labels([]) == ()
    with pytest.raises(UserError, match="did you mean 'guitar'"):
        labels("guitarr")
    with pytest.raises(UserError, match="names in a list or with commas, not 7"):
        labels(7)
    assert orders(instruments="piano")[0].instruments == ("piano",)
    with pytest.raises(UserError, match=r"plays the piano alone.*remi_multitrack or tsd"):
        orders(instruments="piano, drums")


def test_prompts(orders, music, tokenizer):
    whole = tokenizer.encode(midi.load(music))
    full, beats, tokens = (
        orders(prompt=str(music), **more)[0] for more in ({}, {"prompt_beats": 8}, {"prompt_tokens": 9})
    )
    np.testing.assert_array_equal(full.prompt, whole)
    np.testing.assert_array_equal(tokens.prompt, whole[:9])
    assert tokenizer.decode(beats.prompt).note_num() == 8
    assert full.name == "after old tune, seed 0"
    assert orders(prompt=music, composer="Bach")[0].name == "Bach after old tune, seed 0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"composer": "Bahc"}, "unknown composer 'Bahc' \\(did you mean 'Bach'"),
        ({"composer": 6}, "composer 6 is unknown; this model's are 0 \\(none\\) to 5"),
        ({"composr": "Bach"}, "unknown 'composr' \\(did you mean 'composer'"),
        ({"count": 0}, "count is a whole number from 1"),
        ({"count": True}, "count is a whole number"),
        ({"count": "3"}, "count is a whole number"),
        ({"seconds": -5}, "seconds is between"),
        ({"bars": 1.5}, "bars is a whole number"),
        ({"polyphony": 17}, "polyphony is between 0 and 16"),
        ({"prompt": 5}, "path of a MIDI file, not 5"),
        ({"prompt": "/nowhere.mid"}, "cannot continue /nowhere.mid: unreadable"),
        ({"prompt": __file__}, "cannot continue .*: not a MIDI file"),
        ({"prompt_beats": 0}, "prompt_beats is a number above 0, not 0"),
        ({"prompt_beats": "four"}, "prompt_beats is a number above 0"),
        ({"prompt_tokens": 1.5}, "prompt_tokens is a whole number above 0"),
    ],
)
def test_what_cannot_be_is_refused(orders, values, message):
    with pytest.raises(UserError, match=message):
        orders(**values)


def test_a_prompt_with_nothing_in_its_beginning_is_refused(orders, music, tmp_path):
    score = midi.load(music)
    late = tmp_path / "late.mid"
    midi.save(score.shift_time(480 * 8), late)
    with pytest.raises(UserError, match="in its first 4 beats"):
        orders(prompt=late, prompt_beats=4)


def test_a_model_without_conditions_says_so(tokenizer):
    with pytest.raises(UserError, match="without conditions"):
        make_orders(Card(tokenizer.spec, {}), tokenizer, {"composer": "Bach"})


def test_batch_files(tokenizer, tmp_path):
    card = Card(tokenizer.spec, {}, {"composer": Vocabulary("categorical", COMPOSERS, (1,) * 5)})
    path = tmp_path / "batch.jsonl"

    def read(text):
        path.write_text(text, encoding="utf-8")
        return read_batch(card, tokenizer, path, {"seconds": 9, "count": 2})

    made = read('\ufeff{"composer": "Bach", "count": 1}\n\n{"seconds": 20}\n')  # as Windows' editors save it
    assert [(order.settings.seconds, order.settings.seed) for order in made] == [(9, 0), (20, 0), (20, 1)]
    for text, message in {
        '{}\n{"composer": "Bahc"}': "batch.jsonl, line 2: unknown composer",
        "{}\n{seconds: 3}": "batch.jsonl, line 2: not json",
        "[1]": "batch.jsonl, line 1: a json object",
        '{"seconds": Infinity}': "line 1: seconds is between",
        "\n": "holds no requests",
    }.items():
        with pytest.raises(UserError, match=message):
            read(text)
    with pytest.raises(UserError, match="cannot read"):
        read_batch(card, tokenizer, tmp_path, {})


def test_a_piece_carries_its_recipe(generator, music, tmp_path):
    orders = generator.orders(
        {
            "composer": "A", "prompt": str(music), "prompt_tokens": 20, "guidance": 2, "max_tokens": 30,
            "bars": 3, "polyphony": 2, "instruments": "piano",
        }
    )  # fmt: skip
    piece = next(generator.generate(orders))
    path = piece.save(tmp_path)
    assert path.name == "A-after-old-tune_seed-0.mid"
    assert json.loads(midi.read_text(path)) == piece.recipe
    assert piece.recipe["instruments"] == ["piano"]
    assert piece.prompt_length == 20
    np.testing.assert_array_equal(piece.ids[:20], orders[0].prompt)
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), piece.ids)
    assert same_platform(piece.recipe)
    assert not same_platform(piece.recipe | {"platform": "abacus"})

    again = generator.replay(path).save(tmp_path / "..")
    assert again.read_bytes() == path.read_bytes()


def test_weights_of_8_bits_make_music_again(run, generator, tmp_path):
    small = Generator(run, weights="int8")
    assert (generator.weights, small.weights) == ("float32", "int8")
    assert {x.dtype for x in jax.tree.leaves(small.sampler.params)} == {np.dtype("int8"), np.dtype("float32")}
    path = next(small.generate(small.orders({"max_tokens": 60, "top_k": 0}))).save(tmp_path)
    assert json.loads(midi.read_text(path))["weights"] == "int8"
    assert small.replay(path).save(tmp_path / "..").read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match="it was made in int8, not float32; add --weights=int8"):
        generator.replay(path)


def test_other_music_of_the_same_name_is_left_alone(generator, tmp_path):
    batches = [generator.orders({"max_tokens": 20, "temperature": t, "top_k": 0}) for t in (1.0, 2.0, 1.0)]
    paths = [next(generator.generate(orders)).save(tmp_path) for orders in batches]
    assert [path.name for path in paths] == ["free_seed-0.mid", "free_seed-0_2.mid", "free_seed-0.mid"]
    assert generator.replay(paths[1]).save(tmp_path / "..").read_bytes() == paths[1].read_bytes()
    paths[0].write_text("the shopping list")
    assert next(generator.generate(batches[0])).save(tmp_path).name == "free_seed-0_3.mid"
    assert paths[0].read_text() == "the shopping list"


def test_names_fit_for_files(generator):
    piece = next(generator.generate(generator.orders({"max_tokens": 5})))
    for name, expected in {
        "Gervais, Nicolas, seed 3": "Gervais_Nicolas_seed-3",
        "Dvořák/..\\:x after a b, seed 1": "Dvořák_..__x-after-a-b_seed-1",
        "x" * 300 + ", seed 9": "x" * 80 + "_seed-9",
        "曲" * 300 + ", seed 9": "曲" * 26 + "_seed-9",  # 3 bytes each
    }.items():
        assert dataclasses.replace(piece, name=name).file_name == expected


def test_what_cannot_be_replayed(generator, music, tmp_path):
    for path, message in {
        music: "carries no recipe",
        tmp_path / "gone.mid": "cannot replay .*gone.mid: unreadable",
    }.items():
        with pytest.raises(UserError, match=message):
            generator.replay(path)
    piece: Piece = next(generator.generate(generator.orders({"max_tokens": 60})))
    other = dataclasses.replace(piece, recipe=dict(piece.recipe) | {"checkpoint": "f" * 64}).save(tmp_path)
    with pytest.raises(UserError, match="checkpoint ffffffffffff made it"):
        generator.replay(other)


def test_an_incomplete_run_folder_is_refused(run, tmp_path):
    broken = type(run)(tmp_path / "run")
    shutil.copytree(run.path, broken.path)
    (broken.path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Generator(broken)
    SymbolicTokenizer.create("tsd").save(broken.path)
    with pytest.raises(UserError, match="do not belong together"):
        Generator(type(run)(broken.path))
    with pytest.raises(UserError, match="max_batch is at least 1"):
        Generator(run, max_batch=0)


def test_a_model_of_frames_goes_on_from_a_file(make_run, music, tmp_path):
    tokenizer = PianoRoll(0.5)
    generator = Generator(make_run(tmp_path, [tokenizer.encode_frames([[60, 64], [62]] * 5)], tokenizer))
    wish = {"prompt": str(music), "prompt_beats": 4, "seconds": 4}
    (piece,) = generator.generate(generator.orders(wish))
    frames = tokenizer.decode_frames(piece.ids)
    assert frames[:4] == [[60], [61], [62], [63]]  # a beat is half a second
    assert 4 < len(frames) <= 4 + 8
    assert tokenizer.encode_frames(frames).tolist() == piece.ids.tolist()
    while not frames[-1]:  # a file ends with its last note
        frames.pop()
    assert tokenizer.decode_frames(tokenizer.encode(midi.load(piece.save(tmp_path)))) == frames
