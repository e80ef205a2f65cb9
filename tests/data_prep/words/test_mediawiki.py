import sqlite3
import subprocess
import sys

import pytest

from amt_jax.errors import UserError
from data_prep.words.mediawiki import TRIES, NoAnswer, Refused, Wiki
from tests.wiki_server import Page, WikiServer

NAMES = ["Alpha", "Beta", "Gamma"]
SEARCH = {"generator": "search", "gsrlimit": "10", "prop": "extracts|info|pageprops", "redirects": "1"}


@pytest.fixture
def server():
    with WikiServer([Page(name, f"{name} is a song.") for name in NAMES]) as server:
        yield server


@pytest.fixture
def connect(server, tmp_path):
    """A function that opens a Wiki of the server; they are closed at the end."""
    opened = []

    def make(**changes):
        fields = {"contact": "you@example.org", "delay": 0.02, "timeout": 10} | changes
        opened.append(Wiki(server.api, tmp_path / "answers.sqlite", **fields))
        return opened[-1]

    yield make
    for wiki in opened:
        wiki.close()


def titles(wiki: Wiki, words: str = "song") -> list[str]:
    return [page["title"] for page in wiki.pages(**SEARCH, gsrsearch=words)]


FAULTS = ["429", "500", "502", "503", "504", "maxlag", "ratelimited", "cirrussearch-too-busy-error"]
FAULTS += ["internal_api_error_DBQueryError", "garbage", "list", "slow", "drop", "cut"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_asked_again_and_not_remembered(server, connect, fault):
    server.faults = {0: fault, 1: fault}
    wiki = connect(timeout=0.3 if fault == "slow" else 10)
    assert titles(wiki) == NAMES
    assert len(server.requests) == wiki.requests == 3
    assert len(set(server.questions())) == 1
    if fault != "slow":  # Then the server is still at it when the client has given up.
        assert server.pauses()[0] >= 0.02
        assert server.pauses()[1] >= 0.04  # doubles
    assert titles(wiki) == NAMES
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "least"),
    [("429 1", 1), ("503 +2", 1), ("maxlag 1", 1), ("503 -5", 0.02), ("429 soon", 0.02), ("429 0", 0.02)],
)
def test_retry_after_is_honoured_by_seconds_and_by_date(server, connect, fault, least):
    server.faults = {0: fault}
    assert titles(connect())
    assert len(server.requests) == 2
    assert least <= server.pauses()[0] < least + 1.5


def test_a_server_that_wants_hours_is_left_alone(server, connect):
    server.always = "429 7200"
    with pytest.raises(UserError, match=r"left alone for 120 minutes.*429"):
        titles(connect())
    assert len(server.requests) == 1


def test_tries_are_bounded_and_failures_are_asked_again_later(server, connect):
    server.always = "503"
    wiki = connect(delay=0.005)
    with pytest.raises(NoAnswer, match="503 Service Unavailable"):
        titles(wiki)
    assert len(server.requests) == TRIES
    server.always = ""
    assert titles(wiki)


def test_a_server_that_is_not_there_gives_no_answer(tmp_path):
    with Wiki("http://127.0.0.1:9", tmp_path / "c", contact="a@b.c", delay=0.001, timeout=1) as wiki:
        with pytest.raises(NoAnswer, match=r"^ConnectionError: .*refused[^?]*$"):
            titles(wiki)
        assert wiki.requests == TRIES


def test_never_faster_than_asked_and_never_two_at_once(server, connect):
    server.faults = {3: "503", 4: "drop", 9: "maxlag"}
    wiki = connect(delay=0.05)
    for number in range(12):
        titles(wiki, f"song {number}")
    assert len(server.requests) == 15
    assert min(server.pauses()) >= 0.05
    assert server.most_at_once == 1


def test_it_says_who_asks_and_that_lag_comes_first(server, connect):
    titles(connect(contact="https://example.org/me"))
    (request,) = server.requests
    agent = request.headers["User-Agent"]
    assert agent.startswith("amt_jax/")
    assert "(https://example.org/me) python-requests/" in agent
    assert "gzip" in request.headers["Accept-Encoding"]
    assert request.question["maxlag"] == "5"


def test_answers_last_and_nothing_found_is_one(server, connect):
    wiki = connect()
    assert titles(wiki) == NAMES
    assert titles(wiki, "nowhere") == []
    wiki.close()
    offline = connect(offline=True)
    assert titles(offline) == NAMES
    assert titles(offline, "nowhere") == []
    with pytest.raises(NoAnswer, match="offline"):
        titles(offline, "elsewhere")
    assert len(server.requests) == 2


def test_answers_in_parts_are_put_together(server, connect):
    server.extracts = 1
    pages = connect().pages(**SEARCH, gsrsearch="song")
    assert [page["extract"] for page in pages] == [f"{name} is a song." for name in NAMES]
    assert all(page["lastrevid"] for page in pages)
    assert [each.question.get("excontinue") for each in server.requests] == [None, "1", "2"]


def test_a_search_is_not_followed_to_its_end(server, connect):
    assert len(connect().pages(**SEARCH | {"gsrlimit": "2"}, gsrsearch="song")) == 2
    assert len(server.requests) == 1


def test_redirects_lead_to_pages_that_know_their_other_names(server, connect):
    server.pages["Aleph"] = Page("Aleph", redirect_to="Alpha")
    (page,) = connect().pages(**SEARCH, gsrsearch="aleph")
    assert (page["title"], page["aliases"]) == ("Alpha", ["Aleph"])


def test_what_is_wrong_with_the_question_is_no_reason_to_repeat_it(server, connect):
    server.always = "badvalue"
    wiki = connect()
    for _ in range(2):
        with pytest.raises(Refused, match="badvalue: Sorry"):
            titles(wiki)
    assert len(server.requests) == 1
    server.always = ""
    for _ in range(2):
        with pytest.raises(Refused, match="missingparam"):
            titles(wiki, "")
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["403", "404"])
def test_a_refusal_names_the_ways_out(server, connect, status):
    server.always = status
    with pytest.raises(UserError, match=f"{status}.*Wikimedia Error.*--api.*--contact"):
        titles(connect())
    assert len(server.requests) == 1


def test_one_process_at_a_time_holds_the_answers(server, connect, tmp_path):
    connect().close()
    connect()
    code = "import sys; from pathlib import Path; from data_prep.words.mediawiki import Wiki\n"
    code += "Wiki(sys.argv[1], Path(sys.argv[2]), contact='a@b.c', delay=1, timeout=1)"
    command = [sys.executable, "-c", code, server.api, str(tmp_path / "answers.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "another process is using" in done.stderr


def test_a_file_of_something_else_is_left_as_it_is(connect, tmp_path):
    (tmp_path / "answers.sqlite").write_text("My thesis, the only copy. " * 50)
    with pytest.raises(UserError, match="name another --cache"):
        connect()
    assert (tmp_path / "answers.sqlite").read_text().startswith("My thesis")


def test_an_answer_is_in_the_file_when_the_next_question_is_asked(server, connect, tmp_path):
    wiki = connect()
    titles(wiki)
    wiki.close()
    connection = sqlite3.connect(tmp_path / "answers.sqlite")
    assert connection.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    connection.close()


def test_a_disk_that_fills_is_told_with_the_way_out(server, connect):
    wiki = connect()
    titles(wiki)
    wiki._memory.execute("PRAGMA max_page_count=1")  # SQLite then says what it says of a full disk.
    server.pages["Alpha"].extract = "Alpha is a song." * 1000
    with pytest.raises(UserError, match=r"disk is full.*make room"):
        titles(wiki, "alpha")
