from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.families import Families, assign_splits, folder_key

FRACTIONS = {"test": 0.1, "valid": 0.1}


def test_the_folder_below_the_composers_is_a_work():
    assert folder_key("a.mid") == folder_key("Bach/a.mid") == ""
    assert folder_key("Bach/Fugue/a.mid") == "Bach/Fugue"
    assert folder_key("Bach/Fugue/846/a.mid") == "Bach/Fugue/846"


def group(pieces):
    families = Families()
    for index, (keys, similar) in enumerate(pieces):
        assert families.add(index, keys, similar)
    return [families.family(index) for index in range(len(pieces))]


def test_keys_and_similarity_join_pieces():
    pieces = [(["x/1", "x/1/a"], []), (["b"], []), (["x/1", "x/1/c"], []), (["d"], [2]), (["e"], [1])]
    assert group(pieces) == ["d", "b", "d", "d", "b"]


@given(st.permutations(range(6)))
def test_families_do_not_depend_on_the_order(order):
    keys = [["w1", "a"], ["w1", "b"], ["c"], ["w2", "d"], ["e"], ["f"]]
    links = {(1, 2), (3, 4)}
    pieces = []
    for place, index in enumerate(order):
        similar = [order.index(other) for other in order[:place] if {(index, other), (other, index)} & links]
        pieces.append((keys[index], similar))
    found = dict(zip(order, group(pieces), strict=True))
    assert found == {0: "c", 1: "c", 2: "c", 3: "e", 4: "e", 5: "f"}


def test_a_bridge_between_splits_is_refused_and_leaves_no_link():
    families = Families()
    families.add_known("A", "train", ["A", "a.mid"])
    families.add_known("B", "test", ["B", "b.mid"])
    families.add_alias(0, "A")
    families.add_alias(1, "B")
    assert not families.add(2, ["new"], [0, 1])
    assert families.add(3, ["other"], [2])
    assert families.family(3) == "other"
    assert families.add(4, ["A", "c.mid"], [])
    assert families.family(4) == "A"
    assert families.add(5, ["d.mid"], [4])
    assert not families.add(6, ["B", "e.mid"], [5])
    assert families.family(5) == "A"


@given(st.lists(st.integers(0, 40), min_size=3, max_size=200), st.integers(0, 5))
def test_splits_are_filled_and_stay_when_pieces_are_added(numbers, seed):
    families = [f"family {number}" for number in numbers]
    splits = assign_splits(families, {}, FRACTIONS, seed)
    if len(set(families)) >= 3:
        assert set(splits.values()) == {"train", "valid", "test"}
    else:
        assert "train" in splits.values()
    more = assign_splits([*families, "new 1", "new 2", "new 2"], splits, FRACTIONS, seed)
    assert splits.items() <= more.items()


def test_shares_are_as_asked_and_giants_go_to_train():
    families = [f"family {number}" for number in range(2000)]
    counts = Counter(assign_splits(families, {}, FRACTIONS, 0).values())
    assert abs(counts["test"] / 2000 - 0.1) < 0.02
    assert abs(counts["valid"] / 2000 - 0.1) < 0.02
    for seed in range(40):
        assert assign_splits([*families[:20], *["giant"] * 60], {}, FRACTIONS, seed)["giant"] == "train"
    assert set(assign_splits(families, {}, {"test": 0.0, "valid": 0.0}, 0).values()) == {"train"}
