"""Whatever bytes come, in whatever pieces: nothing but an HTTP answer leaves, and no exception escapes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from certloom.clock import SystemClock
from certloom.server.connections import Connections, Listener
from certloom.server.http import HTTPProtocol
from certloom.settings.schema import Limits
from tests.server.listening import echo

LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /x?y HTTP/1.0\r\n",
        b"GET http://h/p HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        b"X: \xff\x00\r\n",
        b"\r\n",
        b"abc",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\n",
        b" ",
    ]
)
STREAMS = st.lists(st.one_of(LINES, st.binary(max_size=20)), max_size=25)


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.sent += bytes(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else None

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def talk(pieces: list[bytes]) -> bytes:
    connections = Connections(SystemClock(), 10)
    listener = Listener(
        name="test",
        app=echo,
        base_url="https://x",
        limits=Limits(header_bytes=200, header_count=8, body_bytes=100),
        connections=connections,
    )
    protocol, wire = HTTPProtocol(listener, asyncio.get_running_loop()), Wire()
    protocol.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        if piece:
            protocol.get_buffer(-1)[: len(piece)] = piece
            protocol.buffer_updated(len(piece))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    for _ in range(40):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    assert connections.in_flight == 0
    assert connections.open == set()
    return wire.sent


@settings(max_examples=400, deadline=None)
@given(STREAMS)
def test_only_http_answers_leave_whatever_comes(pieces: list[bytes]) -> None:
    sent = asyncio.run(talk(pieces))
    while sent:
        head, found, sent = sent.partition(b"\r\n\r\n")
        assert found
        assert head.startswith(b"HTTP/1.1 ")
        if head.startswith(b"HTTP/1.1 100"):
            continue
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        assert len(sent) >= length
        sent = sent[length:]


@settings(max_examples=200, deadline=None)
@given(STREAMS)
def test_how_bytes_are_cut_into_reads_makes_no_difference_to_the_answers(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    statuses = [
        [line[9:12] for line in asyncio.run(talk(way)).split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        for way in ([whole], [whole[i : i + 1] for i in range(len(whole))])
    ]
    at_once, one_by_one = (cast(list[bytes], [s for s in each if s != b"100"]) for each in statuses)
    assert at_once == one_by_one
