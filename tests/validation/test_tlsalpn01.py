from __future__ import annotations

import ipaddress
import socket
import ssl
import time

import pytest
from cryptography import x509

from tests.outbound.conftest import Run
from tests.outbound.tcp_server import serve_tcp
from tests.validation.certificates import acme_identifier, server_context
from tests.validation.lab import lab, proof

SITE = {("site.example", "A"): ["127.0.0.1"]}
TLS = proof("tls-alpn-01", "site.example")
ALPN = ("acme-tls/1",)


def idle(connection: socket.socket) -> None:
    connection.recv(1)


def good(*names: str) -> ssl.SSLContext:
    return server_context(*(names or ("site.example",)), extension=acme_identifier(), alpn=ALPN)


def test_the_right_certificate_proves_control(run: Run) -> None:
    seen: list[str | None] = []
    context = good("Site.EXAMPLE")
    context.set_servername_callback(lambda _socket, name, _context: seen.append(name))
    with lab(run, SITE) as here, serve_tcp(idle, tls=context) as server:
        here.settings["tls_alpn_port"] = server.port
        (record,) = here.validate(TLS).records
    assert seen == ["site.example"]
    assert (record.port, record.address_used) == (server.port, "127.0.0.1")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_12_and_13_are_spoken(run: Run, version: ssl.TLSVersion) -> None:
    context = good()
    context.minimum_version = context.maximum_version = version
    with lab(run, SITE) as here, serve_tcp(idle, tls=context) as server:
        here.settings["tls_alpn_port"] = server.port
        here.validate(TLS)


@pytest.mark.parametrize(
    ("address", "server_name"),
    [("127.0.0.1", "1.0.0.127.in-addr.arpa"), ("::1", "1." + "0." * 31 + "ip6.arpa")],
)
def test_an_address_is_asked_for_by_its_reverse_name(run: Run, address: str, server_name: str) -> None:
    seen: list[str | None] = []
    names = [x509.IPAddress(ipaddress.ip_address(address))]
    context = server_context(general_names=names, extension=acme_identifier(), alpn=ALPN)
    context.set_servername_callback(lambda _socket, name, _context: seen.append(name))
    with lab(run, {}) as here, serve_tcp(idle, host=address, tls=context) as server:
        here.settings["tls_alpn_port"] = server.port
        here.validate(proof("tls-alpn-01", address))
    assert seen == [server_name]


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (server_context("site.example", extension=acme_identifier()), "application protocol"),
        (server_context("site.example", alpn=ALPN), "no acmeIdentifier"),
        (server_context(extension=acme_identifier(), alpn=ALPN), "no subjectAltName"),
        (
            server_context("site.example", extension=acme_identifier(), alpn=ALPN, critical=False),
            "not critical",
        ),
        (server_context("site.example", extension=acme_identifier("other"), alpn=ALPN), "digest"),
        (server_context("site.example", extension=acme_identifier()[2:], alpn=ALPN), "digest"),
        (server_context("site.example", extension=acme_identifier() + b"\0", alpn=ALPN), "digest"),
        (server_context("site.example", extension=b"", alpn=ALPN), "digest"),
        (good("site.example", "other.example"), "2 subjectAltNames"),
        (good("site.example", "site.example"), "2 subjectAltNames"),
        (good("other.example"), 'for "other.example"'),
        (good("*.example"), "for"),
        (
            server_context(
                general_names=[x509.RFC822Name("a@site.example")], extension=acme_identifier(), alpn=ALPN
            ),
            "for",
        ),
        (
            server_context(
                general_names=[x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
                extension=acme_identifier(),
                alpn=ALPN,
            ),
            "for",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_certificate_proves_nothing(run: Run, context: ssl.SSLContext, said: str) -> None:
    with lab(run, SITE) as here, serve_tcp(idle, tls=context) as server:
        here.settings["tls_alpn_port"] = server.port
        failed = here.failure(TLS)
    assert (failed.code, failed.retryable) == ("incorrectResponse", False)
    assert said in failed.detail


def test_a_dns_name_that_looks_like_the_address_does_not_prove_the_address(run: Run) -> None:
    with lab(run, {}) as here, serve_tcp(idle, tls=good("127.0.0.1")) as server:
        here.settings["tls_alpn_port"] = server.port
        assert here.failure(proof("tls-alpn-01", "127.0.0.1")).code == "incorrectResponse"


def test_a_server_that_refuses_the_protocol_is_a_tls_error(run: Run) -> None:
    context = server_context("site.example", extension=acme_identifier(), alpn=("h2",))

    def refuse(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"\x15\x03\x03\x00\x02\x02\x78")  # fatal alert no_application_protocol

    with lab(run, SITE) as here:
        with serve_tcp(refuse) as server:
            here.settings["tls_alpn_port"] = server.port
            failed = here.failure(TLS)
        assert failed.code == "tls"
        with serve_tcp(idle, tls=context) as server:
            here.settings["tls_alpn_port"] = server.port
            assert here.failure(TLS).code in ("tls", "incorrectResponse")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_without_tls_is_a_tls_error(run: Run, said: bytes) -> None:
    def plain(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(said)

    with lab(run, SITE) as here, serve_tcp(plain) as server:
        here.settings["tls_alpn_port"] = server.port
        assert here.failure(TLS).code == "tls"


def test_a_handshake_that_never_ends_is_cut_off_in_time(run: Run) -> None:
    with lab(run, SITE) as here, serve_tcp(lambda connection: time.sleep(3)) as server:
        here.settings |= {"tls_alpn_port": server.port, "timeout_seconds": 1}
        started = time.monotonic()
        failed = here.failure(TLS)
        assert time.monotonic() - started < 1.5
    assert (failed.code, failed.retryable) == ("connection", True)


def test_nobody_listening_and_denied_addresses_are_connection_errors(run: Run) -> None:
    with lab(run, SITE) as here, serve_tcp(idle, tls=good()) as server:
        here.settings["tls_alpn_port"] = 1
        assert here.failure(TLS).code == "connection"
        here.settings |= {"tls_alpn_port": server.port, "allow_addresses": ()}
        assert here.failure(TLS).code == "connection"
        assert server.connections == 0


def test_a_wildcard_cannot_be_proved(run: Run) -> None:
    with lab(run, SITE) as here:
        assert here.failure(proof("tls-alpn-01", "*.site.example")).code == "malformed"
