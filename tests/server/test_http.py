"""The HTTP layer over real sockets: well-meant requests of every age, and the others."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import Any

import pytest

from certloom.settings.schema import Limits
from tests.server.listening import echo, listening, run

GET = b"GET /a%20b?q=1 HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_request_is_answered_in_one_piece_with_length_date_and_request_id() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            status, headers, body = await server.ask(GET)
            assert (status, body) == (200, b"GET /a b?q=1 ")
            assert headers["content-length"] == str(len(body))
            assert headers["date"].endswith(" GMT")
            assert re.fullmatch("[0-9a-f]{12}", headers["x-request-id"])
            assert "server" not in headers
            assert "connection" not in headers

    run(main())


def test_scope_tells_the_request_its_base_url_and_its_request_id() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope))
        await echo(scope, receive, send)

    async def main() -> None:
        async with listening(app) as server:
            _, headers, _ = await server.ask(
                b"GET http://pki.test/acme?x HTTP/1.1\r\nHost: x\r\nX-Y: 1\r\n\r\n"
            )
            scope = seen[0]
            assert scope["certloom.base_url"] == "https://pki.test"
            assert scope["certloom.trace"] == headers["x-request-id"]
            assert scope["path"] == "/acme"
            assert scope["headers"] == [(b"host", b"x"), (b"x-y", b"1")]
            assert scope["client"][0] == "127.0.0.1"

    run(main())


def test_every_connection_may_be_used_again_and_again() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            client = await server.connect()
            for i in range(5):
                await client.send(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody" % i)
                assert (await client.answer())[2] == b"POST /%d? body" % i

    run(main())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def slow_first(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05 if scope["path"] == "/0" else 0)
        await echo(scope, receive, send)

    async def main() -> None:
        async with listening(slow_first) as server:
            client = await server.connect()
            await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(8)))
            for i in range(8):
                assert (await client.answer())[2] == b"GET /%d? " % i
            await client.send(GET)
            assert (await client.answer())[0] == 200

    run(main())


def test_a_flood_of_pipelined_requests_is_cut_off_after_the_first_few() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        await echo(scope, receive, send)

    async def main() -> None:
        async with listening(slow) as server:
            client = await server.connect()
            await client.send(GET * 1000)
            answers = await client.closed()
            assert answers.count(b"HTTP/1.1 ") == answers.count(b"HTTP/1.1 200 OK") == 17

    run(main())


def test_http_10_is_kept_alive_when_asked_and_closed_when_not() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            client = await server.connect()
            for _ in range(2):
                await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                status, headers, _ = await client.answer()
                assert (status, headers["connection"]) == (200, "keep-alive")
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            _, headers, _ = await client.answer()
            assert headers["connection"] == "close"
            assert await client.closed() == b""

    run(main())


def test_answers_to_http_10_are_never_chunked_even_when_the_app_gives_no_length() -> None:
    async def pieces(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": piece, "more_body": piece != b"three"})

    async def main() -> None:
        async with listening(pieces) as server:
            for version in (b"1.0", b"1.1"):
                _, headers, body = await server.ask(b"GET / HTTP/%s\r\nHost: x\r\n\r\n" % version)
                assert (headers["content-length"], body) == ("13", b"one two three")

    run(main())


def test_an_answer_of_known_length_leaves_as_it_comes() -> None:
    gate = asyncio.Event()

    async def pieces(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async def main() -> None:
        async with listening(pieces) as server:
            client = await server.connect()
            await client.send(GET)
            assert (await client.reader.readuntil(b"one")).endswith(b"one")
            gate.set()
            assert await client.reader.readexactly(3) == b"two"

    run(main())


def test_head_and_204_have_no_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204 if scope["path"] == "/no" else 200})
        await send({"type": "http.response.body", "body": b"" if scope["path"] == "/no" else b"12345"})

    async def main() -> None:
        async with listening(app) as server:
            client = await server.connect()
            await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            _, headers, _ = await client.answer(head=True)
            assert headers["content-length"] == "5"
            await client.send(b"GET /no HTTP/1.1\r\nHost: x\r\n\r\n")
            status, headers, _ = await client.answer()
            assert status == 204
            assert "content-length" not in headers

    run(main())


def test_a_chunked_request_is_put_together_and_its_trailers_dropped() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            data = (
                b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n2\r\nde\r\n0\r\nHost: y\r\n\r\n"
            )
            assert (await server.ask(data))[2] == b"POST /? abcde"

    run(main())


def test_bytes_may_come_one_by_one() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            client = await server.connect()
            for byte in b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab":
                await client.send(bytes([byte]))
                await asyncio.sleep(0.001)
            assert (await client.answer())[2] == b"POST /x? ab"

    run(main())


def test_100_continue_is_sent_to_who_waits_for_it() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            client = await server.connect()
            await client.send(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await client.answer())[0] == 100
            await client.send(b"ok")
            assert (await client.answer())[2] == b"POST /? ok"

    run(main())


def test_a_request_without_host_is_refused_unless_the_listener_is_for_old_clients() -> None:
    async def main() -> None:
        async with listening(echo) as strict, listening(echo, require_host=False) as old:
            bare = b"GET / HTTP/1.1\r\n\r\n"
            assert (await strict.ask(bare))[0] == 400
            assert (await old.ask(bare))[0] == 200
            assert (await strict.ask(b"GET / HTTP/1.0\r\n\r\n"))[0] == 200
            assert (await old.ask(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"))[0] == 400

    run(main())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"NONSENSE / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /#f HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\nContent-Length: 1\r\n\r\n", 417),
    ],
)
def test_a_malformed_or_ambiguous_request_is_refused_and_the_connection_closed(
    data: bytes, status: int
) -> None:
    async def main() -> None:
        asked: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope["path"])
            await echo(scope, receive, send)

        async with listening(app) as server:
            client = await server.connect()
            await client.send(data)
            got, headers, _ = await client.answer()
            assert (got, headers["connection"]) == (status, "close")
            await client.send(GET)
            assert await client.closed() == b""
            assert asked == []

    run(main())


def test_too_many_header_bytes_are_431_finished_or_not() -> None:
    async def main() -> None:
        async with listening(echo, limits=Limits(header_bytes=2000)) as server:
            for data in (
                b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3000 + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3000,
                b"GET /" + b"y" * 3000,
                b"GET / HTTP/1.1\r\n" + b"y" * 3000,
            ):
                client = await server.connect()
                await client.send(data)
                assert (await client.answer())[0] == 431
                assert await client.closed() == b""
            assert (await server.ask(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1900 + b"\r\n\r\n"))[
                0
            ] == 200

    run(main())


def test_an_endless_header_does_not_fill_memory() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            client = await server.connect()
            await client.send(GET + b"GET / HTTP/1.1\r\nX: ")
            sent = 0
            while sent < 64 * 1024 * 1024 and not client.reader.at_eof():
                await client.send(b"y" * 65536)
                sent += 65536
                if client.writer.transport.is_closing():
                    break
            assert sent < 32 * 1024 * 1024
            await client.closed()

    run(main())


def test_too_many_headers_or_trailers_are_431() -> None:
    async def main() -> None:
        async with listening(echo, limits=Limits(header_count=5)) as server:
            assert (await server.ask(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4 + b"\r\n"))[0] == 200
            assert (await server.ask(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5 + b"\r\n"))[0] == 431
            chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
            assert (await server.ask(chunked + b"A: b\r\n" * 6 + b"\r\n"))[0] == 431

    run(main())


def test_a_body_over_the_limit_is_413_whether_announced_or_chunked() -> None:
    async def main() -> None:
        async with listening(echo, limits=Limits(body_bytes=1000)) as server:
            post = b"POST / HTTP/1.1\r\nHost: x\r\n"
            assert (await server.ask(post + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000))[0] == 200
            assert (await server.ask(post + b"Content-Length: 1001\r\n\r\n"))[0] == 413
            chunked = post + b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n"
            assert (await server.ask(chunked + (b"1f4\r\n" + b"x" * 500 + b"\r\n") * 2))[0] == 413

    run(main())


def test_a_client_that_sends_a_large_body_without_listening_still_reads_the_413() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            client = await server.connect()
            await client.send(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000
            )
            assert (await client.answer())[0] == 413

    run(main())


def test_headers_that_do_not_end_in_time_are_408() -> None:
    async def main() -> None:
        async with listening(echo, limits=Limits(header_seconds=1)) as server:
            slow = await server.connect()
            await slow.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            assert (await slow.answer())[0] == 408
            assert await slow.closed() == b""
            silent = await server.connect()
            assert await silent.closed() == b""

    run(main())


def test_a_body_that_does_not_end_in_time_is_408() -> None:
    async def main() -> None:
        async with listening(echo, limits=Limits(body_seconds=1)) as server:
            client = await server.connect()
            await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            assert (await client.answer())[0] == 408

    run(main())


def test_an_idle_connection_is_closed_and_a_slow_application_is_not_cut_off() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2.2)
        await echo(scope, receive, send)

    async def main() -> None:
        limits = Limits(idle_seconds=1, header_seconds=1, body_seconds=1)
        async with listening(slow, limits=limits) as server:
            client = await server.connect()
            await client.send(GET)
            assert (await client.answer())[0] == 200
            assert await client.closed(3) == b""

    run(main())


def test_connections_over_the_limit_are_told_to_come_back() -> None:
    async def main() -> None:
        async with listening(echo, connections=2) as server:
            held = [await server.connect() for _ in range(2)]
            for client in held:
                await client.send(GET)
                await client.answer()
            status, headers, _ = await server.ask(b"")
            assert (status, headers["retry-after"]) == (503, "1")
            held[0].writer.close()
            await asyncio.sleep(0.05)
            assert (await server.ask(GET))[0] == 200

    run(main())


def test_an_upgrade_is_ignored_and_the_request_answered() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            for upgrade in (b"h2c", b"websocket"):
                client = await server.connect()
                await client.send(
                    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n" % upgrade
                )
                status, headers, _ = await client.answer()
                assert (status, headers["connection"]) == (200, "close")

    run(main())


def test_a_stray_crlf_after_the_last_request_does_no_harm() -> None:
    async def main() -> None:
        async with listening(echo) as server:
            status, _, _ = await server.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n\r\n")
            assert status == 200

    run(main())


def test_a_client_that_has_shut_its_side_still_gets_its_answer() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await echo(scope, receive, send)

    async def main() -> None:
        async with listening(slow) as server:
            client = await server.connect()
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            client.writer.write_eof()
            assert (await client.answer())[0] == 200

    run(main())


def test_an_application_that_fails_gives_500_without_telling_why() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/silent":
                return
            if scope["path"] == "/split":
                headers = [(b"location", b"/x\r\nSet-Cookie: a=b")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
            raise ValueError("a secret")

        async with listening(app) as server:
            for path in (b"/raise", b"/silent", b"/split"):
                status, headers, body = await server.ask(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                assert status == 500
                assert b"secret" not in body
                assert "set-cookie" not in headers
                assert headers["x-request-id"]

    run(main())


def test_stopping_closes_idle_connections_at_once_and_lets_requests_in_flight_finish() -> None:
    started = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        if scope["path"] == "/slow":
            await asyncio.sleep(0.3)
        await echo(scope, receive, send)

    async def main() -> None:
        async with listening(slow) as server:
            idle = await server.connect()
            await idle.send(GET)
            await idle.answer()
            started.clear()
            busy = await server.connect()
            await busy.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            await started.wait()
            stop = asyncio.create_task(server.connections.stop(5))
            assert await idle.closed(0.2) == b""
            status, headers, _ = await busy.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await asyncio.wait_for(stop, 1) == 0

    run(main())


def test_stopping_cuts_off_what_does_not_finish_in_time() -> None:
    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with listening(stuck) as server:
            client = await server.connect()
            await client.send(GET)
            await asyncio.sleep(0.05)
            assert await server.connections.stop(0.2) == 1
            assert await client.closed() == b""

    run(main())


def test_receive_tells_an_application_that_its_client_has_gone() -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    async def main() -> None:
        async with listening(app) as server:
            client = await server.connect()
            await client.send(GET)
            await asyncio.sleep(0.05)
            # Linger 0: a reset, since a plain end of input might be a client that still listens.
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await asyncio.wait_for(told.wait(), 2)

    run(main())


def _endless(gate: asyncio.Event) -> Any:
    async def pieces(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"transfer-encoding", b"chunked")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"one\n", "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"two\n", "more_body": True})
        if scope["path"] == "/broken":
            raise RuntimeError("the source dried up")
        await send({"type": "http.response.body", "body": b""})

    return pieces


def test_an_answer_of_unknown_length_leaves_in_chunks_and_the_connection_stays() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with listening(_endless(gate)) as server:
            client = await server.connect()
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"4\r\none\n\r\n" in await asyncio.wait_for(client.reader.readuntil(b"one\n\r\n"), 10)
            gate.set()
            assert await client.reader.readuntil(b"0\r\n\r\n") == b"4\r\ntwo\n\r\n0\r\n\r\n"
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            _, headers, body = await client.answer()
            assert (headers.get("transfer-encoding"), body) == ("chunked", b"one\ntwo\n")
            assert "content-length" not in headers

    run(main())


def test_an_answer_of_unknown_length_to_http_10_ends_with_the_connection() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        gate.set()
        async with listening(_endless(gate)) as server:
            client = await server.connect()
            await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            head, _, body = (await client.closed()).partition(b"\r\n\r\n")
            assert body == b"one\ntwo\n"
            assert b"Connection: close" in head
            assert b"Transfer-Encoding" not in head

    run(main())


def test_an_answer_in_chunks_that_breaks_off_has_no_end() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        gate.set()
        async with listening(_endless(gate)) as server:
            client = await server.connect()
            await client.send(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not (await client.closed()).endswith(b"0\r\n\r\n")

    run(main())
