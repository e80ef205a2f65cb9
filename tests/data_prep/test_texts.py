import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.wiki_server import Page, WikiServer

ROOT = Path(__file__).parents[2]
COUNT = 12
FLAGS = ["--contact=you@example.org", "--delay=0.02", "--timeout=0.4"]


def pages() -> list[Page]:
    names = [f"Melody {chr(ord('A') + number)}" for number in range(COUNT)]
    made = [
        Page(name, f'"{name}" is a song by the Testers. It was recorded in London by two of them.') for name in names
    ]
    made[3].missing = True
    made[5].disambiguation = True
    made[
        7
    ].extract = '"Melody H" ist ein Lied von The Testers (song). Es wurde in Berlin aufgenommen und ist sehr schön.'
    return made


@pytest.fixture
def server():
    with WikiServer(pages()) as server:
        yield server


@pytest.fixture
def metadata(tmp_path) -> Path:
    """A line for each of the wiki's pages, the first twice, and one that says nothing."""
    titles = [page.title for page in pages()]
    lines = [{"path": f"The Testers/{title}.mid", "title": title, "artist": "The Testers"} for title in titles]
    lines += [lines[0] | {"path": "other.mid"}, {"path": "0/0.mid", "title": "", "artist": ""}]
    file = tmp_path / "midi_metadata.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def start(*flags: str, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "data_prep.texts", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=-1, stderr=-1, text=True)


def run(*flags: str, cwd: Path) -> tuple[int, str, str]:
    process = start(*flags, cwd=cwd)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def wikipedia(server: WikiServer, metadata: Path, folder: Path) -> list[str]:
    return [f"--metadata={metadata}", f"--output={folder}/texts.jsonl", f"--api={server.api}", *FLAGS]


def test_it_gets_all_there_is_from_a_wiki_that_fails(server, metadata, tmp_path):
    faults = ["429 1", "503", "garbage", "maxlag 1", "drop", "cut", "slow", "ratelimited", "500", "list"]
    server.faults = {2 * number: fault for number, fault in enumerate(faults)}
    code, out, err = run(*wikipedia(server, metadata, tmp_path), cwd=tmp_path)
    assert code == 0, err
    texts, missing = lines(tmp_path / "texts.jsonl"), lines(tmp_path / "texts_missing.jsonl")
    assert [text["title"] for text in texts] == [f"Melody {letter}" for letter in "ABCEGIJKL"]
    assert texts[0] == {
        "title": "Melody A",
        "artist": "The Testers",
        "text": '"Melody A" is a song by the Testers. It was recorded in London by two of them.',
        "source": "wikipedia",
        "url": "https://en.wikipedia.org/wiki/Melody_A",
        "revision": 5000,
        "licence": "CC BY-SA 4.0",
        "confidence": 1.0,
    }
    reasons = {"Melody D": "no page", "Melody F": "no page", "Melody H": "not English", "": "no title"}
    assert {each["title"]: each["reason"] for each in missing} == reasons
    assert "9 texts" in out
    assert "2 without: no page (wikipedia)" in out
    assert f"{len(server.requests)} requests to {server.api}" in out
    slow = [number for number, fault in server.faults.items() if fault == "slow"]
    assert min(pause for number, pause in enumerate(server.pauses()) if number not in slow) >= 0.02
    sent = len(server.requests)
    assert run(*wikipedia(server, metadata, tmp_path), cwd=tmp_path)[0] == 0
    assert len(server.requests) == sent


def test_a_kill_loses_nothing_and_nothing_is_asked_twice(server, metadata, tmp_path):
    server.hold = number = 13
    process = start(*wikipedia(server, metadata, tmp_path), "--timeout=30", cwd=tmp_path)
    assert server.held.wait(30)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.release.set()
    assert not (tmp_path / "texts.jsonl").exists()
    code, _, err = run(*wikipedia(server, metadata, tmp_path), cwd=tmp_path)
    assert code == 0, err
    asked = server.questions()
    twice = {question for question in asked if asked.count(question) > 1}
    assert twice == {asked[number]}  # whose answer had not come
    assert asked.count(asked[number]) == 2

    with WikiServer(pages()) as straight:
        assert run(*wikipedia(straight, metadata, tmp_path / "straight"), cwd=tmp_path)[0] == 0
        assert len(straight.requests) == len(asked) - 1
    for name in ("texts.jsonl", "texts_missing.jsonl"):
        assert (tmp_path / name).read_text() == (tmp_path / "straight" / name).read_text()


def test_ctrl_c_is_one_clean_line_and_the_way_on(server, metadata, tmp_path):
    server.hold = 4
    process = start(*wikipedia(server, metadata, tmp_path), "--timeout=30", cwd=tmp_path)
    assert server.held.wait(30)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted: run the same command again to go on from here"
    assert "Traceback" not in err
    server.release.set()
    code, out, _ = run(*wikipedia(server, metadata, tmp_path), "--offline", cwd=tmp_path)
    assert code == 0
    assert "without: not in the cache (wikipedia)" in out
    assert len(server.requests) == 5
    assert run(*wikipedia(server, metadata, tmp_path), cwd=tmp_path)[0] == 0
    assert len(lines(tmp_path / "texts.jsonl")) == 9


@pytest.mark.parametrize(("answers", "titles"), [(0, 1), (2, 3)])
def test_a_wiki_that_is_down_is_not_asked_for_every_title(server, metadata, tmp_path, answers, titles):
    server.faults = dict.fromkeys(range(answers, 99), "503")
    code, _, err = run(*wikipedia(server, metadata, tmp_path), "--delay=0.001", cwd=tmp_path)
    assert code == 2
    assert "api.php does not answer (503 Service Unavailable (6 tries))" in err.splitlines()[-1]
    assert len(server.requests) == answers + titles * 6


def test_one_title_without_an_answer_is_listed_and_asked_for_again(server, metadata, tmp_path):
    server.faults = dict.fromkeys(range(1, 7), "503")
    flags = [*wikipedia(server, metadata, tmp_path), "--delay=0.002"]
    code, out, _ = run(*flags, cwd=tmp_path)
    assert code == 0
    assert "8 texts" in out
    assert "1 without: no answer (wikipedia)" in out
    assert "9 texts" in run(*flags, cwd=tmp_path)[1]


def test_titles_that_cannot_be_asked_for_are_no_silence(server, metadata, tmp_path):
    odd = [{"path": f"{name}.mid", "title": name, "artist": ""} for name in ("!!!", "...", "???", "---")]
    metadata.write_text("".join(json.dumps(line) + "\n" for line in odd) + metadata.read_text())
    server.faults = dict.fromkeys(range(1, 5), "badvalue")
    for _ in range(2):
        code, out, err = run(*wikipedia(server, metadata, tmp_path), cwd=tmp_path)
        assert code == 0, err
        assert "6 texts" in out
        reasons = Counter(each["reason"] for each in lines(tmp_path / "texts_missing.jsonl"))
        assert reasons["the wiki refuses the question"] == 4
        assert reasons["no letters or digits to search for"] == 4
        sent = len(server.requests)
    assert "0 requests" in out
    assert sent == len(set(server.questions()))


def test_other_sources_need_no_wiki(tmp_path):
    (tmp_path / "captions.csv").write_text("path,text\nb.mid,A slow waltz.\na.mid,😀\nc.mid,A fast jig. And more.\n")
    (tmp_path / "fma").mkdir()
    columns = "track_title,track_information,track_duration,track_genres,track_url,artist_name,license_title"
    (tmp_path / "fma" / "raw_tracks.csv").write_text(
        f"{columns}\nFood,A song about food.,02:48,[],,AWOL,CC0\nX,,,,,,\n"
    )
    flags = ["--skip-wikipedia", "--captions=captions.csv", "--fma=fma", "--output=new/out.jsonl", "--max-words=3"]
    code, out, err = run(*flags, cwd=tmp_path)
    assert code == 0, err
    made = [(each.get("path", ""), each["text"]) for each in lines(tmp_path / "new" / "out.jsonl")]
    assert made == [("", "A song about"), ("b.mid", "A slow waltz."), ("c.mid", "A fast jig.")]
    reasons = [(each["reason"], each.get("path")) for each in lines(tmp_path / "new" / "out_missing.jsonl")]
    assert reasons == [("no letters", "a.mid"), ("no text", None)]
    assert "3 texts in new/out.jsonl: 1 from fma, 2 from captions" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--skip-wikipedia"], "nothing to read"),
        ([], "--metadata says which titles"),
        (["--metadata=m.jsonl"], "give --contact"),
        (["--metadata=m.jsonl", "--contact=me"], "give --contact"),
        (["--metadata=m.jsonl", "--contact=é@b.c"], "give --contact"),
        (["--skip-wikipedia", "--captions=c.csv", "--output=."], "--output=. is a folder"),
        (["--skip-wikipedia", "--captions=c.csv", "--output=./c.csv"], "--output=c.csv would overwrite what"),
        (["--metadata=m.jsonl", "--contact=a@b.c", "--delay=0"], "--delay is 0.0; it must be more than 0"),
        (["--metadata=m.jsonl", "--contact=a@b.c", "--api=wiki"], "no address of a wiki"),
        (["--metadata=m.jsonl", "--contact=a@b.c"], "m.jsonl has no column 'artist'"),
        (["--metadata=none.jsonl", "--contact=a@b.c"], "cannot read 'none.jsonl'"),
        (["--metadata=a.csv", "--offline"], "no cache"),
        (["--skip-wikipedia", "--captions=c.csv"], "did you mean 'txt'"),
    ],
)
def test_what_is_wrong_is_one_line_with_a_way_out(tmp_path, flags, message):
    (tmp_path / "m.jsonl").write_text('{"title": "x"}\n')
    (tmp_path / "a.csv").write_text("title,artist\nx,y\n")
    (tmp_path / "c.csv").write_text("path,txt\nx,y\n")
    code, _, err = run("--output=out.jsonl", *flags, cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
