"""A wiki: questions to a MediaWiki API, one at a time, each asked once and its answer kept.

What it owes the server: https://www.mediawiki.org/wiki/API:Etiquette and Manual:Maxlag_parameter.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from amt_jax import __version__
from amt_jax.errors import UserError

TRIES = 6
MAX_WAIT = 900.0  # Seconds. A server that wants to be left alone for longer is asked another day.
MAX_CONTINUES = 10
_BUSY = {429, 500, 502, 503, 504}
# Errors in a well-formed answer that another try may not meet; all others speak about the question.
_PASSING = ("maxlag", "ratelimited", "readonly", "cirrussearch-too-busy-error", "internal_api_error")


class NoAnswer(Exception):
    """A question that was not answered; says what came instead."""


class Refused(Exception):
    """A question that the wiki does not accept, now or later; says why."""


class Wiki:
    """A MediaWiki API with a memory.

    Never two requests at once, also from two processes with one memory, and between the end of one and the beginning
    of the next `delay` seconds or more: never over 1/delay requests a second. Each is tried TRIES times, after waits
    that double from `delay` with jitter and are at least what the server's Retry-After says.
    """

    def __init__(self, api: str, memory: Path, *, contact: str, delay: float, timeout: float, offline: bool = False):
        """Opens or makes the memory.

        Args:
          api: URL of its api.php.
          memory: an SQLite file of answers.
          contact: an address or web page of whoever asks, for the User-Agent.
          delay: least seconds between requests.
          timeout: seconds that the server may be silent.
          offline: answer from memory only.

        Raises UserError if another process holds the memory, or it cannot be read or written.
        """
        self.api, self.delay, self.timeout, self.offline = api, delay, timeout, offline
        self.requests = 0  # that were sent
        self._free_at = 0.0
        self._memory = _Memory(memory)
        self._session = requests.Session()
        library = self._session.headers["User-Agent"]
        self._session.headers["User-Agent"] = f"amt_jax/{__version__} ({contact}) {library}"

    def close(self) -> None:
        self._session.close()
        self._memory.close()

    def __enter__(self) -> Wiki:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pages(self, **question: str) -> list[dict[str, Any]]:
        """The pages that action=query gives, whole, in the order of its generator; NoAnswer or Refused if it gave none.

        A page's "aliases" are the titles that redirected to it.
        """
        pages: dict[str, dict[str, Any]] = {}
        more: dict[str, Any] = {}
        for _ in range(MAX_CONTINUES):
            answer = self._ask({"action": "query", "format": "json", "formatversion": "2"} | question | more)
            if error := answer.get("error"):
                raise Refused(_said(error))
            query = answer.get("query", {})  # absent if nothing was found
            for page in query.get("pages", []):
                pages.setdefault(page["title"], {"aliases": []}).update(page)
            for redirect in query.get("redirects", []):
                if redirect["to"] in pages and redirect["from"] not in pages[redirect["to"]]["aliases"]:
                    pages[redirect["to"]]["aliases"].append(redirect["from"])
            # Complete pages, though a search could go on to further ones.
            if answer.get("batchcomplete") or "continue" not in answer:
                break
            more = answer["continue"]
        return sorted(pages.values(), key=lambda page: page.get("index", 0))

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        key = f"{self.api}?{json.dumps(question, sort_keys=True)}"
        if known := self._memory.execute("SELECT answer FROM answers WHERE question = ?", key):
            return json.loads(known[0][0])
        if self.offline:
            raise NoAnswer("not asked before, and --offline")
        answer = self._fetch(question)
        self._memory.execute("INSERT INTO answers VALUES (?, ?)", key, json.dumps(answer, ensure_ascii=False))
        return answer

    def _fetch(self, question: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(TRIES):
            time.sleep(max(0.0, self._free_at - time.monotonic()))
            response, problem = None, ""
            try:
                self.requests += 1
                response = self._session.get(self.api, params=question | {"maxlag": "5"}, timeout=self.timeout)
                if response.status_code not in _BUSY:
                    return _judge(response)
                problem = f"{response.status_code} {response.reason}"
            except _Passing as error:
                problem = str(error)
            except requests.RequestException as error:  # no connection, cut short, silent too long, no JSON
                problem = _why(error)
            finally:
                self._free_at = time.monotonic() + self.delay
            wished = _retry_after(response)
            if wished > MAX_WAIT:
                raise UserError(
                    f"{self.api} asks to be left alone for {wished / 60:.0f} minutes ({problem}); what was found is "
                    "kept: run the same command again after that"
                )
            wait = max(self.delay * 2**attempt * random.uniform(1, 1.5), wished)
            self._free_at = time.monotonic() + wait
            if wait >= 5:
                tqdm.write(f"{problem}: no request for {wait:.0f} s", file=sys.stderr)
        raise NoAnswer(f"{problem} ({TRIES} tries)")


class _Passing(Exception):
    """An error that the server reports and that may be over soon."""


def _judge(response: requests.Response) -> dict[str, Any]:
    """The answer in a response whose status is none of _BUSY."""
    if response.status_code != 200:
        said = " ".join(response.text.split())[:200]
        raise UserError(
            f"{response.url.partition('?')[0]} refuses: {response.status_code} {response.reason}: {said}; "
            "check --api, and that --contact is an address that can be reached"
        )
    answer = response.json()
    if not isinstance(answer, dict):
        raise _Passing("an answer that is no JSON object")
    if (error := answer.get("error")) and str(error.get("code")).startswith(_PASSING):
        raise _Passing(_said(error))
    return answer


def _said(error: dict[str, Any]) -> str:
    return f"{error.get('code')}: {error.get('info')}"


def _why(error: requests.RequestException) -> str:
    """What went wrong, without the long address of the request."""
    inner = error.args[0] if error.args else error
    return f"{type(error).__name__}: {getattr(inner, 'reason', inner)}"[:200]


def _retry_after(response: requests.Response | None) -> float:
    """Seconds that a server asks for, by number or by date; 0 if it does not."""
    header = None if response is None else response.headers.get("Retry-After")
    try:
        return Retry().parse_retry_after(header) if header else 0.0
    except InvalidHeader:
        return 0.0


class _Memory:
    """An SQLite file that one process at a time may hold; what was written to it stays, whatever kills the process."""

    def __init__(self, file: Path):
        self._file = file
        try:
            self._connection = sqlite3.connect(file, timeout=0.5, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise UserError(f"cannot open {str(file)!r} ({error}); name another --cache") from None
        try:
            self.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=NORMAL")
            self.execute("CREATE TABLE IF NOT EXISTS answers (question TEXT PRIMARY KEY, answer TEXT)")
        except UserError:
            self.close()
            raise

    def execute(self, statement: str, *values: str) -> list[tuple]:
        """The rows that a statement gives; UserError if the file is held, damaged, no database or on a full disk."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                text = f"another process is using {str(self._file)!r}; wait for it, or name another --cache"
            else:
                text = f"cannot use {str(self._file)!r} as a cache ({error}); make room, or name another --cache"
            raise UserError(text) from None

    def close(self) -> None:
        self._connection.close()
