import pytest

from amt_jax.text.keys import key_and_mode


@pytest.mark.parametrize(
    ("text", "key", "mode"),
    [
        ("in A minor", "A minor", "minor"),
        ("a waltz in B♭ major", "Bb major", "major"),
        ("C-sharp minor sonata", "C# minor", "minor"),
        ("key of d# minor", "Eb minor", "minor"),
        ("sonata in E flat", "Eb", ""),
        ("in a minor key", "", "minor"),
        ("A minor waltz", "", "minor"),
        ("a minor blues", "", "minor"),
        ("slow, major", "", "major"),
        ("A major hit by Queen", "", ""),
        ("in A Night at the Opera", "", ""),
        ("a minor setback", "", ""),
    ],
)
def test_key_and_mode(text, key, mode):
    assert key_and_mode(text) == (key, mode)
