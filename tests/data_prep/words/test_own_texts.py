import json

import pytest

from amt_jax.errors import UserError
from data_prep.words.own_texts import read
from data_prep.words.text import Missing, Text


def test_a_csv_with_titles(tmp_path):
    file = tmp_path / "captions.csv"
    file.write_text(
        "\ufefftitle,artist,text,genre,bpm,duration,licence\n"
        'Waterloo,ABBA,"A song, loud",pop; rock,147,164.5,CC0\nX,Y,z,,,,\n',
        encoding="utf-8",
    )
    first, second = read(str(file))
    assert first == Text(
        "Waterloo", "ABBA", "A song, loud", "captions", licence="CC0", genre=("pop", "rock"), bpm=147.0, duration=164.5
    )
    assert second == Text("X", "Y", "z", "captions")


def test_json_lines_with_paths(tmp_path):
    file = tmp_path / "captions.jsonl"
    rows = [{"path": "a/b.mid", "text": "Slow.", "genre": ["jazz"]}, {"path": "c.mid", "text": None, "bpm": "fast"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read(str(file))
    assert json.loads(first.to_json())["path"] == "a/b.mid"
    assert first.genre == ("jazz",)
    assert isinstance(second, Missing)
    assert second.reason == "unreadable row"
    assert "fast" in second.details
    assert json.loads(second.to_json())["path"] == "c.mid"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("title,artist,txt\na,b,c\n", r"'text' \(did you mean 'txt'"),
        ("titel,artist,text\na,b,c\n", r"'title' \(did you mean 'titel'"),
        ("title,text\na,c\n", "no column 'artist'"),
        ("Path,Text\na,c\n", r"no column 'path' \(did you mean 'Path'.*text, and path or title and artist, in small"),
        ("path;text\na;c\n", r"no column 'path' \(did you mean 'path;text'.*with commas between them"),
        ("Title,Artist,Text\na,b,c\n", r"no column 'title' \(did you mean 'Title'"),
        ("title,artist,text\n", "has no rows"),
        ('title,artist,text\n"a', "as csv in UTF-8"),
    ],
)
def test_a_table_that_lacks_something_says_what(tmp_path, table, message):
    file = tmp_path / "captions.csv"
    file.write_text(table)
    with pytest.raises(UserError, match=message):
        list(read(str(file)))


@pytest.mark.parametrize("wrong", [{"genre": 5}, {"genre": [5]}, {"bpm": [1]}, {"duration": 10**400}, {"path": ["a"]}])
def test_a_value_of_another_kind_is_listed(tmp_path, wrong):
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps({"path": "a.mid", "text": "calm song"} | wrong))
    (row,) = read(str(file))
    assert isinstance(row, Missing)
    assert f"its {next(iter(wrong))} is" in row.details


@pytest.mark.parametrize("number", ["nan", "-1", "inf", "x"])
def test_a_number_that_is_none_is_listed(tmp_path, number):
    file = tmp_path / "captions.csv"
    file.write_text(f"title,artist,text,duration\na,b,c,{number}\n")
    (row,) = read(str(file))
    assert isinstance(row, Missing)
    assert number in row.details
