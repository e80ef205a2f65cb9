"""The page about a collection: right figures, well formed, nothing from elsewhere, honest about what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.overview.collection import FEATURES
from tests.html_page import Checker

ROOT = Path(__file__).parents[2]
FILES = [
    {
        "path": f"A/{i}.mid",
        "title": f"<b>{i}",
        "artist": "A & B",
        "duration": 60.0 + i,
        "tempo": 100.0 + 2 * i,
        "key": ["C major", "A minor", ""][i % 3],
        "instruments": ["piano", "drums"][: 1 + i % 2],
        "notes": 100,
        "density": 5.0 - i / 10,
        "polyphony": ["monophonic", "homophonic", "polyphonic"][i % 3],
    }
    for i in range(12)
]
DESCRIPTIONS = [
    {
        "path": row["path"],
        "captions": [{"text": "A <calm> tune.", "human": False}],
        "genre": ["jazz"],
        "valence": i / 12,
    }
    for i, row in enumerate(FILES)
]
PAIRS = [{"midi_path": "A/3.mid", "text": "By hand.", "genre": "pop, rock", "provenance": {"source": "wikipedia"}}]
SKIPPED = [{"path": "bad.mid", "reason": "no notes", "details": ""}]


def run(folder: Path, files: list, **others: list) -> tuple[subprocess.CompletedProcess, str]:
    """The command's end and its page, "" if there is none."""
    flags = []
    for name, rows in {"metadata": files, **others}.items():
        lines = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        path = folder / f"{name}.json{'' if name == 'pairs' else 'l'}"
        path.write_text(json.dumps(rows) if name == "pairs" else lines, encoding="utf-8")
        flags.append(f"--{name}={path}")
    page = folder / "out" / "report.html"
    command = [sys.executable, "-m", "data_prep.report", *flags, f"--output={page}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done, page.read_text(encoding="utf-8") if page.exists() else ""


def texts_of(page: str) -> str:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert not [each for each in checker.references if not each.startswith("#")]
    return " ".join(" ".join(checker.texts).split())


def test_a_page_of_everything(tmp_path):
    gone = {**PAIRS[0], "midi_path": "gone.mid"}
    done, page = run(tmp_path, FILES, descriptions=DESCRIPTIONS, pairs=[*PAIRS, gone], skipped=SKIPPED)
    assert done.returncode == 0, done.stderr
    texts = texts_of(page)
    assert "12 files, 0.2 hours, 1,200 notes; 1.5 instruments a file" in texts
    assert "1 of them have words of their own" in texts
    assert "1 lines of --pairs are about files that are not here, gone.mid first" in texts
    assert "jazz" in texts
    assert "A <calm> tune." in texts
    assert "By hand." in texts
    assert "no notes" in texts
    for name in FEATURES:
        assert name in texts
    _, same = run(tmp_path, FILES, descriptions=DESCRIPTIONS, pairs=[*PAIRS, gone], skipped=SKIPPED)
    assert same == page


def test_the_metadata_alone_is_enough(tmp_path):
    done, page = run(tmp_path, FILES)
    assert done.returncode == 0, done.stderr
    texts = texts_of(page)
    for flag in ("--descriptions", "--pairs", "--skipped"):
        assert f"{flag} was not given" in texts
    assert "Genres are not known" in texts
    assert "Left out, as unknown or the same in all files: valence" in texts
    assert "No file has words" in texts


def test_little_is_known(tmp_path):
    done, page = run(tmp_path, [{"path": "a.mid"}], skipped=[])
    assert done.returncode == 0, done.stderr
    texts = texts_of(page)
    assert "Too little varies to be compared" in texts
    assert "unknown" in texts


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"descriptions": ["{"]}, "line 1 of"),
        ({"pairs": [{"text": "x"}]}, "it has no 'midi_path'"),
        ({"skipped": [{"path": "x"}]}, "it has no 'reason'"),
        ({"metadata": [{"title": "x"}]}, "it has no 'path'"),
        ({"metadata": [{"path": "a", "duration": "long"}]}, "its duration is 'long'"),
        ({"descriptions": [{"path": "a", "captions": [5]}]}, "its captions is '[5]'"),
        ({"pairs": [{"midi_path": "a", "text": "b", "provenance": "me"}]}, "its provenance is 'me'"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, others, message):
    done, page = run(tmp_path, others.pop("metadata", FILES), **others)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not page


def test_a_folder_is_no_page(tmp_path):
    command = [sys.executable, "-m", "data_prep.report", "--metadata=x.jsonl", f"--output={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: --output={tmp_path} is a folder; name a file in it, such as {tmp_path}/report.html\n"
    assert not list(tmp_path.iterdir())


def test_no_page_over_what_it_is_made_of(tmp_path):
    metadata = tmp_path / "midi_metadata.jsonl"
    metadata.write_text('{"path": "a.mid"}')
    command = [sys.executable, "-m", "data_prep.report", f"--metadata={metadata}", f"--output={metadata}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "would overwrite what this command reads" in done.stderr
    assert metadata.read_text() == '{"path": "a.mid"}'
