from data_prep.overview.charts import bars, histogram


def test_charts_count_what_they_do_not_show():
    assert "5 others" in bars([(f"name {i}", 25 - i) for i in range(25)], 100)
    assert "(2 unknown)" in histogram([1.0, None, 3.0, None], "s")
    assert "<svg" in histogram([120.0, 120.0], "s")
