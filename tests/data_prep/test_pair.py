"""The command as people run it: the files that it writes and what it refuses."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABBA = {"path": "ABBA/Waterloo.mid", "title": "Waterloo", "artist": "ABBA", "duration": 168.0, "tempo": 147.6}
WORDS = {"title": "Waterloo (ABBA song)", "artist": "ABBA", "text": "Waterloo is a song.", "source": "wikipedia"}


def run(folder: Path, files: list, texts: list, *flags: str) -> subprocess.CompletedProcess:
    for name, rows in (("midi_metadata.jsonl", files), ("texts.jsonl", texts)):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = ["--metadata=midi_metadata.jsonl", "--texts=texts.jsonl", "--output=out", *flags]
    code = "import sys; from amt_jax.errors import run_command; from data_prep.pair import main; run_command(main)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}", *command]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def table(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_files(tmp_path):
    files = [
        ABBA,
        ABBA | {"path": "ABBA/Waterloo.1.mid", "title": "Waterloo.1", "duration": 300.0},
        ABBA | {"path": "ABBA/Waterloo_000.mid", "family": "ABBA/Waterloo.mid", "start": 0, "duration": 30.0},
        ABBA | {"path": "ABBA/slower.mid", "original_tempo": 147.6, "duration": 200.0},
        ABBA | {"path": "Elvis/Waterloo.mid", "artist": "Elvis Presley"},
        {"path": "Hello.mid", "title": "Hello", "artist": ""},
        {"path": "x/y.mid", "title": "", "artist": "", "tempo": 90.4, "duration": 12.0},
        {"path": "Nobody/Nothing.mid", "title": "Nothing at All", "artist": "Nobody"},
        {"path": "Queen/One.mid", "title": "One Vision", "artist": "Queen"},
    ]
    texts = [
        WORDS | {"duration": 166, "genre": ["pop", "schlager"], "url": "https://w", "revision": 7, "confidence": 0.9},
        {"title": "Hello", "artist": "Adele", "text": "By Adele.", "source": "wikipedia"},
        {"title": "Hello", "artist": "Lionel Richie", "text": "By Richie.", "source": "wikipedia"},
        {"path": "x/y.mid", "text": "A calm étude.", "source": "captions"},
        {"path": "gone.mid", "text": "A lost one.", "source": "captions"},
        {"title": "One Vision", "artist": "Queen", "text": "Unsure.", "source": "wikipedia", "confidence": 0.3},
    ]
    done = run(tmp_path, files, texts)
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "out/automated_paired_data.json").read_bytes()
    pairs = {each["midi_path"]: each for each in json.loads(first)}
    assert list(pairs) == ["ABBA/Waterloo.mid", "ABBA/Waterloo_000.mid", "ABBA/slower.mid", "x/y.mid"]
    waterloo = pairs["ABBA/Waterloo.mid"]
    assert waterloo["text"] == "Waterloo is a song."
    assert (waterloo["genre"], waterloo["bpm"], waterloo["duration"]) == ("pop, schlager", 148, 168.0)
    assert waterloo["confidence"] == 0.9
    assert waterloo["provenance"]["paired_by"] == "title and artist"
    assert waterloo["provenance"]["revision"] == 7
    assert pairs["x/y.mid"]["text"] == "A calm étude."
    assert pairs["x/y.mid"]["provenance"]["paired_by"] == "path"
    ambiguous = table(tmp_path / "out/ambiguous.csv")
    assert [(row["midi_path"], row["text_artist"]) for row in ambiguous] == [
        ("Hello.mid", "Adele"),
        ("Hello.mid", "Lionel Richie"),
        ("Queen/One.mid", "Queen"),
    ]
    unpaired = {row["midi_path"]: row["why"] for row in table(tmp_path / "out/unpaired.csv")}
    assert unpaired == {
        "ABBA/Waterloo.1.mid": "the durations differ",
        "Elvis/Waterloo.mid": "the texts with its title are about other artists",
        "Nobody/Nothing.mid": "no text has a title like it",
    }
    assert "4 pairs" in done.stdout
    assert "1 of them name a file that is not in the metadata, 'gone.mid' first" in done.stdout
    following = ["--metadata=midi_metadata.jsonl", "--pairs=out/automated_paired_data.json"]
    following += ["--output=out/descriptions.jsonl"]
    assert shlex.split(done.stdout.splitlines()[-1]) == ["python", "-m", "data_prep.describe", *following]
    run(tmp_path, files[::-1], texts)
    assert (tmp_path / "out/automated_paired_data.json").read_bytes() == first
    looser = run(tmp_path, files, texts, "--max-seconds=inf", "--min-confidence=0.2")
    assert "6 pairs" in looser.stdout


def test_a_file_gets_every_text_that_is_about_it(tmp_path):
    files = [ABBA, {"path": "x.mid", "title": "", "artist": ""}, ABBA | {"path": "y.mid", "title": "Fernando"}]
    texts = [
        {"path": "y.mid", "text": "A sad one.", "confidence": 0.1},
        WORDS | {"title": "Fernando", "text": "Fernando is a song."},
        WORDS | {"confidence": 0.7},
        WORDS | {"text": "A glam tune.", "source": "captions"},
        WORDS | {"text": "Unsure.", "confidence": 0.3},
        WORDS | {"text": "Another.", "artist": "Stonewall Jackson"},
        {"path": "x.mid", "text": "A waltz.", "confidence": 0.5},
        {"path": "x.mid", "text": "A slow waltz."},
    ]
    done = run(tmp_path, files, texts)
    assert done.returncode == 0, done.stderr
    pairs = json.loads((tmp_path / "out/automated_paired_data.json").read_text())
    assert [(each["midi_path"], each["text"]) for each in pairs] == [
        (ABBA["path"], "A glam tune."), (ABBA["path"], "Waterloo is a song."),
        ("x.mid", "A slow waltz."), ("x.mid", "A waltz."),
        ("y.mid", "A sad one."), ("y.mid", "Fernando is a song."),
    ]  # fmt: skip
    assert "6 pairs of 3 files" in done.stdout
    assert "2 texts are in no pair" in done.stdout


@pytest.mark.parametrize(
    ("files", "texts", "flags", "message"),
    [
        ([ABBA, '{"path": '], [WORDS], [], "line 2 of midi_metadata.jsonl is not JSON"),
        ([ABBA, "", "[1]"], [WORDS], [], "line 3 of midi_metadata.jsonl is not a JSON object"),
        (
            [{"path": "a.mid", "title": "A"}],
            [WORDS],
            [],
            "line 1 of midi_metadata.jsonl cannot be used (it has no 'artist')",
        ),
        ([ABBA], [WORDS, {"title": "A"}], [], "line 2 of texts.jsonl cannot be used (it has no 'text')"),
        ([ABBA], [], [], "texts.jsonl is empty; data_prep.texts makes it, and lists beside it"),
        ([], [WORDS], [], "midi_metadata.jsonl is empty; data_prep.collect makes it"),
        ([ABBA], [WORDS], ["--input=."], "1 of 1 files in midi_metadata.jsonl are not in ., 'ABBA/Waterloo.mid' first"),
        ([ABBA], [WORDS], ["--input=nowhere"], "no folder 'nowhere'"),
        ([ABBA], [WORDS], ["--min-title=101"], "--min-title: invalid 1 to 100 value"),
        ([ABBA], [WORDS], ["--min-title=0"], "--min-title: invalid 1 to 100 value"),
        ([ABBA], [WORDS], ["--texts=none.jsonl"], "cannot read 'none.jsonl'"),
        ([ABBA], [WORDS], ["--output=texts.jsonl"], "--output=texts.jsonl is a file; name a folder"),
        ([ABBA], [WORDS | {"genre": [1, 2]}], [], "line 1 of texts.jsonl cannot be used (its genre is '[1, 2]')"),
        ([ABBA], [WORDS | {"genre": 5}], [], "its genre is '5'"),
        ([ABBA], [WORDS | {"bpm": "fast"}], [], "its bpm is 'fast'"),
        ([ABBA], [WORDS | {"path": ["a"]}], [], "its path is \"['a']\""),
    ],
)
def test_what_cannot_be_paired_is_told(tmp_path, files, texts, flags, message):
    done = run(tmp_path, files, texts, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
