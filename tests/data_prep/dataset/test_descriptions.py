"""Descriptions into records and the card, by the functions that read them and by the real command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amt_jax.data.captions import CaptionTable
from amt_jax.data.card import Card, Vocabulary
from amt_jax.data.record import Record
from amt_jax.errors import UserError
from amt_jax.text.encoder import clean
from data_prep import cluster, encode
from data_prep.dataset import descriptions, shards
from data_prep.dataset.outcome import KEPT, Outcome
from data_prep.dataset.preparation import prepare
from data_prep.dataset.settings import Settings
from tests.captioned import caption
from tests.music_files import tune, write

ROOT = Path(__file__).parents[3]
SETTINGS = Settings(valid=0.2, test=0.2, min_count=2)

texts = st.text(max_size=8)
captions = st.fixed_dictionaries({"text": texts, "human": st.booleans(), "names_key": st.booleans()})
numbers = st.one_of(st.none(), st.integers(-(10**400), 10**400), st.floats())
good = st.fixed_dictionaries(
    {"path": texts},
    optional={
        "captions": st.one_of(st.none(), st.lists(captions, max_size=3)),
        "valence": numbers,
        **dict.fromkeys(("genre", "mood", "instruments"), st.one_of(st.none(), st.lists(texts, max_size=3))),
        **dict.fromkeys(("tempo", "density"), numbers),
    },
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
fields = st.sampled_from(["path", "captions", "genre", "mood", "instruments", "tempo", "density", "text", "human"])
odd = st.one_of(
    anything,
    st.tuples(good, fields, anything).map(lambda each: each[0] | {each[1]: each[2]}),
    st.tuples(good, anything).map(lambda each: each[0] | {"captions": [each[1]]}),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def read(scratch: Path, *lines: str) -> dict:
    file = scratch / "descriptions.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return descriptions.read(str(file), str(scratch))


@given(st.lists(st.one_of(good, odd), max_size=3), st.booleans())
def test_any_json_gives_conditions_or_says_which_line_is_wrong(scratch, rows, blank):
    lines = [*[""] * blank, *map(json.dumps, rows)]
    error = ""
    try:
        found = read(scratch, *lines)
    except UserError as raised:
        error = str(raised)
    if error:
        assert f"of {scratch}" in error
        assert "\n" not in error
        wrong = int(error.removeprefix("line ").split()[0])
        assert len(read(scratch, *lines[: wrong - 1])) == wrong - 1 - blank  # the first that is wrong is named
        with pytest.raises(UserError, match=f"^line {wrong} "):
            read(scratch, *lines[:wrong])
    else:
        assert len(found) == len(rows)
        for values in found.values():
            # Whatever was read can be put into a record, and into files.jsonl.
            data = Record(np.zeros(0, np.uint16), values, "p", "f", "s").to_bytes()
            assert Record.from_bytes(data).conditions == values
            json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
            assert all(value != [] for value in values.values())


@given(good)
def test_what_a_line_says_is_read(scratch, row):
    try:
        (found,) = read(scratch, json.dumps(row)).values()
    except UserError:
        large = [row.get(name) for name in ("tempo", "density")]
        surrogates = not json.dumps(row, ensure_ascii=False).isascii()
        assert surrogates or any(isinstance(each, int) and abs(each) > 1e300 for each in large)
        return
    assert found.get("text", []) == [each for each in row.get("captions") or () if clean(each["text"])]
    for name in ("genre", "mood", "instruments"):
        assert found.get(name, []) == sorted(set(row.get(name) or ()))
    for name in ("tempo", "density"):
        known = row.get(name) is not None and np.isfinite(float(row[name]))
        assert found.get(name) == (float(row[name]) if known else None)
    assert set(found) <= {"text", "genre", "mood", "instruments", "tempo", "density"}


def test_what_cannot_be_seen_is_no_caption(scratch):
    captions = [{"text": text, "human": True, "names_key": False} for text in (" \n", "\u200b", "\u200ba waltz", "\0")]
    (found,) = read(scratch, json.dumps({"path": "a.mid", "captions": captions})).values()
    assert found == {"text": [captions[2]]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a.mid", "genre": "jazz"}', "genre is 'jazz'"),
        ('{"path": "a.mid", "genre": ["jazz", null]}', "its genre is \"['jazz', None]\""),
        ('{"path": "a.mid", "tempo": "fast"}', "tempo is 'fast'"),
        ('{"path": "a.mid", "tempo": true}', "tempo is 'True'"),
        ('{"path": "a.mid", "captions": ["a waltz"]}', "not a description"),
        ('{"path": "a.mid", "captions": [{"text": "a waltz", "human": "false", "names_key": false}]}', "human is"),
        ('{"path": "a.mid", "captions": [{"text": "a waltz", "human": true}]}', "it has no 'names_key'"),
        ('{"path": "a.mid", "captions": [{"text": "a\\ud800", "human": true, "names_key": true}]}', "surrogates"),
        ('{"midi": "a.mid"}', "it has no 'path'"),
        ('{"path": 7}', "path is '7'"),
        ('{"path": "b.mid"}', "'b.mid' was described before"),
        ('{"path": "./b.mid"}', "'./b.mid' was described before"),
        ('{"path": "a.mid", "tempo": 1' + "0" * 5000 + "}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('["path"]', "not a JSON object"),
    ],
)
def test_a_line_that_is_none_is_named(scratch, line, message):
    with pytest.raises(UserError, match=r"^line 3 of ") as error:
        read(scratch, '{"path": "b.mid"}', "", line)
    assert message in str(error.value)


# --- vocabularies


def outcome(number: int, split: str = "train", **conditions) -> Outcome:
    return Outcome(f"{number}.mid", str(number), KEPT, piece=str(number), split=split, conditions=conditions)


def test_labels_need_pieces_and_keep_their_ids():
    first = [outcome(0, genre=["jazz"]), outcome(1, "test", genre=["jazz", "waltz"]), outcome(2, genre=["ballad"])]
    known = descriptions.vocabularies(first, {}, 2)
    assert known == {"genre": Vocabulary("multi_label", ("jazz",), (2,))}
    more = [*first, outcome(3, genre=["ballad", "waltz"]), outcome(4, "valid", genre=["a", "ballad"], mood=["sad"])]
    found = descriptions.vocabularies(more, known, 2)
    assert found == {"genre": Vocabulary("multi_label", ("jazz", "ballad", "waltz"), (2, 3, 2))}
    assert descriptions.vocabularies([outcome(9)], known, 2)["genre"] == Vocabulary("multi_label", ("jazz",), (0,))


def test_knots_are_of_the_training_split_and_stay():
    train = [outcome(n, tempo=float(60 + n)) for n in range(65)]
    others = [outcome(100 + n, split, tempo=999.0 + n) for n, split in enumerate(("valid", "test"))]
    known = descriptions.vocabularies([*train, *others], {}, 10)
    assert known["tempo"].knots == tuple(float(60 + 4 * n) for n in range(17))
    found = descriptions.vocabularies([*train, *others, outcome(200, tempo=5.0)], known, 10)
    assert found == known
    same = [outcome(n, tempo=120.0, density=n % 2 + 1.0) for n in range(9)]
    assert descriptions.vocabularies(same, {}, 1) == {
        "density": Vocabulary("scalar", knots=(1.0, 1.5, 2.0))
    }  # 120 alone says nothing
    assert descriptions.vocabularies(others, {}, 1) == {}


# --- datasets


def described(path: str, number: int) -> dict:
    slow = number % 2
    return {
        "path": path,
        "captions": [
            caption(f"A {('fast', 'slow')[slow]} tune, number {number}.", human=not number % 3),
            caption("a tune in A minor", names_key=True),
        ],
        "genre": [("jazz", "folk")[slow]],
        "instruments": ["piano", "flute"],
        "tempo": 60.0 + number,
        "licence": ("CC0", "CC BY 4.0")[slow],
        "density": None,
    }


def tables(rows) -> dict:
    return {row["path"]: descriptions._conditions(row) for row in rows}


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for index in range(9):
        write(tune(index, 20), folder / f"{('Bach', 'Ödön')[index % 2]}/{index}.mid")
    rows = [described(f"{('Bach', 'Ödön')[index % 2]}/{index}.mid", index) for index in range(8)]
    rows += [described("Bach/gone.mid", 50), described("Bach/also gone.mid", 51)]
    (folder / "descriptions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def conditions_of(dataset: Path) -> dict[str, dict]:
    """Source -> what its record says."""
    return {record.source: dict(record.conditions) for record in records_of(dataset)}


def records_of(dataset: Path) -> list[Record]:
    splits = Card.load(dataset).splits.values()
    return [Record.from_bytes(data) for split in splits for data in shards.read(dataset, split.shards)]


def command(module: str, *flags) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", module, *map(str, flags)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)


FLAGS = ("--min-count=2", "--valid=0.2", "--test=0.2", "--workers=1")


def test_the_command_says_what_of_the_descriptions_is_used(music, tmp_path):
    """Files without one, descriptions of files that are gone, pieces that were there before."""
    flags = [f"--input={music}", f"--output={tmp_path / 'ds'}", *FLAGS]
    table = f"--descriptions={music / 'descriptions.jsonl'}"
    made = command("data_prep.midi", *flags, table)
    assert made.returncode == 0, made.stderr
    assert f"1 have no line in {music / 'descriptions.jsonl'}" in made.stdout
    assert "2 lines of" in made.stdout
    assert "are about files that are not in" in made.stdout
    assert "16 captions, 3 of them by people; told of pieces too: genre (2), tempo" in made.stdout
    assert "python -m data_prep.encode" in made.stdout
    found = conditions_of(tmp_path / "ds")
    rows = [json.loads(line) for line in (music / "descriptions.jsonl").read_text().splitlines()]
    for row in rows[:8]:
        # The tokenizer hears one piano, whatever played.
        assert found[row["path"]] == {
            "composer": row["path"].partition("/")[0],
            "text": row["captions"],
            "genre": row["genre"],
            "tempo": row["tempo"],
        }
    assert found["Bach/8.mid"] == {"composer": "Bach"}
    licences = {row["path"]: row["licence"] for row in rows[:8]} | {"Bach/8.mid": ""}
    assert {record.source: record.licence for record in records_of(tmp_path / "ds")} == licences

    assert command("data_prep.midi", *flags[:1], f"--output={tmp_path / 'bare'}", *FLAGS).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "bare").iterdir()}
    again = command("data_prep.midi", *flags[:1], f"--output={tmp_path / 'bare'}", *FLAGS, table)
    assert again.returncode == 0
    assert "nothing changed" in again.stdout
    assert "8 pieces were there before; what was told of them then stays" in again.stdout
    assert {path: path.read_bytes() for path in (tmp_path / "bare").iterdir()} == before


def test_instruments_are_told_to_a_tokenizer_that_has_them(music, tmp_path):
    table = descriptions.read(str(music / "descriptions.jsonl"), str(music))
    multitrack = Settings(tokenizer="remi_multitrack", valid=0.2, test=0.2, min_count=2)
    card = prepare(str(music), tmp_path / "ds", multitrack, descriptions=table).card
    assert card.conditions["instruments"].values == ("flute", "piano")
    assert set(table["Bach/0.mid"]) == {"text", "genre", "tempo", "instruments"}


def test_a_piece_keeps_what_people_said_of_its_copies(music, tmp_path):
    shutil.copytree(music, tmp_path / "in")
    for name in ("8 again.mid", "0 again.mid"):
        shutil.copy(music / f"Bach/{name[0]}.mid", tmp_path / "in/Bach" / name)
    rows = tables(described(f"Bach/{name}.mid", number) for name, number in (("0", 0), ("0 again", 3), ("8", 6)))
    report = prepare(str(tmp_path / "in"), tmp_path / "ds", SETTINGS, descriptions=rows)
    found = conditions_of(tmp_path / "ds")
    own = rows["Bach/0 again.mid"]["text"]  # the first in sorted order
    assert found["Bach/0 again.mid"]["text"] == [*own, rows["Bach/0.mid"]["text"][0]]
    assert found["Bach/0 again.mid"]["genre"] == rows["Bach/0 again.mid"]["genre"]
    assert found["Bach/8 again.mid"]["text"] == rows["Bach/8.mid"]["text"][:1]
    assert report.outdated == 0
    again = prepare(str(tmp_path / "in"), tmp_path / "ds", SETTINGS, descriptions=rows)
    assert (again.changed, again.outdated) == (False, 0)
    rows["Bach/0.mid"]["text"].append(caption("A new one.", human=True))
    assert prepare(str(tmp_path / "in"), tmp_path / "ds", SETTINGS, descriptions=rows).outdated == 1


def test_descriptions_of_other_files_are_refused(music, tmp_path):
    with pytest.raises(UserError, match=r"no path in the descriptions is a file of"):
        prepare(str(music), tmp_path / "ds", SETTINGS, descriptions={"x.mid": {}})
    assert not (tmp_path / "ds").exists()


def run(monkeypatch, module, *flags):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
    module.main()


def test_pieces_that_come_later_need_their_captions_encoded(music, tmp_path, monkeypatch, capsys):
    """Texts, clusters, ids and knots stay; the table of captions is behind until encode has run again."""
    folder, dataset = tmp_path / "in", tmp_path / "ds"
    shutil.copytree(music, folder)
    rows = tables(described(f"{('Bach', 'Ödön')[index % 2]}/{index}.mid", index) for index in range(8))
    prepare(str(folder), dataset, SETTINGS, descriptions=rows)
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    run(monkeypatch, cluster, f"--dataset={dataset}", "--k=2")
    before, text = Card.load(dataset), {path.name: path.read_bytes() for path in (dataset / "text").iterdir()}
    assert {"text", "semantic"} <= before.conditions.keys()
    table = CaptionTable.load(dataset / "text")
    table.require(before)

    assert not prepare(str(folder), dataset, SETTINGS, descriptions=rows).changed
    write(tune(77, 20), folder / "Bach/77.mid")
    write(tune(78, 20), folder / "Bach/78.mid")
    new = described("Bach/77.mid", 77) | {"genre": ["zydeco"]}
    rows |= tables([new, described("Bach/78.mid", 78) | {"genre": ["zydeco"]}])
    assert prepare(str(folder), dataset, SETTINGS, descriptions=rows).added == 2
    assert {path.name: path.read_bytes() for path in (dataset / "text").iterdir()} == text
    after = Card.load(dataset)
    for name in ("text", "semantic"):
        assert after.conditions[name] == before.conditions[name]
    assert after.conditions["tempo"].knots == before.conditions["tempo"].knots
    labels = before.conditions["genre"].values
    assert after.conditions["genre"].values == (*labels, "zydeco")
    with pytest.raises(UserError, match=r"run python -m data_prep\.encode again"):
        table.require(after)

    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    table, again = CaptionTable.load(dataset / "text"), Card.load(dataset)
    table.verify()
    table.require(again)
    assert "A slow tune, number 77." in table
    for name in ("text", "semantic"):
        assert again.conditions[name].meaning == before.conditions[name].meaning
    assert sum(again.conditions["semantic"].counts) == sum(each.count for each in table.captions)

    # A piece whose captions are all known brings nothing to encode, but the table is of these pieces too.
    write(tune(79, 20), folder / "Bach/79.mid")
    prepare(str(folder), dataset, SETTINGS, descriptions=rows)
    with pytest.raises(UserError, match="encode again"):
        table.require(Card.load(dataset))
    capsys.readouterr()
    run(monkeypatch, encode, f"--dataset={dataset}", "--encoder=tfidf")
    assert "nothing new" in capsys.readouterr().out
    table = CaptionTable.load(dataset / "text")
    table.verify()
    table.require(Card.load(dataset))
