"""A client of the REST API: JSON in and out, pages followed, lost connections survived, problems raised.

What creates something carries an ``Idempotency-Key``, so that it can be sent again when nobody knows whether
it arrived. What edits something carries the ``ETag`` of what was looked at.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from certloom.cli.carriers import Carrier, Reply, Unreachable
from certloom.cli.terminal import fit

BASE = "/api/v1"
SILENCE_SECONDS = 60.0
LONG_SECONDS = 3600.0
"""For what the server may work on for long before it says a word."""
_AGAIN_SECONDS = (0.2, 1.0, 3.0)
_LONGEST_WAIT_SECONDS = 60
_TIMES_TO_WAIT = 3

JSON = "application/json"
JSON_LINES = "application/jsonl"
_STREAM = {"Accept": JSON_LINES}
_sleep = time.sleep


class Problem(Exception):
    """The server said no: an RFC 9457 problem document, or what could be made of its answer."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.document = document
        self.code = str(document.get("code", ""))
        super().__init__(_worded(status, document))


@dataclass(frozen=True)
class Answer:
    """A successful answer."""

    status: int
    headers: Mapping[str, str]
    value: Any
    """What the JSON says; None where there is no body."""

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "")

    @property
    def retry_after(self) -> int:
        """Seconds after which to ask again; 0 where the server does not say."""
        return _seconds(self.headers, 0)


class Client:
    """Asks the API. Every method raises ``Problem`` and ``Unreachable``."""

    def __init__(self, carrier: Carrier, credentials: Mapping[str, str] | None = None) -> None:
        self._carrier = carrier
        self._credentials = dict(credentials or {})

    def close(self) -> None:
        self._carrier.close()

    def get(self, path: str, **query: Any) -> Any:
        """What a resource is."""
        return self.answer("GET", path, query).value

    def answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = SILENCE_SECONDS,
    ) -> Answer:
        """One request with JSON, and the whole answer to it."""
        reply = self.reply(method, path, query, body, headers=headers, seconds=seconds)
        data = reply.read()
        return Answer(reply.status, reply.headers, _decoded(data) if data else None)

    def create(self, path: str, body: Any = None, *, seconds: float = SILENCE_SECONDS) -> Answer:
        """POST what makes something; the same key again gets the same answer, never a second thing."""
        import secrets

        key = {"Idempotency-Key": secrets.token_hex(16)}
        return self.answer("POST", path, None, {} if body is None else body, headers=key, seconds=seconds)

    def act(self, path: str, body: Any = None, *, seconds: float = SILENCE_SECONDS) -> Any:
        """POST what does something to a thing that is there."""
        return self.create(path, body, seconds=seconds).value

    def edit(self, path: str, change: Callable[[dict[str, Any]], Any], method: str = "PATCH") -> Any:
        """Send what ``change`` makes of what is there; refused if somebody else changed it meanwhile."""
        found = self.answer("GET", path)
        body = change(found.value)
        return self.answer(method, path, None, body, headers={"If-Match": found.etag or "*"}).value

    def put(self, path: str, body: Any) -> Answer:
        """Make a thing what ``body`` says, whether it is there or not."""
        return self.answer("PUT", path, None, body, headers=self._match(path))

    def delete(self, path: str) -> Any:
        """Take a thing away, as it is now."""
        return self.answer("DELETE", path, headers=self._match(path)).value

    def _match(self, path: str) -> dict[str, str]:
        try:
            etag = self.answer("GET", path).etag
        except Problem as problem:
            if problem.status != 404:
                raise
            return {"If-None-Match": "*"}
        return {"If-Match": etag} if etag else {}

    def rows(self, path: str, limit: int, **query: Any) -> Iterator[dict[str, Any]]:
        """The first ``limit`` rows of a listing, page after page."""
        query["limit"] = min(limit, 1000)
        left = limit
        while True:
            page = self.get(path, **query)
            yield from page["items"][:left]
            left -= len(page["items"])
            if left <= 0 or not page.get("next"):
                return
            query = {**query, "cursor": page["next"], "limit": min(left, 1000)}

    def lines(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Iterator[Any]:
        """The objects of a stream, as they come."""
        reply = self.reply(method, path, query, body, headers=_STREAM, seconds=LONG_SECONDS)
        for line in reply.lines():
            if line.strip():
                yield _decoded(line)

    def raw_lines(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """The lines of a stream as they are."""
        return self.reply("GET", path, query, headers=_STREAM, seconds=LONG_SECONDS).lines()

    def fetch(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        accept: str,
        method: str = "GET",
        body: Any = None,
    ) -> bytes:
        """A file."""
        headers = {"Accept": accept}
        return self.reply(method, path, query, body, headers=headers).read()

    def reply(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = SILENCE_SECONDS,
    ) -> Reply:
        """Send a request, again where that is safe; its answer if it is a good one."""
        sent = {"Accept": JSON, **self._credentials, **(headers or {})}
        data = b""
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", JSON)
        target = BASE + path + _query(query or {})
        for waited in range(_TIMES_TO_WAIT + 1):
            reply = self._send(method, target, sent, data, seconds)
            if reply.status < 300:
                return reply
            problem = Problem(reply.status, _document(reply))
            # Too fast, or what was sent before the connection was lost is still being worked on.
            passing = reply.status == 429 or problem.code == "in-progress"
            after = _seconds(reply.headers, 1)
            if not passing or waited == _TIMES_TO_WAIT or after > _LONGEST_WAIT_SECONDS:
                raise problem
            _sleep(max(1, after))
        raise AssertionError("not reached")

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], data: bytes, seconds: float
    ) -> Reply:
        safe = method == "GET" or "Idempotency-Key" in headers
        lost: Unreachable | None = None
        for pause in (*_AGAIN_SECONDS, None):
            try:
                return self._carrier.send(method, target, headers, data, seconds)
            except Unreachable as error:
                if lost is None and not error.sent:
                    raise
                if not safe:
                    raise Unreachable(
                        f"{error}; whether it did what was asked is not known", sent=True
                    ) from error
                lost = error
            if pause is not None:
                _sleep(pause)
        raise lost if lost is not None else AssertionError("not reached")


def at(*parts: str | int) -> str:
    """A path of these parts, whatever is in them."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _query(values: Mapping[str, Any]) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        for each in value if isinstance(value, list | tuple) else (value,):
            pairs.append((name, "true" if each is True else str(each)))
    return f"?{urlencode(pairs)}" if pairs else ""


def _seconds(headers: Mapping[str, str], otherwise: int) -> int:
    """What Retry-After says."""
    text = headers.get("retry-after", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else otherwise


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise Unreachable("what answered is no Certloom: its answer is not JSON", sent=True) from None


def _document(reply: Reply) -> Mapping[str, Any]:
    """The problem document of a refusal, bounded: it may come from anybody."""
    data = reply.read()[:1_000_000]
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"detail": data[:500].decode("utf-8", "replace")}


def _worded(status: int, document: Mapping[str, Any]) -> str:
    """A problem as people read it: what is wrong, each reason with its place, and where to look further."""
    title = str(document.get("title") or f"the server answered {status}")
    detail = str(document.get("detail") or title)
    listed = document.get("reasons")
    reasons = [reason for reason in listed if isinstance(reason, dict)] if isinstance(listed, list) else []
    lines = [_reason(reason) for reason in reasons]
    if reasons and "; ".join(_message(reason) for reason in reasons).startswith(detail):
        # The detail is the reasons' messages in a row: say each once, where its place is told.
        detail = title if len(reasons) > 1 else ""
    said = [fit(detail)] if detail else []
    said += [line for line in lines if line not in said]
    if status >= 500 and document.get("request_id"):
        if document.get("code") == "internal":
            # Its detail says that there is a log; here is also where in it.
            said[0] = fit(title)
        said.append(f"the server's log tells more, under request {fit(str(document['request_id']))}")
    return "\n  ".join(said)


def _reason(reason: Mapping[str, Any]) -> str:
    place = reason.get("path") or reason.get("at") or reason.get("rule") or ""
    identifier = reason.get("identifier")
    if not place and isinstance(identifier, dict):
        place = identifier.get("value", "")
    message = fit(_message(reason))
    return f"{fit(str(place))}: {message}" if place and str(place) not in message else message


def _message(reason: Mapping[str, Any]) -> str:
    return str(reason.get("message") or reason.get("detail") or reason.get("code") or reason)
