"""A wiki on this machine that answers as MediaWiki's api.php does (formatversion=2), and fails as it does.

Shapes as in https://www.mediawiki.org/wiki/API:Search, API:Continue, Extension:TextExtracts, Manual:Maxlag_parameter.
"""

import contextlib
import dataclasses
import json
import re
import threading
import time
import unicodedata
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit


@dataclasses.dataclass
class Page:
    """Of the wiki; a missing one is still in the search index, as happens for a while after a deletion."""

    title: str
    extract: str = ""
    disambiguation: bool = False
    missing: bool = False
    redirect_to: str = ""


@dataclasses.dataclass
class Request:
    question: dict[str, str]
    headers: dict[str, str]
    begin: float
    end: float = float("inf")


class WikiServer:
    """`api` is its URL; `requests` what came; `faults` maps the number of a request to what it gets instead of an
    answer; `hold` names one that gets none until `release` is set, and `held` says when it has come."""

    def __init__(self, pages: list[Page], *, extracts: int = 20):
        self.pages = {page.title: page for page in pages}
        self.extracts = extracts  # that fit into one answer
        self.faults: dict[int, str] = {}
        self.always = ""
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.hold, self.held, self.release = -1, threading.Event(), threading.Event()
        self._lock, self._now = threading.Lock(), 0

    def __enter__(self) -> "WikiServer":
        wiki = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each body waits 40 ms for its headers' receipt

            def do_GET(self):
                wiki.serve(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.api = f"http://127.0.0.1:{self._server.server_port}/w/api.php"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def questions(self) -> list[str]:
        return [json.dumps(each.question, sort_keys=True) for each in self.requests]

    def pauses(self) -> list[float]:
        """Seconds from the end of each answer to the next request."""
        return [b.begin - a.end for a, b in zip(self.requests, self.requests[1:], strict=False)]

    def serve(self, http: BaseHTTPRequestHandler) -> None:
        question = {name: values[0] for name, values in parse_qs(urlsplit(http.path).query).items()}
        request = Request(question, dict(http.headers), time.monotonic())
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            if number == self.hold:
                self.held.set()
                self.release.wait(30)
            data = self._head(http, question, self.faults.get(number, self.always))
        except OSError:  # The client has gone.
            http.close_connection, data = True, b""
        with self._lock:
            request.end = time.monotonic()  # Before the client can know.
            self._now -= 1
        with contextlib.suppress(OSError):
            http.wfile.write(data)

    def _head(self, http: BaseHTTPRequestHandler, question: dict[str, str], fault: str) -> bytes:
        """Sends all but the body, which it returns."""
        kind, _, wish = fault.partition(" ")
        headers = {}
        if wish:
            headers["Retry-After"] = formatdate(time.time() + float(wish[1:]), usegmt=True) if wish[0] == "+" else wish
        status, body = 200, json.dumps(self.query(question), ensure_ascii=False)
        if kind.isdigit():
            status, body = int(kind), "<!DOCTYPE html><title>Wikimedia Error</title>"
        elif kind == "maxlag":
            headers["X-Database-Lag"] = "6"
            info = {"info": "Waiting for 10.64.48.35: 6.2 seconds lagged.", "host": "10.64.48.35", "lag": 6.2}
            body = json.dumps({"error": {"code": "maxlag", **info, "type": "db", "docref": "…"}, "servedby": "mw1"})
        elif kind in ("ratelimited", "cirrussearch-too-busy-error", "internal_api_error_DBQueryError", "badvalue"):
            body = json.dumps({"error": {"code": kind, "info": "Sorry.", "docref": "…"}, "servedby": "mw1"})
        elif kind == "garbage":
            body = body[:-9]
        elif kind == "list":
            body = "[]"
        elif kind == "slow":
            time.sleep(0.6)
        elif kind == "drop":
            http.close_connection = True
            return b""
        data = body.encode()
        http.send_response(status)
        for name, value in headers.items():
            http.send_header(name, value)
        http.send_header("Content-Type", "application/json; charset=utf-8")
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        if kind == "cut":
            data, http.close_connection = data[: len(data) // 2], True
        return data

    def query(self, question: dict[str, str]) -> dict:
        """What api.php says to action=query with generator=search."""
        assert question["action"] == "query"
        assert question["formatversion"] == "2"
        assert question["generator"] == "search"
        if not question.get("gsrsearch"):
            info = 'The "gsrsearch" parameter must be set.'
            return {"error": {"code": "missingparam", "info": info, "docref": "…"}, "servedby": "mw1"}
        wanted = set(_words(question["gsrsearch"]))
        hits = [page for page in self.pages.values() if wanted <= set(_words(self._text(page)))]
        hits.sort(key=lambda page: -len(wanted & set(_words(page.title))))
        limit, offset = int(question["gsrlimit"]), int(question.get("gsroffset", 0))
        batch = hits[offset : offset + limit]
        if not batch:
            return {"batchcomplete": True}
        redirects, pages = [], []
        skip = int(question.get("excontinue", 0))
        targets = {self._target(page).title: index for index, page in reversed(list(enumerate(batch, 1)))}
        for index, page in enumerate(batch, 1):
            if page.redirect_to:
                redirects.append({"index": index, "from": page.title, "to": page.redirect_to})
        for number, (title, index) in enumerate(sorted(targets.items(), key=lambda item: item[1])):
            page = self.pages[title]
            url = f"https://en.wikipedia.org/wiki/{quote(title.replace(' ', '_'))}"
            made = {"ns": 0, "title": title, "index": index, "fullurl": url, "canonicalurl": url}
            if page.missing:
                made |= {"missing": True}
            else:
                made |= {"pageid": 1000 + list(self.pages).index(title), "contentmodel": "wikitext"}
                made |= {"pagelanguage": "en", "touched": "2025-01-01T00:00:00Z", "length": 9000}
                made |= {"lastrevid": 5000 + list(self.pages).index(title)}
                if page.disambiguation:
                    made["pageprops"] = {"disambiguation": ""}
                if skip <= number < skip + self.extracts:
                    made["extract"] = page.extract
            pages.append(made)
        answer: dict = {"query": ({"redirects": redirects} if redirects else {}) | {"pages": pages}}
        if skip + self.extracts < len(targets):
            more = skip + self.extracts
            return {"continue": {"excontinue": more, "continue": "||info|pageprops"}} | answer
        if offset + limit < len(hits):
            answer = {"continue": {"gsroffset": offset + limit, "continue": "gsroffset||"}} | answer
        return {"batchcomplete": True} | answer

    def _target(self, page: Page) -> Page:
        return self.pages[page.redirect_to] if page.redirect_to else page

    def _text(self, page: Page) -> str:
        return f"{page.title} {self._target(page).title} {self._target(page).extract}"


def _words(text: str) -> list[str]:
    """As CirrusSearch folds them: all that are searched for have to be there."""
    return re.findall(r"\w+", unicodedata.normalize("NFKD", text.lower()).replace("\u0301", ""))
