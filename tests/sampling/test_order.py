"""Orders in words and numbers, how strongly each is followed, and what is refused."""

import pytest

from amt_jax.data.card import OTHER, Card, Vocabulary
from amt_jax.errors import UserError
from amt_jax.sampling.order import Order, guided, make_orders, read_batch
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.symbolic import SymbolicTokenizer

CONDITIONS = {
    "composer": Vocabulary("categorical", ("Bach", "Weill", OTHER), (2, 2, 0)),
    "genre": Vocabulary("multi_label", ("folk", "jazz", "r&b, soul"), (3, 2, 1)),
    "tempo": Vocabulary("scalar", knots=(60.0, 120.0)),
    "text": Vocabulary("text", width=4, length=1),
    "semantic": Vocabulary("categorical", ("0", "1", "2"), (3, 2, 1)),
}
TOLD = set(CONDITIONS)


@pytest.fixture(scope="module")
def tokenizer():
    return SymbolicTokenizer.create("remi")


@pytest.fixture(scope="module")
def orders(tokenizer):
    """A function: values -> orders, for a model that knows a condition of each kind."""
    return lambda **values: make_orders(Card(tokenizer.spec, {}, CONDITIONS), tokenizer, values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"text": "a slow waltz "}, [{"text": "a slow waltz"}]),
        ({"text": ["a", "b"]}, [{"text": "a"}, {"text": "b"}]),
        ({"text": ""}, [{}]),
        ({"text": " \n"}, [{}]),
        ({"genre": "Jazz, folk"}, [{"genre": ["folk", "jazz"]}]),
        ({"genre": ["jazz"]}, [{"genre": ["jazz"]}]),
        ({"genre": "jazz, "}, [{"genre": ["jazz"]}]),
        ({"genre": ",", "composer": ", "}, [{}]),
        ({"genre": "r&b, soul"}, [{"genre": ["r&b, soul"]}]),
        ({"tempo": 90}, [{"tempo": 90.0}]),
        ({"tempo": "90.5"}, [{"tempo": 90.5}]),
        ({"semantic": 0}, [{"semantic": "0"}]),  # the first token, not none
        ({"semantic": "2"}, [{"semantic": "2"}]),
        ({"text": "x", "composer": "Bach,Weill"}, [{"composer": name, "text": "x"} for name in ("Bach", "Weill")]),
    ],
)
def test_what_is_asked_for(orders, values, expected):
    assert [order.conditions for order in orders(**values)] == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mood": "sad"}, "this model was not trained with mood: it knows composer, genre, tempo, text, semantic"),
        ({"genre": "jaz"}, r"unknown genre 'jaz' \(did you mean 'jazz'"),
        ({"semantic": 3}, "unknown semantic '3' .there are 0, 1, 2."),
        ({"semantic": "-1"}, "unknown semantic '-1'"),
        ({"tempo": "fast"}, "tempo is a number, not 'fast'"),
        ({"tempo": float("nan")}, "tempo is a number, not nan"),
        ({"tempo": True}, "tempo is a number, not True"),
        ({"text": 7}, "text is a text or a list of texts, not 7"),
        ({"text": ["a", None]}, "text is a text or a list of texts"),
        ({"negative": "drums"}, "negative only matters with guidance"),
        ({"negative": 3, "guidance": 2}, "negative is a text, not 3"),
        ({"text": "x", "guide": "text"}, "guide is like text=4,composer=2, not 'text'"),
        ({"text": "x", "guide": 4}, 'guide is like {"text": 4'),
        ({"text": "x", "guide": "text=much"}, "guide text is a number, not 'much'"),
        ({"text": "x", "guide": {"text": 51}}, "guide text is between -20 and 50, not 51"),
    ],
)
def test_what_cannot_be_is_refused(orders, values, message):
    with pytest.raises(UserError, match=message):
        orders(**values)


def test_a_model_without_texts(tokenizer):
    card = Card(tokenizer.spec, {}, {"composer": CONDITIONS["composer"]})
    for values in ({"text": "jazz"}, {"semantic": "1"}):
        with pytest.raises(UserError, match=r"this model was not trained with .*: it knows composer; README, Words"):
            make_orders(card, tokenizer, values)
    with pytest.raises(UserError, match="negative needs a model that was trained with texts"):
        make_orders(card, tokenizer, {"negative": "jazz", "guidance": 2})


def test_guides_name_their_conditions_and_the_others_go_by_guidance():
    settings = GenerationSettings(guidance=3.0)
    conditions = {"composer": "Bach", "genre": ["jazz"], "text": "x"}
    assert Order(settings, conditions).guides == []
    assert Order(settings, conditions, guide={"text": 4.0}).guides == [
        (["text"], 4.0),
        (["composer", "genre"], 3.0),
    ]
    everything = {"text": 4.0, "genre": 1.0, "composer": 0.0}
    assert Order(settings, conditions, guide=everything).guides == [
        (["text"], 4.0),
        (["genre"], 1.0),
        (["composer"], 0.0),
    ]


def test_a_guide_of_what_no_order_asks_for_is_refused(orders):
    made = orders(text=["a", ""], tempo=90, guide="text=4, tempo=2")
    assert [order.guide for order in guided(made, TOLD)] == [{"text": 4.0, "tempo": 2.0}, {"tempo": 2.0}]
    with pytest.raises(UserError, match=r"nothing is asked of 'tmpo' \(did you mean 'tempo'"):
        guided(orders(tempo=90, guide={"tmpo": 2}), TOLD)
    with pytest.raises(UserError, match=r"asks for no genre that the model knows \(it asks for nothing\)"):
        guided(orders(guide="genre=2"), TOLD)
    with pytest.raises(UserError, match=r"asks for no text .* \(it asks for tempo\); say what text to"):
        guided(orders(tempo=90, guide="text=2"), TOLD - {"text"})
    with pytest.raises(UserError, match="nothing is asked of 'text'"):
        guided(made, TOLD - {"text", "semantic"})


def test_a_guide_of_a_text_is_one_of_its_semantic_token_where_the_model_is_told_no_more(orders):
    for guide, expected in {"text=4": {"semantic": 4.0}, "semantic=3": {"semantic": 3.0}}.items():
        (order,) = guided(orders(text="a", semantic="1", guide=guide), TOLD - {"text"})
        assert order.guide == expected
    with pytest.raises(UserError, match=r"nothing is asked of 'text' \(there are semantic\)"):
        guided(orders(text="a", semantic="1", guide="text=4,semantic=3"), TOLD - {"text"})


def test_names_are_the_text_alone_or_all_that_is_asked(orders):
    for values, name in {
        (("text", "a slow waltz"), ("tempo", 60)): "a slow waltz",
        (("genre", "jazz,folk"), ("tempo", 90.5)): "folk and jazz tempo 90.5",
        (("text", ""),): "free",
    }.items():
        assert orders(**dict(values))[0].name == f"{name}, seed 0"


def test_a_text_file_is_a_text_a_line(tokenizer, tmp_path):
    card = Card(tokenizer.spec, {}, CONDITIONS)
    path = tmp_path / "wishes.TXT"
    path.write_text('\ufeff a waltz,\u2028slow \r\n\n{"tempo": 3}\n', encoding="utf-8")
    made = read_batch(card, tokenizer, path, {"count": 2, "tempo": 90, "text": "not this"})
    assert [(order.conditions["text"], order.settings.seed) for order in made] == [
        ("a waltz,\u2028slow", 0),
        ("a waltz,\u2028slow", 1),
        ('{"tempo": 3}', 0),
        ('{"tempo": 3}', 1),
    ]
    assert {order.conditions["tempo"] for order in made} == {90.0}
    with pytest.raises(UserError, match=r"wishes.TXT, line 1: this model was not trained with text"):
        read_batch(Card(tokenizer.spec, {}, {"tempo": CONDITIONS["tempo"]}), tokenizer, path, {})
