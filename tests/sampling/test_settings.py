"""Settings say what is wrong with a value."""

import dataclasses

import pytest

from amt_jax.errors import UserError
from amt_jax.sampling.settings import GenerationSettings


def test_defaults_and_limits_are_allowed():
    for field in dataclasses.fields(GenerationSettings):
        for value in (field.default, field.metadata["low"], field.metadata["high"]):
            made = getattr(GenerationSettings(**{field.name: value}), field.name)
            assert made == value
            assert type(made) is type(field.default)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seconds", -1, "between 0.1 and 36000, not -1"),
        ("seconds", "99999", "between"),
        ("seconds", float("nan"), "a number, not nan"),
        ("seconds", float("inf"), "between"),
        ("temperature", "warm", "a number, not 'warm'"),
        ("temperature", None, "a number, not None"),
        ("temperature", 10**400, "a number"),
        ("top_k", 2.5, "a whole number, not 2.5"),
        ("top_k", True, "a whole number, not True"),
        ("top_k", float("inf"), "a whole number, not inf"),
        ("seed", 2**32, "between 0 and"),
        ("top_p", [0.9], "a number"),
    ],
)
def test_what_cannot_be_is_refused(name, value, message):
    with pytest.raises(UserError, match=message):
        GenerationSettings(**{name: value})


def test_numbers_as_people_write_them():
    settings = GenerationSettings(top_k="40", temperature="1e-6", seconds=20, seed=3.0)
    assert settings == GenerationSettings(top_k=40, temperature=1e-6, seconds=20.0, seed=3)
    assert isinstance(settings.seconds, float)
