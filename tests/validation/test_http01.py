from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from certloom.outbound.fetch import HEADER_LIMIT
from tests.outbound.conftest import Run
from tests.outbound.tcp_server import answering, http_response, read_request, serve_tcp
from tests.validation.certificates import server_context
from tests.validation.lab import KEY_AUTHORIZATION, TOKEN, Lab, lab, proof

GOOD = http_response(KEY_AUTHORIZATION.encode())
SITE = {("site.example", "A"): ["127.0.0.1"]}
HTTP = proof("http-01", "site.example")


def redirecting(location: str, status: str = "302 Found") -> bytes:
    return http_response(b"", status, f"Location: {location}")


def by_path(answers: dict[str, bytes]) -> Callable[[socket.socket], None]:
    """A handler that answers each path with its own bytes, and any other with the good answer."""

    def handle(connection: socket.socket) -> None:
        path = read_request(connection).split(" ")[1]
        connection.sendall(answers.get(path, GOOD))

    return handle


def test_the_key_authorization_at_the_well_known_path_proves_control(run: Run) -> None:
    heads = []

    def handle(connection: socket.socket) -> None:
        heads.append(read_request(connection))
        connection.sendall(GOOD)

    with lab(run, SITE) as here, serve_tcp(handle) as server:
        here.settings["http_port"] = server.port
        (record,) = here.validate(HTTP).records
    assert heads[0].startswith(f"GET /.well-known/acme-challenge/{TOKEN} HTTP/1.1\r\n")
    assert f"\r\nHost: site.example:{server.port}\r\n" in heads[0]
    assert "Accept-Encoding: identity" in heads[0]
    assert (record.hostname, record.port, record.address_used) == ("site.example", server.port, "127.0.0.1")
    assert here.dns.asked == [("site.example", "A", "udp")]


@pytest.mark.parametrize(
    "response",
    [
        http_response(KEY_AUTHORIZATION.encode() + b" \t\r\n\n"),
        b"HTTP/1.0 200 OK\r\n\r\n" + KEY_AUTHORIZATION.encode(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\n" + KEY_AUTHORIZATION[:5].encode() + b"\r\n"
        + f"{len(KEY_AUTHORIZATION) - 5:x}".encode() + b";x=y\r\n" + KEY_AUTHORIZATION[5:].encode()
        + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + GOOD,
    ],
    ids=["trailing-whitespace", "until-close", "chunked", "interim-response"],
)  # fmt: skip
def test_every_way_to_send_a_body_is_understood(run: Run, response: bytes) -> None:
    with lab(run, SITE) as here, serve_tcp(answering(response)) as server:
        here.settings["http_port"] = server.port
        here.validate(HTTP)


def test_a_body_in_single_bytes_is_understood(run: Run) -> None:
    with lab(run, SITE) as here, serve_tcp(answering(*[bytes((b,)) for b in GOOD])) as server:
        here.settings["http_port"] = server.port
        here.validate(HTTP)


def test_an_address_is_its_own_host(run: Run) -> None:
    heads = []

    def handle(connection: socket.socket) -> None:
        heads.append(read_request(connection))
        connection.sendall(GOOD)

    with lab(run, {}) as here:
        with serve_tcp(handle) as server:
            here.settings["http_port"] = server.port
            here.validate(proof("http-01", "127.0.0.1"))
            assert f"\r\nHost: 127.0.0.1:{server.port}\r\n" in heads[-1]
        with serve_tcp(handle, host="::1") as server:
            here.settings["http_port"] = server.port
            here.validate(proof("http-01", "::1"))
            assert f"\r\nHost: [::1]:{server.port}\r\n" in heads[-1]
        assert here.dns.asked == []


def test_a_host_with_ipv6_only_is_reached(run: Run) -> None:
    with (
        lab(run, {("six.example", "AAAA"): ["::1"]}) as here,
        serve_tcp(answering(GOOD), host="::1") as server,
    ):
        here.settings["http_port"] = server.port
        (record,) = here.validate(proof("http-01", "six.example")).records
        assert record.address_used == "::1"


def test_addresses_that_do_not_answer_are_passed_over_for_others_and_for_ipv6(run: Run) -> None:
    records = {("both.example", "A"): ["127.0.0.2", "127.0.0.3"], ("both.example", "AAAA"): ["::1"]}
    with lab(run, records) as here, serve_tcp(answering(GOOD), host="::1") as server:
        here.settings["http_port"] = server.port
        (record,) = here.validate(proof("http-01", "both.example")).records
        assert record.address_used == "::1"
        assert set(record.addresses_resolved) == {"127.0.0.2", "127.0.0.3", "::1"}


def test_another_body_is_an_incorrect_response_shown_in_part(run: Run) -> None:
    body = b"<html>\x00\x1b[31m" + b"secret" * 100
    with lab(run, SITE) as here, serve_tcp(answering(http_response(body))) as server:
        here.settings["http_port"] = server.port
        failed = here.failure(HTTP)
    assert failed.code == "incorrectResponse"
    assert not failed.retryable
    assert '"<html>??[31m' in failed.detail
    assert failed.detail.count("secret") <= 10


@pytest.mark.parametrize(
    "body", [b"", b"x", KEY_AUTHORIZATION[:-1].encode(), b" " + KEY_AUTHORIZATION.encode()]
)
def test_nearly_right_is_wrong(run: Run, body: bytes) -> None:
    with lab(run, SITE) as here, serve_tcp(answering(http_response(body))) as server:
        here.settings["http_port"] = server.port
        assert here.failure(HTTP).code == "incorrectResponse"


@pytest.mark.parametrize(
    ("status", "retryable"), [("404 Not Found", False), ("503 Busy", True), ("204 No", False)]
)
def test_only_status_200_counts(run: Run, status: str, retryable: bool) -> None:
    response = http_response(b"" if status[0] == "2" else KEY_AUTHORIZATION.encode(), status)
    with lab(run, SITE) as here, serve_tcp(answering(response)) as server:
        here.settings["http_port"] = server.port
        failed = here.failure(HTTP)
    assert (failed.code, failed.retryable) == ("incorrectResponse", retryable)
    assert f"status {status[:3]}" in failed.detail


def test_nobody_listening_is_a_connection_error_worth_retrying(run: Run) -> None:
    with lab(run, SITE) as here:
        here.settings["http_port"] = 1
        failed = here.failure(HTTP)
    assert (failed.code, failed.retryable) == ("connection", True)
    assert "127.0.0.1 port 1: " in failed.detail


def test_dns_failures_are_dns_errors(run: Run) -> None:
    with lab(run, {("bare.example", "TXT"): ["x"]}) as here:
        failed = here.failure(proof("http-01", "bare.example"))
        assert (failed.code, failed.detail) == ("dns", "bare.example has no A and no AAAA record")
        failed = here.failure(proof("http-01", "nothing.test"))
        assert failed.code == "dns"
        assert "NXDOMAIN" in failed.detail
        here.dns.behaviour["*"] = "servfail"
        failed = here.failure(proof("http-01", "bare.example"))
        assert (failed.code, failed.retryable) == ("dns", True)


def test_a_wildcard_cannot_be_proved(run: Run) -> None:
    with lab(run, SITE) as here:
        assert here.failure(proof("http-01", "*.site.example")).code == "malformed"
        assert here.failure(proof("http-01", "site.example", wildcard=True)).code == "malformed"


def test_a_proof_without_key_authorization_is_a_mistake_of_ours(run: Run) -> None:
    with lab(run, SITE) as here, pytest.raises(ValueError, match="key authorization"):
        here.validate(proof("http-01", "site.example", key_authorization=""))


# Redirects


def test_redirects_are_followed_and_recorded(run: Run) -> None:
    with lab(run, {**SITE, ("other.example", "A"): ["127.0.0.1"]}) as here:
        answers: dict[str, bytes] = {}
        with serve_tcp(by_path(answers)) as server:
            answers[f"/.well-known/acme-challenge/{TOKEN}"] = redirecting("/a b?q=1#part", "301 Moved")
            answers["/a%20b?q=1"] = redirecting(f"//Other.example:{server.port}/c", "308 Moved")
            here.settings["http_port"] = server.port
            records = here.validate(HTTP).records
    assert [record.url for record in records] == [
        f"http://site.example:{server.port}/.well-known/acme-challenge/{TOKEN}",
        f"http://site.example:{server.port}/a%20b?q=1",
        f"http://other.example:{server.port}/c",
    ]


def test_https_is_followed_without_trusting_anybody(run: Run) -> None:
    with lab(run, SITE) as here:
        with (
            serve_tcp(answering(GOOD), tls=server_context("whoever.example")) as secure,
            serve_tcp(answering(redirecting(f"https://site.example:{secure.port}/x"))) as plain,
        ):
            here.settings |= {"http_port": plain.port, "tls_alpn_port": secure.port}
            assert [record.port for record in here.validate(HTTP).records] == [plain.port, secure.port]
        with (
            serve_tcp(answering(GOOD), tls=server_context("whoever.example")) as secure,
            serve_tcp(answering(redirecting(f"https://127.0.0.1:{secure.port}/x"))) as plain,
        ):
            here.settings |= {"http_port": plain.port, "tls_alpn_port": secure.port}
            here.validate(HTTP)


def test_an_https_redirect_to_a_server_without_tls_is_a_tls_error(run: Run) -> None:
    with (
        lab(run, SITE) as here,
        serve_tcp(lambda connection: connection.sendall(b"220 no TLS here\r\n")) as server,
        serve_tcp(answering(redirecting(f"https://site.example:{server.port}/x"))) as plain,
    ):
        here.settings |= {"http_port": plain.port, "tls_alpn_port": server.port}
        assert here.failure(HTTP).code == "tls"


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "gopher://site.example/",
        "ftp://site.example/",
        "http://site.example:22/",
        "https://site.example:8443/",
        "http://site.example:99999/",
        "http://user:word@site.example/",
        "http://[fe80::1%25lo]/",
        "http://[::1/",
        "http://:80/nothing",
        "http://sit\u00e9.example/",
        "http://a b.example/",
        "http://site.example/" + "x" * 3000,
        "",
    ],
)
def test_redirects_lead_only_to_http_and_https_on_their_ports(run: Run, location: str) -> None:
    response = (
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location.encode("latin-1") + b"\r\n\r\n"
    )
    with lab(run, SITE) as here, serve_tcp(answering(response)) as server:
        here.settings["http_port"] = server.port
        failed = here.failure(HTTP)
        assert (failed.code, failed.retryable) == ("connection", False)
        assert server.connections == 1


def test_a_redirect_in_a_loop_ends_at_once(run: Run) -> None:
    with (
        lab(run, SITE) as here,
        serve_tcp(answering(redirecting(f"/.well-known/acme-challenge/{TOKEN}"))) as server,
    ):
        here.settings["http_port"] = server.port
        failed = here.failure(HTTP)
        assert failed.code == "connection"
        assert "loop" in failed.detail
        assert server.connections == 1


def test_a_chain_of_redirects_is_followed_so_far_only(run: Run) -> None:
    with lab(run, SITE) as here:
        for allowed, code in ((3, None), (2, "connection")):
            first = f"/.well-known/acme-challenge/{TOKEN}"
            answers = {first: redirecting("/1"), "/1": redirecting("/2"), "/2": redirecting("/3")}
            with serve_tcp(by_path(answers)) as server:
                here.settings |= {"http_port": server.port, "redirects": allowed}
                if code is None:
                    here.validate(HTTP)
                else:
                    assert here.failure(HTTP).code == code
                    assert server.connections == allowed + 1


def test_what_another_host_says_after_a_redirect_is_not_shown(run: Run) -> None:
    with lab(run, {**SITE, ("inside.example", "A"): ["127.0.0.1"]}) as here:
        answers = {"/secret": http_response(b"internal secret")}
        with serve_tcp(by_path(answers)) as server:
            here.settings["http_port"] = server.port
            location = f"http://inside.example:{server.port}/secret"
            answers[f"/.well-known/acme-challenge/{TOKEN}"] = redirecting(location)
            failed = here.failure(HTTP)
    assert failed.code == "incorrectResponse"
    assert "internal" not in failed.detail
    assert "15 other bytes" in failed.detail


# Denied addresses


def guarded(here: Lab, port: int) -> None:
    here.settings |= {"http_port": port, "allow_addresses": ("127.0.0.2",)}


@contextlib.contextmanager
def outer_server(port: int, response: bytes) -> Iterator[None]:
    """A server at the one permitted address, 127.0.0.2, that answers one request."""
    with socket.create_server(("127.0.0.2", port)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                read_request(connection)
                connection.sendall(response)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["169.254.169.254", "0.0.0.0"]])
def test_a_denied_address_is_not_contacted(run: Run, addresses: list[str]) -> None:
    with lab(run, {("site.example", "A"): addresses}) as here, serve_tcp(answering(GOOD)) as server:
        guarded(here, server.port)
        failed = here.failure(HTTP)
        assert (failed.code, failed.retryable) == ("connection", False)
        assert "not contacted" in failed.detail
        assert server.connections == 0


def test_a_cname_to_a_denied_address_is_not_contacted(run: Run) -> None:
    records = {("site.example", "CNAME"): ["inner.example"], ("inner.example", "A"): ["127.0.0.1"]}
    with lab(run, records) as here, serve_tcp(answering(GOOD)) as server:
        guarded(here, server.port)
        assert here.failure(HTTP).code == "connection"
        assert server.connections == 0


def test_denied_ipv6_forms_of_an_address_are_not_contacted(run: Run) -> None:
    records = {("site.example", "AAAA"): ["::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]}
    with lab(run, records) as here, serve_tcp(answering(GOOD)) as server:
        guarded(here, server.port)
        assert here.failure(HTTP).code == "connection"
        assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "inner.example", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_redirect_to_a_denied_address_is_not_followed(run: Run, host: str) -> None:
    records = {("site.example", "A"): ["127.0.0.2"], ("inner.example", "A"): ["127.0.0.1"]}
    with lab(run, records) as here, serve_tcp(answering(GOOD)) as inner:
        with outer_server(inner.port, redirecting(f"http://{host}:{inner.port}/")):
            guarded(here, inner.port)
            failed = here.failure(HTTP)
        assert failed.code == "connection"
        assert "not contacted" in failed.detail
        assert inner.connections == 0


def test_the_address_that_was_judged_is_the_one_connected_to(run: Run) -> None:
    """DNS rebinding: the answer turns to a denied address as soon as it has been given once."""
    with lab(run, {("site.example", "A"): ["127.0.0.2"]}) as here, serve_tcp(answering(GOOD)) as inner:
        asked: list[str] = []

        def rebind(name: str, kind: str) -> None:
            if asked:
                here.dns.records["site.example", "A"] = ["127.0.0.1"]
            asked.append(kind)

        here.dns.on_query = rebind
        first = redirecting(f"http://site.example:{inner.port}/again")
        with outer_server(inner.port, first):
            guarded(here, inner.port)
            failed = here.failure(HTTP)
        # Once for each connection, and the second answer was judged as well.
        assert asked == ["A", "A", "AAAA"]
        assert "127.0.0.1 is not contacted" in failed.detail
        assert inner.connections == 0


# Servers that mean harm


def test_a_server_that_drips_is_cut_off_in_time(run: Run) -> None:
    def drip(connection: socket.socket) -> None:
        read_request(connection)
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
                connection.sendall(bytes((byte,)))
                time.sleep(0.05)

    with lab(run, SITE) as here, serve_tcp(drip) as server:
        here.settings |= {"http_port": server.port, "timeout_seconds": 1}
        started = time.monotonic()
        failed = here.failure(HTTP)
        assert time.monotonic() - started < 1.6
    assert (failed.code, failed.retryable) == ("connection", True)
    assert "not complete in time" in failed.detail


@pytest.mark.parametrize("behaviour", ["silent", "nothing-in-tls"])
def test_a_server_that_says_nothing_is_cut_off_in_time(run: Run, behaviour: str) -> None:
    def silent(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            time.sleep(3)

    with (
        lab(run, SITE) as here,
        serve_tcp(silent) as server,
        serve_tcp(answering(redirecting(f"https://site.example:{server.port}/"))) as plain,
    ):
        asked = server if behaviour == "silent" else plain
        here.settings |= {"http_port": asked.port, "tls_alpn_port": server.port, "timeout_seconds": 1}
        started = time.monotonic()
        assert here.failure(HTTP).code == "connection"
        assert time.monotonic() - started < 1.6


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        read_request(connection)
        with contextlib.suppress(OSError):
            connection.sendall(head)
            while True:
                connection.sendall(piece)

    return handle


@pytest.mark.parametrize(
    ("head", "piece", "code", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 8192, "incorrectResponse", "more than 4096 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            b"x" * 8192,
            "incorrectResponse",
            "more than",
        ),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"y" * 500 + b"\r\n", "connection", "bytes of headers"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 8192, "connection", "bytes of headers"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "connection", "bytes of headers"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;" + b"e" * 5000 + b"\r\nx\r\n",
            "connection",
            "bytes of headers",
        ),
    ],
    ids=["body", "long-body", "headers", "header", "interim-responses", "chunk-extensions"],
)
def test_endless_answers_are_cut_off(run: Run, head: bytes, piece: bytes, code: str, said: str) -> None:
    with lab(run, SITE) as here, serve_tcp(endless(head, piece)) as server:
        here.settings["http_port"] = server.port
        started = time.monotonic()
        failed = here.failure(HTTP)
        assert time.monotonic() - started < 1.5
    assert failed.code == code
    assert said in failed.detail


def test_a_compressed_body_is_not_unpacked(run: Run) -> None:
    bomb = gzip.compress(b"\0" * 3_000_000)
    for body, said in ((bomb[:4000], "Content-Encoding"), (bomb, "Content-Encoding")):
        response = http_response(body, "200 OK", "Content-Encoding: gzip")
        with lab(run, SITE) as here, serve_tcp(answering(response)) as server:
            here.settings["http_port"] = server.port
            failed = here.failure(HTTP)
        assert failed.code == "incorrectResponse"
        assert said in failed.detail


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nothing", "short", "ssh", "tls", "upgrade", "two-lengths", "bad-chunk"],
)
def test_what_is_no_whole_http_response_is_a_connection_error(run: Run, response: bytes) -> None:
    with lab(run, SITE) as here, serve_tcp(answering(response)) as server:
        here.settings["http_port"] = server.port
        assert here.failure(HTTP).code == "connection"


def test_many_headers_within_the_limit_are_fine(run: Run) -> None:
    head, _, body = GOOD.partition(b"\r\n\r\n")
    padding = b"\r\nX-Padding: " + b"y" * (HEADER_LIMIT - 200)
    with lab(run, SITE) as here, serve_tcp(answering(head + padding + b"\r\n\r\n" + body)) as server:
        here.settings["http_port"] = server.port
        here.validate(HTTP)


def test_a_server_that_resets_the_connection_is_a_connection_error(run: Run) -> None:
    def reset(connection: socket.socket) -> None:
        read_request(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    with lab(run, SITE) as here, serve_tcp(reset) as server:
        here.settings["http_port"] = server.port
        failed = here.failure(HTTP)
    assert (failed.code, failed.retryable) == ("connection", True)
