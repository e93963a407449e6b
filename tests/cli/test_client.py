"""The API's client over real sockets: what is sent again, what is not, and what is made of answers."""

from __future__ import annotations

import json
import socket
import threading
from http.client import HTTPConnection
from typing import Any

import pytest

from certloom.cli import client as client_module
from certloom.cli.carriers import HTTPCarrier, Unreachable
from certloom.cli.client import Client, Problem, at


class Peer:
    """A server of scripted answers: None closes the connection instead. It notes what it was asked."""

    def __init__(self, *script: bytes | None) -> None:
        self._script = list(script)
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                headers: dict[str, str] = {}
                while (header := stream.readline().strip()) != b"":
                    name, _, value = header.decode().partition(": ")
                    headers[name.lower()] = value
                body = stream.read(int(headers.get("content-length", "0")))
                self.asked.append((line.decode().strip(), headers, body))
                answer = self._script.pop(0)
                if answer is None:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                connection.sendall(answer)
                if "/cut" in self.asked[-1][0]:
                    connection.shutdown(socket.SHUT_RDWR)
                    return

    def client(self) -> Client:
        return Client(HTTPCarrier("the server", lambda: HTTPConnection("127.0.0.1", self.port, timeout=5)))


def says(value: Any, status: int = 200, **headers: str) -> bytes:
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(client_module, "_sleep", slept.append)
    monkeypatch.setattr(client_module, "SILENCE_SECONDS", 5.0)
    return slept


def test_a_listing_is_followed_to_its_end_and_no_further_than_asked() -> None:
    pages = [
        says({"items": [{"id": 1}, {"id": 2}], "next": "a b"}),
        says({"items": [{"id": 3}], "next": None}),
    ]
    peer = Peer(*pages, *pages)
    assert [row["id"] for row in peer.client().rows("/things", 10, name="x")] == [1, 2, 3]
    assert peer.asked[0][0] == "GET /api/v1/things?name=x&limit=10 HTTP/1.1"
    assert peer.asked[1][0] == "GET /api/v1/things?name=x&limit=8&cursor=a+b HTTP/1.1"
    assert [row["id"] for row in peer.client().rows("/things", 1)] == [1]
    assert len(peer.asked) == 3


def test_what_creates_is_sent_again_under_the_same_key_when_the_connection_is_lost() -> None:
    peer = Peer(None, None, says({"id": "made"}, 201))
    assert peer.client().create("/things", {"a": 1}).value == {"id": "made"}
    keys = {headers["idempotency-key"] for _, headers, _ in peer.asked}
    assert len(peer.asked) == 3
    assert len(keys) == 1
    assert {body for _, _, body in peer.asked} == {b'{"a": 1}'}


def test_two_creations_have_keys_of_their_own() -> None:
    peer = Peer(says({}, 201), says({}, 201))
    client = peer.client()
    client.create("/things")
    client.create("/things")
    assert peer.asked[0][1]["idempotency-key"] != peer.asked[1][1]["idempotency-key"]


def test_an_edit_is_not_sent_again_and_says_that_its_fate_is_unknown() -> None:
    peer = Peer(says({"a": 1}, etag='"v1"'), None)
    with pytest.raises(Unreachable, match="not known"):
        peer.client().put("/things/x", {"a": 2})
    assert len(peer.asked) == 2
    assert peer.asked[1][1]["if-match"] == '"v1"'


def test_an_edit_of_what_is_not_there_makes_it_and_replaces_nothing() -> None:
    peer = Peer(says({"code": "not-found"}, 404), says({"a": 2}, 201))
    peer.client().put("/things/x", {"a": 2})
    assert peer.asked[1][1]["if-none-match"] == "*"


def test_what_is_too_fast_is_asked_again_when_the_server_says(pauses: list[float]) -> None:
    peer = Peer(says({"code": "too-many-requests"}, 429, Retry_After="7"), says({"a": 1}))
    assert peer.client().get("/things") == {"a": 1}
    assert pauses == [7]


def test_a_long_wait_is_left_to_the_caller(pauses: list[float]) -> None:
    peer = Peer(says({"code": "too-many-requests"}, 429, Retry_After="3600"))
    with pytest.raises(Problem):
        peer.client().get("/things")
    assert pauses == []


def test_a_creation_that_is_still_under_way_is_waited_for() -> None:
    peer = Peer(None, says({"code": "in-progress"}, 409), says({"id": "made"}, 201))
    assert peer.client().create("/things").value == {"id": "made"}


def test_a_problem_tells_all_reasons_with_their_places_and_nothing_raw() -> None:
    document = {
        "code": "invalid",
        "detail": "two things are wrong\x1b[2J",
        "reasons": [
            {"code": "a", "message": "no such profile", "path": "$.channels[0].profiles"},
            {
                "code": "b",
                "message": "not allowed",
                "identifier": {"type": "dns", "value": "x\u202ey"},
            },
        ],
    }
    with pytest.raises(Problem) as caught:
        Peer(says(document, 422)).client().get("/things")
    assert str(caught.value) == (
        "two things are wrong\\x1b[2J\n  $.channels[0].profiles: no such profile\n  x\\u202ey: not allowed"
    )


def shown(document: dict[str, Any], status: int) -> str:
    with pytest.raises(Problem) as caught:
        Peer(says(document, status)).client().get("/things")
    return str(caught.value)


def test_a_refusal_by_rules_says_each_message_once() -> None:
    reasons = [
        {"code": "rule", "message": "RSA is over", "rule": "strong-keys@1"},
        {"code": "name-not-allowed", "message": "x.example.org is not allowed"},
    ]
    title = "Policy refuses what is asked for"
    document = {"code": "refused", "title": title, "detail": "RSA is over", "reasons": reasons[:1]}
    assert shown(document, 422) == "strong-keys@1: RSA is over"
    document |= {"detail": "RSA is over; x.example.org is not allowed", "reasons": reasons}
    assert shown(document, 422) == (f"{title}\n  strong-keys@1: RSA is over\n  x.example.org is not allowed")


def test_a_failure_of_the_server_tells_once_where_its_log_is() -> None:
    document = {
        "code": "internal",
        "title": "The server failed",
        "detail": "the server failed; its log tells why, under this request_id",
        "request_id": "abc",
    }
    assert shown(document, 500) == "The server failed\n  the server's log tells more, under request abc"


def test_an_answer_that_is_no_problem_document_is_shown_in_part() -> None:
    broken = b"HTTP/1.1 502 Bad\r\nContent-Length: 9\r\n\r\n<html>\x1b[2"
    with pytest.raises(Problem, match=r"<html>\\x1b\[2"):
        Peer(broken).client().get("/things")


def test_an_answer_that_is_no_json_is_not_taken_for_one() -> None:
    with pytest.raises(Unreachable, match="no Certloom"):
        Peer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").client().get("/things")


def test_a_stream_gives_its_lines_as_they_come_and_notices_when_it_is_cut() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b'9\r\n{"a":1}\n{\r\n6\r\n"a":2}\r\n1\r\n\n\r\n0\r\n\r\n'
    assert list(Peer(whole).client().lines("GET", "/things")) == [{"a": 1}, {"a": 2}]

    cut = head + b'9\r\n{"a":1}\n{\r\n'
    lines = Peer(cut).client().lines("GET", "/cut")
    assert next(lines) == {"a": 1}
    with pytest.raises(Unreachable, match="broke off"):
        next(lines)


def test_nobody_there_is_said_at_once(pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    carrier = HTTPCarrier("the server", lambda: HTTPConnection("127.0.0.1", port))
    with pytest.raises(Unreachable, match="cannot reach the server: Connection refused"):
        Client(carrier).get("/things")
    assert pauses == []


def test_a_path_holds_whatever_its_parts_are() -> None:
    assert at("profiles", "a/b?c#d") == "/profiles/a%2Fb%3Fc%23d"
