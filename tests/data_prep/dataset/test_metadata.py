import json

import pytest

from amt_jax.errors import UserError
from data_prep import files
from data_prep.dataset.metadata import Metadata


def test_csv_and_jsonl_say_the_same(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "\ufefffile,who,piece\n./a\\b.mid,Dvořák,Humoresque\n" + f"{tmp_path}/c.mid,Bach,\n", encoding="utf-8"
    )
    lines = tmp_path / "table.jsonl"
    rows = [
        {"file": "a/b.mid", "who": "Dvor\u030ca\u0301k", "piece": "Humoresque"},
        {"file": "c.mid", "who": "Bach", "piece": None},
    ]
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    for file in (table, lines):
        metadata = Metadata.read(str(file), str(tmp_path), "file", "who", "piece")
        assert metadata.composers == {"a/b.mid": "Dvořák", "c.mid": "Bach"}
        assert metadata.families == {"a/b.mid": "Humoresque"}


@pytest.mark.parametrize("folder", ["s3://bucket/midi", "s3://bucket/midi/"])
def test_paths_in_a_bucket_are_whole_or_relative(tmp_path, folder):
    (tmp_path / "table.csv").write_text("path,who\ns3://bucket/midi/a/b.mid,Bach\nc.mid,Weill\n")
    metadata = Metadata.read(str(tmp_path / "table.csv"), folder, "path", "who", None)
    assert metadata.composers == {"a/b.mid": "Bach", "c.mid": "Weill"}
    assert files.relative("s3://bucket/midi/a/b.mid", folder) == "a/b.mid"


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("t.csv", "path,composer\nx,y\n", ("path", "artist", None), r"no column 'artist' \(there are path, composer\)"),
        ("t.csv", "path,composer\nx,y\n", ("path", None, None), "--composer-column or --family-column"),
        ("t.jsonl", "{nonsense", ("path", "composer", None), "line 1 of .* is not JSON"),
        ("t.jsonl", "[1]", ("path", "composer", None), "line 1"),
        ("t.xlsx", "", ("path", "composer", None), ".csv or a .jsonl"),
        ("t.csv", None, ("path", "composer", None), "cannot read"),
        ("t.csv", "", ("path", "composer", None), "no column"),
    ],
)
def test_errors_name_the_way_out(tmp_path, name, content, columns, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Metadata.read(str(tmp_path / name), str(tmp_path), *columns)
