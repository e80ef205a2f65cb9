import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.errors import UserError
from data_prep.collecting.layouts import Layout

MD5 = "12697568a5c06fe9fd0bae8b715f57f0"
OTHER_MD5 = "0" * 32


def table(path, *rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def names_of(layout: Layout, *names: str) -> list[tuple[str, str]]:
    return [(line["artist"], line["title"]) for line in map(layout.line, names)]


@pytest.mark.parametrize(
    ("name", "artist", "title"),
    [
        ("ABBA/Dancing Queen.mid", "ABBA", "Dancing Queen"),
        ("ABBA/Dancing Queen.1.mid", "ABBA", "Dancing Queen"),
        ("ABBA/Arrival/Dancing_Queen.12.MID", "ABBA", "Dancing Queen"),
        ("Guns N' Roses/November Rain.midi", "Guns N' Roses", "November Rain"),
        ("Mr. Mister/Broken Wings.mid", "Mr. Mister", "Broken Wings"),
        ("Dancing Queen.mid", "", "Dancing Queen"),
        ("001/001.mid", "", "001"),
        ("MIDI/jigs12.mid", "", "jigs12"),
        (f"1/{MD5}.mid", "", ""),
        ("Ödön/ő.mid", "Ödön", "ő"),
    ],
)
def test_titles_and_artists_by_path(tmp_path, name, artist, title):
    assert names_of(Layout(str(tmp_path), [name, "x.mid"]), name) == [(artist, title)]


def test_a_folder_around_all_artists_is_none_of_them(tmp_path):
    names = ["clean_midi/ABBA/Waterloo.mid", "clean_midi/a-ha/Take On Me.mid"]
    layout = Layout(str(tmp_path), names)
    assert names_of(layout, *names) == [("ABBA", "Waterloo"), ("a-ha", "Take On Me")]
    assert str(layout) == "Artist/Title.mid (2 artists)"
    # One artist is one.
    assert names_of(Layout(str(tmp_path), ["ABBA/a.mid", "ABBA/b.mid"]), "ABBA/a.mid") == [("ABBA", "a")]


def test_maestro(tmp_path):
    row = {"canonical_composer": "Alban Berg", "canonical_title": "Sonata Op. 1", "split": "train", "year": "2018"}
    row |= {"midi_filename": "2018/one.midi", "audio_filename": "2018/one.wav", "duration": "698.66"}
    table(tmp_path / "maestro-v3.0.0.csv", row, row | {"midi_filename": "2018/gone.midi"})
    layout = Layout(str(tmp_path), ["2018/one.midi", "2018/two.midi"])
    assert str(layout) == "MAESTRO (maestro-v3.0.0.csv names 1 of 2), else file names as titles"
    line = layout.line("2018/one.midi")
    assert line == {
        "title": "Sonata Op. 1", "artist": "Alban Berg", "licence": "CC BY-NC-SA 4.0", "source": "MAESTRO"
    }  # fmt: skip
    assert layout.line("2018/two.midi") == {"title": "two", "artist": "", "licence": "", "source": ""}


def test_asap(tmp_path):
    row = {"composer": "Bach", "title": "Fugue_bwv_846", "folder": "Bach/Fugue/bwv_846"}
    row |= {"midi_score": "Bach/Fugue/bwv_846/midi_score.mid", "midi_performance": "Bach/Fugue/bwv_846/Shi05M.mid"}
    table(tmp_path / "metadata.csv", row)
    names = ["Bach/Fugue/bwv_846/midi_score.mid", "Bach/Fugue/bwv_846/Shi05M.mid"]
    layout = Layout(str(tmp_path), names)
    assert str(layout) == "ASAP (metadata.csv names 2 of 2)"
    assert names_of(layout, *names) == [("Bach", "Fugue bwv 846")] * 2


@pytest.mark.parametrize("folder", ["", "lmd_full/"])
def test_midicaps_with_lakhs_names(tmp_path, folder):
    """Its locations begin with the archive's folder, whether that is DIR or lies in it."""
    root = tmp_path / "lmd_full" if not folder else tmp_path
    root.mkdir(exist_ok=True)
    rows = [{"location": f"lmd_full/1/{MD5}.mid", "caption": "A  short piece.\n", "genre": ["pop"], "tempo": 104}]
    (root / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = ["Pop/ABBA/Waterloo.mid", "W/waterloo.mid", "Misc/ABBA/Waterloo.mid"]
    (root / "md5_to_paths.json").write_text(json.dumps({MD5: paths, OTHER_MD5: ["D/Deep_Purple/Smoke.1.mid"]}))
    names = [f"{folder}1/{MD5}.mid", f"{folder}0/{OTHER_MD5}.mid"]
    layout = Layout(str(root), names)
    assert "Lakh (md5_to_paths.json names 2 of 2)" in str(layout)
    assert "MidiCaps (train.json names 1 of 2)" in str(layout)
    line = layout.line(names[0])
    assert line["captions"] == [{"text": "A short piece.", "human": False}]
    assert (line["artist"], line["title"]) == ("ABBA", "Waterloo")
    assert names_of(layout, names[1]) == [("Deep Purple", "Smoke")]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("md5_to_paths.json", '{"a": ', "md5_to_paths.json"),
        ("md5_to_paths.json", '["a"]', "md5_to_paths.json"),
        ("md5_to_paths.json", '{"a": [1]}', "md5_to_paths.json"),
        ("train.json", '{"location": "a.mid", "caption": "x"}\n{"location": "b.mid"}\n', "line 2"),
        ("train.json", '{"location": "a.mid", "caption": "x"}\n{"loc', "line 2"),
        ("train.json", '{"location": "a.mid", "caption": 7}\n', "line 1"),
        ("m.csv", 'canonical_composer,canonical_title,midi_filename\na,"b,c\n', "m.csv"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=says):
        Layout(str(tmp_path), ["a.mid"])


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=200), st.sampled_from(["a.csv", "a.json", "a.jsonl"]))
def test_tables_of_anything_else_do_not_matter(tmp_path_factory, data, file):
    folder = tmp_path_factory.mktemp("any")
    (folder / file).write_bytes(data)
    assert str(Layout(str(folder), ["Abba/b.mid"])) == "Artist/Title.mid (1 artists)"


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text(), st.lists(st.text(), max_size=3) | st.integers() | st.none(), max_size=3))
def test_any_names_of_lakh_are_names_or_an_error(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("any")
    (folder / "md5_to_paths.json").write_text(json.dumps(paths))
    try:
        layout = Layout(str(folder), ["Abba/b.mid"])
    except UserError:
        assert not all(isinstance(each, list) for each in paths.values())
    else:
        for md5 in paths:
            assert layout.line(f"{md5}.mid").keys() >= {"title", "artist"}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), min_size=1, max_size=4).map("/".join))
def test_any_path_has_a_line(tmp_path_factory, name):
    line = Layout(str(tmp_path_factory.getbasetemp()), [f"{name}.mid"]).line(f"{name}.mid")
    assert line["licence"] == line["source"] == ""
