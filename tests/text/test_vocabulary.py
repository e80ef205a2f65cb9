from amt_jax.music.classes import density_class, tempo_class
from amt_jax.text import vocabulary
from amt_jax.text.understanding import understand_all
from amt_jax.text.vocabulary import GENRE, INSTRUMENT, MOOD


def test_every_word_of_the_vocabulary_is_understood_as_what_it_stands_for():
    words = vocabulary.tables()
    for table, label in (("genres", GENRE), ("moods", MOOD), ("instruments", INSTRUMENT)):
        for value, fields in words[table].items():
            names = [*fields["words"], *([value] if table != "instruments" else [])]
            for name, understood in zip(names, understand_all(names), strict=True):
                assert understood.values(label) == (value,), name
    for mood, fields in words["moods"].items():
        assert -1 <= fields["valence"] <= 1, mood
        assert -1 <= fields["arousal"] <= 1, mood
    assert {each["broader"] for each in words["genres"].values() if "broader" in each} <= set(words["genres"])
    for table, classes in (("tempo", map(tempo_class, (50, 100, 200))), ("density", map(density_class, (1, 7, 20)))):
        assert set(words[table]) == set(classes)
    assert all(tempo_class(fields["bpm"]) == name for name, fields in words["tempo"].items())
    assert all(density_class(fields["notes"]) == name for name, fields in words["density"].items())


def test_broader_genres():
    assert vocabulary.with_broader(["jig", "shoegaze", "folk"]) == ["jig", "shoegaze", "folk"]
    assert vocabulary.with_broader(["video game"]) == ["video game", "soundtrack"]
    assert vocabulary.is_form("waltz")
    assert not vocabulary.is_form("jazz")
