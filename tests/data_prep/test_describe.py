import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from amt_jax.errors import UserError
from amt_jax.music.classes import density_class, tempo_class
from amt_jax.text.understanding import understand_all
from amt_jax.text.vocabulary import GENRE, INSTRUMENT, MOOD
from data_prep.dataset import descriptions
from data_prep.words import eras
from data_prep.words.description import describe, unmarked_tempos
from data_prep.words.templates import Facts, captions
from tests import music_files

ROOT = Path(__file__).parents[2]
LINE = {
    "path": "Chopin/Waltz_1.mid",
    "sha256": "0",
    "title": "Waltz 1",
    "artist": "Chopin",
    "duration": 60.0,
    "tempo": 66.0,
    "key": "C# minor",
    "time_signature": "3/4",
    "instruments": ["piano"],
    "notes": 300,
    "density": 4.0,
    "polyphony": "homophonic",
    "licence": "CC0",
    "source": "",
}


def line(path, **fields):
    return LINE | {"path": path, "title": Path(path).stem} | fields


def run(folder, lines, pairs=None, *, count=4, seed=0, input_=None):
    metadata = folder / "midi_metadata.jsonl"
    metadata.write_text("".join(json.dumps(each) + "\n" for each in lines))
    if pairs is not None:
        (folder / "pairs.json").write_text(json.dumps(pairs))
    report = describe(
        str(metadata),
        str(folder / "pairs.json") if pairs is not None else None,
        input_,
        folder / "out.jsonl",
        count,
        seed,
    )
    described = [json.loads(each) for each in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    skipped = [json.loads(each) for each in (folder / "out_skipped.jsonl").read_text(encoding="utf-8").splitlines()]
    return report, described, skipped


@pytest.fixture(scope="module")
def many():
    """Lines of many kinds of pieces."""
    lines = []
    keys, signatures = ("C# minor", "Eb major", "A minor", "F major", ""), ("3/4", "4/4", "6/8", "1/4", "")
    rows = (["piano"], ["guitar", "bass", "drums"], ["strings"], ["synth lead", "bass", "drums", "organ", "flute"], [])
    names = ("Chopin/Waltz_", "Bach/Fugue_", "ABBA/Song ", "jigs", "Bossa Nova/")
    for i in range(200):
        name, artist = names[i % 5] + f"{i}.mid", ("Chopin", "Bach", "ABBA", "", "")[i % 5]
        fields = {"key": keys[i // 5 % 5], "time_signature": signatures[i // 3 % 5], "instruments": rows[i // 7 % 5]}
        fields |= {"tempo": 50 + i * 0.77, "density": 2 + i % 13, "artist": artist}
        lines.append(line(name, polyphony=("monophonic", "homophonic", "polyphonic")[i % 3], **fields))
    return lines


def test_captions_say_what_is_true_and_nothing_else(tmp_path, many):
    """What is understood of every caption is what the metadata says: the two sides mean the same by each word."""
    report, described, skipped = run(tmp_path, many)
    assert (report.pieces, report.human, skipped) == (200, 0, [])
    facts = {each["path"]: each for each in many}
    told = [(each, caption) for each in described for caption in each["captions"]]
    counts = dict.fromkeys(("tempo", "density", "key", "mode", "instruments", "genre", "mood"), 0)
    for (piece, caption), understood in zip(told, understand_all(caption["text"] for _, caption in told), strict=True):
        music = facts[piece["path"]]
        assert understood.language == "en", caption
        assert understood.tempo in ("", tempo_class(music["tempo"])), caption
        assert understood.bpm in (None, round(music["tempo"])), caption
        assert understood.density in ("", density_class(music["density"])), caption
        assert understood.key in ("", music["key"]), caption
        assert understood.mode in ("", music["key"].rpartition(" ")[2]), caption
        assert caption["names_key"] == bool(understood.key), caption
        assert set(understood.values(INSTRUMENT)) <= set(music["instruments"]), caption
        assert set(understood.values(GENRE)) <= set(piece["genre"]), caption
        assert set(understood.values(MOOD)) <= set(piece["mood"]), caption
        assert not any(each.negated for each in understood.entities), caption
        for name, value in (("instruments", INSTRUMENT), ("genre", GENRE), ("mood", MOOD)):
            counts[name] += bool(understood.values(value))
        for name in ("tempo", "density", "key", "mode"):
            counts[name] += bool(getattr(understood, name))
    assert min(counts.values()) > 0.05 * len(told), counts


def test_captions_are_many_and_half_do_not_name_the_key(tmp_path, many):
    report, described, _ = run(tmp_path, many)
    assert report.captions == 800
    assert report.distinct > 0.9 * report.captions
    for piece in described:
        texts = [caption["text"] for caption in piece["captions"]]
        assert len(set(texts)) == len(texts)
        assert sum(caption["names_key"] for caption in piece["captions"]) <= len(texts) // 2
        assert not any(caption["human"] for caption in piece["captions"])


def test_captions_are_the_same_again_and_others_by_another_seed(tmp_path, many):
    first = run(tmp_path, many)[1]
    assert run(tmp_path, reversed(many))[1] == first == sorted(first, key=lambda each: each["path"])
    code = (
        "from data_prep.words.templates import *; print([c.text for c in captions(Facts(tempo='slow', key='C minor', "
    )
    code += "density='dense', instruments=('piano', 'bass'), form='waltz', moods=('sad', 'somber')), 4, 'a')])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, env={"PYTHONHASHSEED": str(seed)}
        ).stdout
        for seed in (1, 2)
    }
    assert len(outputs) == 1
    other = run(tmp_path, many, seed=1)[1]
    assert [each["captions"] for each in other] != [each["captions"] for each in first]


def test_grammar():
    facts = Facts(moods=("agitated",), density="moderate", key="Ab major", instruments=("organ",), era="Impressionist")
    for seed in range(200):
        for caption in captions(facts, 4, str(seed)):
            text = caption.text
            assert not any(
                slip in text for slip in (" a agitated", "A agitated", " a Impress", "A Impress", "  ", " .")
            )
    assert captions(Facts(), 3, "")[0].text  # nothing is known of the piece


def test_a_record_holds_what_the_contract_says(tmp_path):
    lines = [
        line("Chopin/Waltz_1.mid", family="Chopin/Waltz.mid"),
        line("x/jigs12.mid", artist="", key="", density=None),
    ]
    report, (waltz, jig), _ = run(tmp_path, lines)
    assert waltz | {"captions": []} == {
        "path": "Chopin/Waltz_1.mid",
        "captions": [],
        "genre": ["waltz", "romantic era", "classical"],
        "mood": ["sad", "melancholic", "somber"],
        "mood_from": "music",
        "instruments": ["piano"],
        "tempo": 66.0,
        "density": 4.0,
        "valence": -0.62,
        "arousal": -0.64,
        "composer": "Chopin",
        "family": "Chopin/Waltz.mid",
        "licence": "CC0",
    }
    assert jig["genre"] == ["jig", "folk"]
    assert jig["mood"] == []
    assert "composer" not in jig
    assert report.lacking == 1


def test_texts_by_people_are_cut_to_what_is_about_music(tmp_path):
    text = (
        "Example is a thing by someone. It was recorded in London in 1970 by a county council. "
        "It is a joyful waltz in D major for guitar, without drums. The label sold 100 copies."
    )
    pairs = [
        {"midi_path": "a.mid", "text": text, "genre": ["Bossa-Nova", "Shoegaze"]},
        {"midi_path": "b.mid", "text": "First. " * 80},
        {"midi_path": "family.mid", "text": "A gloomy organ."},
        {"midi_path": "gone.mid", "text": "A lost waltz."},
        {"midi_path": "b.mid", "text": "Dies ist ein trauriges Lied mit einer schönen Melodie und Geige."},
    ]
    captions_ = [{"text": "A tense techno loop", "human": False}, {"text": "A tense techno loop", "human": False}]
    lines = [line("a.mid"), line("b.mid", captions=captions_), line("c_000.mid", family="family.mid")]
    report, (a, b, c), skipped = run(tmp_path, [each | {"artist": ""} for each in lines], pairs)
    assert a["captions"][0] == {
        "text": "It is a joyful waltz in D major for guitar, without drums.",
        "human": True,
        "names_key": True,
    }
    assert a["genre"] == ["bossa nova", "shoegaze", "waltz", "latin"]
    assert (a["mood"], a["mood_from"], a["valence"]) == (["happy"], "words", 0.9)
    assert a["instruments"] == ["piano"]  # by the music, whatever is said
    assert b["captions"][0]["text"] == "First. First. First."
    assert [each["text"] for each in b["captions"]].count("A tense techno loop") == 1
    assert b["genre"] == ["techno", "electronic"]
    assert c["captions"][0] == {"text": "A gloomy organ.", "human": True, "names_key": False}
    assert {each["reason"]: each["path"] for each in skipped} == {
        "paired MIDI is not in the metadata": "gone.mid",
        "text is not English": "b.mid",
    }
    assert report.human == 3
    assert report.skipped.total() == 2


def test_several_genres_of_one_text_are_several(tmp_path):
    entry = {"midi_path": "a.mid", "text": "Recorded in London.", "genre": "Rock, Indie-Rock, Shoegaze"}  # as pair does
    _, (piece,), _ = run(tmp_path, [line("a.mid", artist="")], [entry])
    assert piece["genre"] == ["rock", "indie", "shoegaze"]


def test_titles_and_surnames_that_are_common_words_say_nothing(tmp_path):
    songs = [
        line("Chuck Berry/Carol.mid", artist="Chuck Berry"),
        line("Chuck Berry/Carol.1.mid", artist="Chuck Berry", title="Carol.1"),
        line("Chuck Berry/Carol_000.mid", artist="Chuck Berry", title="Carol", family="Chuck Berry/Carol.mid"),
        line("ABBA/Jungle.mid", artist="ABBA"),
        line("Field/Rag.mid", artist="Field"),
        line("Someone/Waltz.mid", artist="John Field"),
        line("Bossa Nova/One.mid", artist=""),
        line("a/rags2.mid", artist=""),
    ]
    _, pieces, _ = run(tmp_path, songs)
    assert {each["path"]: each["genre"] for each in pieces if each["genre"]} == {
        "Bossa Nova/One.mid": ["bossa nova", "latin"],
        "Someone/Waltz.mid": ["waltz", "romantic era", "classical"],
        "a/rags2.mid": ["ragtime", "jazz"],
    }
    assert [each["path"] for each in pieces if "composer" in each] == ["Someone/Waltz.mid"]


def test_a_tempo_that_a_file_does_not_mark_is_not_told(tmp_path):
    assert unmarked_tempos([90.0] * 99) == {120.0}
    assert unmarked_tempos([90.0] * 90 + [117.0] * 10) == {90.0, 117.0, 120.0}
    assert unmarked_tempos([90.0 + i for i in range(100)]) == {120.0}
    _, (piece,), _ = run(tmp_path, [line("a.mid", tempo=120.0, time_signature="4/4", artist="")], count=40)
    assert piece["tempo"] is None
    assert "tempo" not in descriptions.read(str(tmp_path / "out.jsonl"), str(tmp_path))["a.mid"]
    assert piece["mood"] == []
    for text in (caption["text"] for caption in piece["captions"]):
        assert not any(word in text for word in ("120", "BPM", "tempo", "pace", "4/4"))


def test_what_lines_lack_is_read_from_the_midi(tmp_path):
    music_files.write(music_files.tune(1, tempo=70.0), tmp_path / "midi" / "a.mid")
    (tmp_path / "midi" / "bad.mid").write_bytes(b"no music")
    bare = [{"path": name} for name in ("a.mid", "bad.mid", "gone.mid")]
    report, described, _ = run(tmp_path, bare)
    assert report.lacking == report.pieces == 3
    report, (piece,), skipped = run(tmp_path, bare, input_=str(tmp_path / "midi"))
    assert report.lacking == 0
    assert piece["tempo"] == pytest.approx(70.0, abs=0.01)
    assert piece["instruments"] == ["piano"]
    assert [each["path"] for each in skipped] == ["bad.mid", "gone.mid"]
    assert skipped[1]["reason"] == "MIDI is not in --input"
    assert len(described) == 3


@pytest.mark.parametrize(
    ("metadata", "pairs", "says"),
    [
        ('{"path": "a.mid"', None, "midi_metadata.jsonl"),
        ('{"title": "a"}', None, "it has no 'path'"),
        ('{"path": "a.mid"}\n{"path": "a.mid"}', None, "again"),
        ('{"path": "a.mid", "tempo": "fast"}', None, "its tempo is 'fast'"),
        ('{"path": "a.mid", "tempo": -5}', None, "its tempo is '-5'"),
        ('{"path": "a.mid", "instruments": [5, null]}', None, "its instruments is"),
        ('{"path": "a.mid", "captions": [{"human": true}]}', None, "its captions is"),
        ("", None, "is empty"),
        ('{"path": "a.mid"}', "{", "is not JSON"),
        ('{"path": "a.mid"}', "[" * 100_000, "is not JSON"),
        ('{"path": "a.mid"}', '{"midi_path": "a.mid"}', "not a list"),
        ('{"path": "a.mid"}', '[{"midi_path": "a.mid", "words": "x"}]', "pair 1 of"),
        ('{"path": "a.mid"}', '[{"text": "x"}]', "it has no 'midi_path'"),
        ('{"path": "a.mid"}', "[3]", "it has no 'midi_path'"),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, metadata, pairs, says):
    (tmp_path / "midi_metadata.jsonl").write_text(metadata)
    (tmp_path / "pairs.json").write_text(pairs or "[]")
    with pytest.raises(UserError, match=says):
        describe(
            str(tmp_path / "midi_metadata.jsonl"), str(tmp_path / "pairs.json"), None, tmp_path / "out.jsonl", 4, 0
        )
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command(tmp_path):
    (tmp_path / "midi_metadata.jsonl").write_text(json.dumps(LINE) + "\n")
    command = [sys.executable, "-m", "data_prep.describe", f"--metadata={tmp_path}/midi_metadata.jsonl"]
    output = tmp_path / "new" / "descriptions.jsonl"
    command += [f"--output={output}", "--captions=2", f"--input={tmp_path / 'my music'}"]
    music_files.write(music_files.tune(0), tmp_path / "my music" / LINE["path"])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 pieces" in done.stdout
    assert "2 captions, 0 of them by people" in done.stdout
    assert len(json.loads(output.read_text())["captions"]) == 2
    following = shlex.split(done.stdout.splitlines()[-1])[2:]
    assert following == [
        "data_prep.midi",
        f"--input={tmp_path / 'my music'}",
        "--output=DATASET",
        f"--descriptions={output}",
    ]
    done = subprocess.run([*command, "--pairs=none.json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "none.json" in done.stderr


def test_the_command_keeps_what_it_reads_and_what_was_made(tmp_path):
    metadata, output = tmp_path / "midi_metadata.jsonl", tmp_path / "descriptions.jsonl"
    metadata.write_text(json.dumps(LINE))
    output.write_text("good")
    (tmp_path / "empty").mkdir()
    for flags, says in (
        ([f"--output={metadata}"], "would overwrite what this command reads"),
        ([f"--output={output}", f"--input={tmp_path}/none"], "no folder"),
        ([f"--output={output}", f"--input={tmp_path}/empty"], "no piece of"),
    ):
        command = [sys.executable, "-m", "data_prep.describe", f"--metadata={metadata}", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert says in done.stderr
    assert metadata.read_text() == json.dumps(LINE)
    assert output.read_text() == "good"


@pytest.mark.parametrize(
    ("artist", "name"),
    [
        ("Bach", "Johann Sebastian Bach"),
        ("J. S. Bach", "Johann Sebastian Bach"),
        ("Bach, C. P. E.", "Carl Philipp Emanuel Bach"),
        ("johann_sebastian_bach", "Johann Sebastian Bach"),
        ("Ludwig Beethoven", "Ludwig van Beethoven"),
        ("Clara Schumann", "Clara Schumann"),
        ("SAINT-SAËNS", "Camille Saint-Saëns"),
        ("Randy Bach", None),
        ("Mozart Kingdom", None),
        ("ABBA", None),
        ("", None),
    ],
)
def test_composers_are_known_by_any_form_of_their_names(artist, name):
    composer = eras.find(artist)
    assert (composer.name if composer else None) == name
