import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from amt_jax.errors import UserError
from amt_jax.train import load_config
from launch.space import holds, parse_range, parse_space

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers, st.booleans())
def test_a_range_of_numbers_is_what_was_written(a, b, log):
    kind = float if isinstance(a, float) or isinstance(b, float) else int
    text = f"{'log:' if log else ''}{a!r}:{b!r}"
    if a < b and not (log and a <= 0):
        distribution, edges = parse_range(text, kind, "here")
        made = FloatDistribution(a, b, log=log) if kind is float else IntDistribution(a, b, log=log)
        assert distribution == made
        assert edges == [a, b]
        assert holds(distribution, a)
        assert holds(distribution, b)
        assert not holds(distribution, b + abs(b) + 1)
    else:
        with pytest.raises(UserError, match="lower bound"):
            parse_range(text, kind, "here")


@given(st.lists(st.integers() | st.booleans(), min_size=2, unique=True), st.sampled_from([int, bool, str]))
def test_choices_are_of_the_type_of_the_field(values, kind):
    texts = [str(value) for value in values]
    fits = kind is str or all(isinstance(value, bool) == (kind is bool) for value in values)
    if fits:
        distribution, edges = parse_range(f"choice:{','.join(texts)}", kind, "here")
        assert distribution == CategoricalDistribution(edges)
        assert edges == (texts if kind is str else values)
        assert [type(edge) for edge in edges] == [kind] * len(edges)
    else:
        with pytest.raises(UserError, match="not of the field's type"):
            parse_range(f"choice:{','.join(texts)}", kind, "here")


@given(st.text(), st.sampled_from([int, float, bool, str]))
def test_any_text_is_a_range_or_an_error_to_act_on(text, kind):
    with contextlib.suppress(UserError):
        parse_range(text, kind, "here")


def test_the_type_of_a_field_decides_how_its_range_is_read():
    space = parse_space(["model.num_layers=2:6", "model.dropout=0:0.5", "model.bias=choice:true,false"], fields())
    assert space == {
        "model.num_layers": IntDistribution(2, 6),
        "model.dropout": FloatDistribution(0, 0.5),
        "model.bias": CategoricalDistribution([True, False]),
    }


@pytest.mark.parametrize(
    ("word", "expected"),
    {
        "model.dropout": "a search looks like FIELD=RANGE",
        "model.num_layer=2:6": "(did you mean 'model.num_layers'",
        "model.num_layers=2.5:6": "'2.5' is not of the field's type, int",
        "model.num_layers=0:6": "config.model.num_layers is 0; it must be at least 1",
        "model.dropout=0:1.5": "config.model.dropout is 1.5",
        "model.dropout=0.5:0.1": "the lower bound 0.5 is not below the upper bound 0.1",
        "model.dropout=log:0:0.1": "it must be above 0",
        "model.dropout=nan:0.1": "'nan' is not of the field's type, float",
        "model.dropout=0.1": "is no range",
        "model.dropout=0:0.1:0.2": "is no range",
        "model.norm=a:b": "the field is no number",
        "model.d_model=choice:128": "two choices or more",
        "model.d_model=choice:128,128": "two choices or more",
        "model.d_model=choice:128,large": "'large' is not of the field's type, int",
        "epochs=1:2": "config.steps or config.epochs",
    }.items(),
)
def test_what_no_training_could_take_is_said_before_any(word, expected):
    with pytest.raises(UserError) as error:
        parse_space([word], fields())
    assert expected in str(error.value)
    assert "--search" in str(error.value)


def test_a_field_is_searched_once():
    with pytest.raises(UserError, match=r"names model\.dropout twice"):
        parse_space(["model.dropout=0:0.1", "model.dropout=0:0.2"], fields())


def fields():
    return load_config("demo")
