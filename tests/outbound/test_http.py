from __future__ import annotations

import asyncio
import socket
import time

import pytest

from certloom.outbound.guard import AddressGuard
from certloom.outbound.http import HTTPAnswer, HTTPClient, HTTPFailed
from certloom.outbound.resolver import Resolver
from tests.dns_server import DNSServer, serve_dns
from tests.outbound.conftest import Run
from tests.outbound.tcp_server import answering, http_response, read_request, serve_tcp

LOOPBACK = AddressGuard(allow=["127.0.0.0/8"])


async def get(
    url: str,
    dns: DNSServer,
    guard: AddressGuard = LOOPBACK,
    *,
    seconds: float = 5.0,
    body_limit: int = 10_000,
) -> HTTPAnswer:
    client = HTTPClient(Resolver([dns.address]), guard)
    try:
        return await client.request("GET", url, seconds=seconds, body_limit=body_limit)
    finally:
        await client.close()


def test_a_request_brings_status_headers_and_body(run: Run) -> None:
    with (
        serve_dns({("hook.example", "A"): ["127.0.0.1"]}) as dns,
        serve_tcp(answering(http_response(b"body", "418 Teapot", "X-One: 1"))) as server,
    ):
        answer = run(get(f"http://hook.example:{server.port}/", dns))
        assert (answer.status, answer.headers["x-one"], answer.body) == (418, "1", b"body")


def test_a_body_is_sent_and_cookies_are_not_kept(run: Run) -> None:
    heads = []

    def handle(connection: socket.socket) -> None:
        heads.append(read_request(connection))
        connection.sendall(http_response(b"", "200 OK", "Set-Cookie: a=b"))

    async def twice(url: str, dns: DNSServer) -> None:
        client = HTTPClient(Resolver([dns.address]), LOOPBACK)
        for _ in range(2):
            await client.request("POST", url, body=b"{}", headers={"Content-Type": "application/json"})
        await client.close()

    with serve_dns({("hook.example", "A"): ["127.0.0.1"]}) as dns, serve_tcp(handle) as server:
        run(twice(f"http://hook.example:{server.port}/in", dns))
    assert len(heads) == 2
    assert "Content-Length: 2" in heads[1]
    assert "ookie" not in heads[1]


def test_redirects_are_not_followed_and_bodies_not_unpacked(run: Run) -> None:
    redirect = http_response(
        b"\x1f\x8bxx", "302 Found", "Location: http://127.0.0.1:1/", "Content-Encoding: gzip"
    )
    with serve_dns({("hook.example", "A"): ["127.0.0.1"]}) as dns, serve_tcp(answering(redirect)) as server:
        answer = run(get(f"http://hook.example:{server.port}/", dns))
        assert (answer.status, answer.body) == (302, b"\x1f\x8bxx")


@pytest.mark.parametrize("host", ["hook.example", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_denied_addresses_are_not_contacted_by_name_or_literal(run: Run, host: str) -> None:
    with serve_dns({("hook.example", "A"): ["127.0.0.1"]}) as dns, serve_tcp(answering(b"")) as server:
        with pytest.raises(HTTPFailed, match="not contacted"):
            run(get(f"http://{host}:{server.port}/", dns, AddressGuard()))
        assert server.connections == 0


def test_size_and_time_are_bounded(run: Run) -> None:
    def slow(connection: socket.socket) -> None:
        read_request(connection)
        time.sleep(3)

    with serve_dns({("hook.example", "A"): ["127.0.0.1"]}) as dns:
        with (
            serve_tcp(answering(http_response(b"x" * 5000))) as server,
            pytest.raises(HTTPFailed, match="longer"),
        ):
            run(get(f"http://hook.example:{server.port}/", dns, body_limit=4999))
        with serve_tcp(slow) as server, pytest.raises(HTTPFailed, match="no answer within"):
            run(get(f"http://hook.example:{server.port}/", dns, seconds=0.2))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "nonsense", "http://", "http://nothing.example/"])
def test_what_cannot_be_asked_fails_cleanly(run: Run, url: str) -> None:
    with serve_dns({}) as dns, pytest.raises(HTTPFailed):
        run(get(url, dns))


def test_a_client_can_be_closed_unused(run: Run) -> None:
    async def make() -> None:
        await HTTPClient(Resolver(["127.0.0.1"]), AddressGuard()).close()
        await asyncio.sleep(0)

    run(make())
