from amt_jax.text.cleaning import clean


def test_clean_gives_one_spelling():
    assert clean("  ﬁddle\u00a0 tune\x00\u200d\t2/4\n") == "fiddle tune 2/4"
    assert clean("e\u0301") == "é"
    assert clean("a \u200b jig") == "a jig"
