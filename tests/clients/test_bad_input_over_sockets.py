"""What the listeners do with clients that flood, stall, speak HTTP/1.0 or pipeline."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.clients.lab import Lab
from tests.clients.server import Certloom
from tests.clients.servers import Servers


@pytest.fixture
def server(servers: Servers) -> Certloom:
    return servers.certloom()


def _connect(server: Certloom) -> ssl.SSLSocket:
    target = urlsplit(server.target().directory)
    assert target.hostname
    plain = socket.create_connection((target.hostname, target.port or 443), timeout=20)
    return server.trust().wrap_socket(plain, server_hostname=target.hostname)


def _directory(server: Certloom) -> str:
    return urlsplit(server.target().directory).path


def _host(server: Certloom) -> str:
    return urlsplit(server.target().directory).netloc


def _read_answer(stream: ssl.SSLSocket, received: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """Head, body and what came after them, of one answer with a Content-Length."""
    while b"\r\n\r\n" not in received:
        more = stream.recv(65536)
        assert more, f"closed in the head: {received!r}"
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    assert length, head
    size = int(length[1])
    while len(rest) < size:
        more = stream.recv(65536)
        assert more, f"closed in the body: {head!r} {rest!r}"
        rest += more
    return head, rest[:size], rest[size:]


def _status(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])


def _flood(server: Certloom, request: bytes) -> int:
    """The status that an endless or huge request gets; everything is sent unless the server closes first."""
    with _connect(server) as stream:
        try:
            for at in range(0, len(request), 16384):
                stream.sendall(request[at : at + 16384])
        except OSError:
            pass  # it had enough; its answer may still be there
        head, _, _ = _read_answer(stream)
        return _status(head)


def test_a_flood_of_headers_is_431(server: Certloom) -> None:
    head = f"GET {_directory(server)} HTTP/1.1\r\nHost: {_host(server)}\r\n".encode()
    many = b"".join(b"X-%d: y\r\n" % number for number in range(5000))
    assert _flood(server, head + many + b"\r\n") == 431
    assert _flood(server, head + b"X-Long: " + b"y" * 1_000_000 + b"\r\n\r\n") == 431


def test_a_request_line_without_end_is_refused(server: Certloom) -> None:
    assert _flood(server, b"GET /" + b"a" * 1_000_000) in (414, 431)


def test_headers_that_never_end_are_408_in_time(servers: Servers, lab: Lab, tmp_path: Path) -> None:
    with servers.another(tmp_path, limits={"header_seconds": 1}) as server, _connect(server) as stream:
        begun = time.monotonic()
        stream.sendall(f"GET {_directory(server)} HTTP/1.1\r\nHost: {_host(server)}\r\nX-Slow".encode())
        # A byte now and then does not move the deadline.
        for _ in range(4):
            time.sleep(0.2)
            stream.sendall(b"w")
        head, _, _ = _read_answer(stream)
        assert _status(head) == 408
        assert time.monotonic() - begun < 4
        assert stream.recv(100) == b""


def test_a_body_over_the_limit_is_413_whether_announced_or_not(server: Certloom) -> None:
    head = (
        f"POST {_directory(server)} HTTP/1.1\r\nHost: {_host(server)}\r\n"
        "Content-Type: application/jose+json\r\n"
    ).encode()
    assert _flood(server, head + b"Content-Length: 100000000\r\n\r\n") == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert _flood(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 30) == 413


def test_what_is_not_http_is_400(server: Certloom) -> None:
    assert _flood(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 what\r\n\r\n") == 400


def test_two_ways_to_tell_a_bodys_length_are_refused(server: Certloom) -> None:
    request = (
        f"POST {_directory(server)} HTTP/1.1\r\nHost: {_host(server)}\r\n"
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert _flood(server, request.encode()) == 400


def test_http_1_0_is_kept_alive_when_asked_and_never_chunked(server: Certloom) -> None:
    request = f"GET {_directory(server)} HTTP/1.0\r\nHost: {_host(server)}\r\n"
    with _connect(server) as stream:
        for _ in range(3):
            stream.sendall(f"{request}Connection: keep-alive\r\n\r\n".encode())
            head, body, rest = _read_answer(stream)
            assert _status(head) == 200
            assert b"newNonce" in body
            assert rest == b""
            assert b"transfer-encoding" not in head.lower()
            assert re.search(rb"(?i)\r\nconnection: keep-alive", head)
        stream.sendall(f"{request}\r\n".encode())
        assert _status(_read_answer(stream)[0]) == 200
        assert stream.recv(100) == b"", "an HTTP/1.0 connection ends unless the client asks otherwise"


def test_pipelined_requests_are_answered_in_order(server: Certloom) -> None:
    host = _host(server)
    request = f"GET {_directory(server)} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    missing = f"GET /nothing/here HTTP/1.1\r\nHost: {host}\r\n\r\n"
    with _connect(server) as stream:
        stream.sendall((request + missing + request + missing + request).encode())
        rest = b""
        statuses = []
        for _ in range(5):
            head, _, rest = _read_answer(stream, rest)
            statuses.append(_status(head))
    assert statuses == [200, 404, 200, 404, 200]


def test_sigterm_lets_a_request_in_flight_finish(servers: Servers, lab: Lab, tmp_path: Path) -> None:
    with servers.another(tmp_path) as server, _connect(server) as stream:
        body = b"{}"
        head = (
            f"POST {_directory(server)} HTTP/1.1\r\nHost: {_host(server)}\r\n"
            f"Content-Type: application/jose+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        stream.sendall(head.encode() + body[:1])
        time.sleep(0.3)
        ended: list[int] = []
        stopping = threading.Thread(target=lambda: ended.append(server.stop()))
        stopping.start()
        time.sleep(0.5)
        assert not ended, "it ended with a request in flight"
        stream.sendall(body[1:])
        answer, _, _ = _read_answer(stream)
        assert 200 <= _status(answer) < 500
        stopping.join(30)
        assert ended == [0]
