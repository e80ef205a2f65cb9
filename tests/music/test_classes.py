from amt_jax.music.classes import density_class, emotion, tempo_class


def test_classes_and_the_emotion_of_music():
    assert [tempo_class(bpm) for bpm in (79, 79.9998, 80, 120, 121)] == [
        "slow",
        "moderate",
        "moderate",
        "moderate",
        "fast",
    ]
    assert [density_class(density) for density in (4.9, 5, 9, 9.1)] == ["sparse", "moderate", "moderate", "dense"]
    (bright, awake), (dim, asleep) = emotion("major", 180, 12), emotion("minor", 60, 3)
    assert bright > 0.3 > -0.3 > dim
    assert awake > 0.3 > -0.3 > asleep
    assert emotion("", None, 0) == (0.0, -0.4)
