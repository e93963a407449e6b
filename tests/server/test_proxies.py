"""Whose word on a client's certificate and address counts, and whose does not."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki.pem import to_pem
from certloom.server.proxies import HeaderError, TrustedProxies, read_certificate, read_chain
from certloom.settings.schema import Proxy
from tests.conftest import run

PROXY, STRANGER = "192.0.2.1", "198.51.100.9"
DER = b"\x30\x03\x02\x01\x05"
SEQUENCE = b":" + base64.b64encode(DER) + b":"


def through(
    *headers: tuple[bytes, bytes], peer: str = PROXY, settings: Proxy | None = None, **scope: Any
) -> tuple[int, dict[str, Any]]:
    """The status of the answer, and the scope as the application saw it."""
    seen: dict[str, Any] = {}
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    whole = {"headers": [*headers, (b"host", b"x")], "client": (peer, 4711), **scope}
    made = TrustedProxies(app, settings or Proxy(trusted=("192.0.2.0/28", "2001:db8::1")))
    run(made(whole, receive, send))
    return sent[0]["status"], seen


def test_a_trusted_proxy_says_who_the_client_is() -> None:
    chain = (b"client-cert-chain", SEQUENCE + b", " + SEQUENCE)
    status, seen = through((b"client-cert", SEQUENCE), chain, (b"x-forwarded-for", b"203.0.113.5"))
    assert status == 204
    assert seen["certloom.peer_certificate"] == DER
    assert seen["certloom.peer_chain"] == (DER, DER)
    assert seen["client"][0] == "203.0.113.5"
    assert seen["headers"] == [(b"x-forwarded-for", b"203.0.113.5"), (b"host", b"x")]


@pytest.mark.parametrize(
    "peer", [STRANGER, "192.0.2.200", "2001:db8::2", "::ffff:198.51.100.9", "not an address"]
)
def test_nobody_else_is_believed(peer: str) -> None:
    headers = (
        (b"client-cert", SEQUENCE),
        (b"client-cert-chain", SEQUENCE),
        (b"x-forwarded-for", b"203.0.113.5"),
    )
    status, seen = through(*headers, peer=peer)
    assert status == 204
    assert "certloom.peer_certificate" not in seen
    assert seen["client"][0] == peer
    assert [name for name, _ in seen["headers"]] == [b"x-forwarded-for", b"host"]


def test_somebody_elses_own_certificate_is_their_own() -> None:
    mine: dict[str, Any] = {"certloom.peer_certificate": b"mine", "certloom.tls_unique": b"session"}
    _, seen = through((b"client-cert", SEQUENCE), peer=STRANGER, **mine)
    assert seen["certloom.peer_certificate"] == b"mine"
    assert seen["certloom.tls_unique"] == b"session"


def test_the_proxys_own_certificate_is_nobodys() -> None:
    own: dict[str, Any] = {
        "certloom.peer_certificate": b"the proxy's",
        "certloom.peer_chain": (b"x",),
        "certloom.tls_unique": b"the proxy's session",
    }
    _, seen = through(**own)
    assert not seen.keys() & own.keys()
    _, seen = through((b"client-cert", b""), **own)
    assert not seen.keys() & own.keys()


def test_addresses_over_ipv6_are_the_same_addresses() -> None:
    _, seen = through((b"client-cert", SEQUENCE), peer="::ffff:192.0.2.1")
    assert seen["certloom.peer_certificate"] == DER
    _, seen = through((b"client-cert", SEQUENCE), peer="2001:db8::1")
    assert seen["certloom.peer_certificate"] == DER


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"203.0.113.5", "203.0.113.5"),
        (b"10.9.9.9, 203.0.113.5", "203.0.113.5"),
        (b"203.0.113.5, 192.0.2.2", "203.0.113.5"),
        (b"192.0.2.2", PROXY),
        (b"[2001:db8::7]", "2001:db8::7"),
        (b"203.0.113.5, unknown", PROXY),
        (b"\xff", PROXY),
        (b"", PROXY),
    ],
)
def test_the_last_address_that_is_no_proxys_is_the_clients(forwarded: bytes, client: str) -> None:
    _, seen = through((b"x-forwarded-for", forwarded))
    assert seen["client"][0] == client


def test_a_header_that_cannot_be_read_is_refused_and_not_passed_over() -> None:
    for value in (b"x", b":!!!:", b"::", b":" + b"A" * 5 + b":", b"-----BEGIN CERTIFICATE-----", b"%2D%2D"):
        status, seen = through((b"client-cert", value))
        assert status == 400, value
        assert not seen
    status, _ = through((b"client-cert", SEQUENCE), (b"client-cert", SEQUENCE))
    assert status == 400
    status, _ = through((b"client-cert", SEQUENCE), (b"client-cert-chain", b", ".join([SEQUENCE] * 9)))
    assert status == 400


def test_another_header_can_be_agreed_on() -> None:
    settings = Proxy(trusted=(PROXY,), certificate_header="X-SSL-Client-Cert")
    _, seen = through((b"x-ssl-client-cert", base64.b64encode(DER)), settings=settings)
    assert seen["certloom.peer_certificate"] == DER
    _, seen = through((b"client-cert", SEQUENCE), settings=settings)
    assert "certloom.peer_certificate" not in seen


@given(st.binary(min_size=1, max_size=300))
def test_every_form_is_the_same_certificate(der: bytes) -> None:
    pem = to_pem(der)
    assert read_certificate(b":" + base64.b64encode(der) + b":") == der
    assert read_certificate(quote(pem.decode()).encode()) == der
    assert read_certificate(base64.b64encode(der)) == der
    assert read_chain(b":" + base64.b64encode(der) + b":") == (der,)


@given(st.binary(max_size=200))
def test_no_header_is_too_much(value: bytes) -> None:
    for read in (read_certificate, read_chain):
        try:
            read(value)
        except HeaderError:
            continue
