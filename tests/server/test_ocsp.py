"""OCSP over HTTP: the forms a request comes in, what caches are told, metrics and health."""

from __future__ import annotations

import asyncio
import base64
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from cryptography.x509 import ocsp as stranger

from certloom.clock import ManualClock, SystemClock
from certloom.pki.certificates import issuer_facts
from certloom.server.app import Application
from certloom.server.ocsp import OCSPApp, decode_url
from certloom.settings import Settings
from certloom.status.ocsp_responders import LIFE, RENEWED_BY
from certloom.store import certificates
from tests.pki.ocsp_requests import cert_id, malformed, request
from tests.server.listening import Client, run
from tests.server.test_app import port, running

Reply = tuple[int, dict[str, str], bytes]


async def exchange(
    application: Application,
    method: str,
    target: str,
    body: bytes = b"",
    *headers: str,
    listener: str = "http",
) -> Reply:
    client = Client(*await asyncio.open_connection("127.0.0.1", port(application, listener)))
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    await client.send("\r\n".join([*lines, "", ""]).encode() + body)
    reply: Reply = await client.answer(head=method == "HEAD")
    client.writer.close()
    return reply


async def leaf(application: Application) -> bytes:
    """Serial of the HTTPS listener's own certificate."""
    rows = await application.rooms.store.read(lambda tx: certificates.chunk(tx, 0, 100))
    return next(row.serial for row in rows if row.authority == "issuing" and row.profile != "ocsp")


async def asked(application: Application, nonce: bytes | None = None, serial: bytes | None = None) -> bytes:
    """A request about that certificate."""
    issuer = issuer_facts(application.rooms.books.authority_row("issuing").certificate)
    return request([cert_id(issuer, serial or await leaf(application))], nonce)


def status(reply: Reply) -> str:
    assert reply[0] == 200
    assert reply[1]["content-type"] == "application/ocsp-response"
    return stranger.load_der_ocsp_response(reply[2]).response_status.name


def test_post_and_get_are_answered_alike_and_may_be_kept(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as application:
            data = await asked(application)
            posted = await exchange(application, "POST", "/ocsp/issuing", data)
            assert status(posted) == "SUCCESSFUL"
            path = quote(base64.b64encode(data).decode(), safe="")
            got = await exchange(application, "GET", f"/ocsp/issuing/{path}")
            assert got[2] == posted[2]
            response = stranger.load_der_ocsp_response(got[2])
            assert response.certificate_status is stranger.OCSPCertStatus.GOOD
            headers = got[1]
            assert headers["cache-control"] == "max-age=300, public, no-transform, must-revalidate"
            updated, ends = response.this_update_utc.timestamp(), response.next_update_utc
            assert ends is not None
            assert headers["last-modified"] == formatdate(updated, usegmt=True)
            assert headers["expires"] == formatdate(ends.timestamp(), usegmt=True)
            # Who has it needs no second copy of it (RFC 9110 section 13).
            for header in (
                f"If-None-Match: {headers['etag']}",
                f'If-None-Match: "x", W/{headers["etag"]}',
                f"If-Modified-Since: {headers['last-modified']}",
            ):
                again = await exchange(application, "GET", f"/ocsp/issuing/{path}", b"", header)
                assert (again[0], again[2]) == (304, b"")
                assert again[1]["etag"] == headers["etag"]
                assert "content-type" not in again[1]
            for header in (
                'If-None-Match: "other"',
                "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
                "If-Modified-Since: yesterday",
                f'If-None-Match: "other"\r\nIf-Modified-Since: {headers["last-modified"]}',
            ):
                assert (await exchange(application, "GET", f"/ocsp/issuing/{path}", b"", header))[0] == 200
            head = await exchange(application, "HEAD", f"/ocsp/issuing/{path}")
            assert head[0] == 200
            assert head[1]["content-length"] == str(len(got[2]))

    run(scenario())


def test_every_way_in_which_clients_write_urls(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as application:
            tried = [await asked(application, bytes((n,)) * 14) for n in (0xFB, 0xEF, 0xBE, 0xFF, 0xFE)]
            tried += [await asked(application, bytes((n,)) * 15) for n in (0xFB, 0xEF, 0xBE, 0xFF, 0xFE)]
            data = next(one for one in tried if {*"+/="} <= {*base64.b64encode(one).decode()})
            plain = base64.b64encode(data).decode()
            forms = {
                "percent-encoded": quote(plain, safe=""),
                "in small letters": quote(plain, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
                "as it is": plain,
                "twice": quote(quote(plain, safe=""), safe=""),
                "without padding": plain.rstrip("="),
                "of URLs": base64.urlsafe_b64encode(data).decode(),
                "a slash too many": "/" + plain,
                "with a line's end": quote(plain + "\n", safe=""),
                "a plus as in forms": quote(plain, safe="").replace("%2B", "%20"),
            }
            for what, form in forms.items():
                for prefix in ("/ocsp/issuing/", "/ocsp/", "/OCSP/Issuing/", "/ocsp//issuing/"):
                    assert status(await exchange(application, "GET", prefix + form)) == "SUCCESSFUL", what
            for prefix in ("/ocsp", "/ocsp/", "/ocsp/issuing", "/ocsp/issuing/", "/ocsp/root"):
                assert status(await exchange(application, "POST", prefix, data)) == "SUCCESSFUL"

    run(scenario())


def test_what_is_no_request_is_told_so_in_ocsps_own_terms(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as application:
            issuer = issuer_facts(application.rooms.books.authority_row("issuing").certificate)
            for what, data in malformed(issuer).items():
                reply = await exchange(application, "POST", "/ocsp/issuing", data)
                assert status(reply) == "MALFORMED_REQUEST", what
                assert reply[1]["cache-control"] == "no-store"
                if len(data) < 5000:
                    path = "/ocsp/issuing/" + quote(base64.b64encode(data).decode(), safe="")
                    assert status(await exchange(application, "GET", path)) == "MALFORMED_REQUEST", what
            for target in (
                "/ocsp",
                "/ocsp/issuing/%%%",
                "/ocsp/issuing/M",
                "/ocsp/nobody",
                "/ocsp/%C3%A4",
            ):
                assert status(await exchange(application, "GET", target)) == "MALFORMED_REQUEST"
            data = await asked(application)
            assert (await exchange(application, "POST", "/ocsp/nobody", data))[0] == 404
            reply = await exchange(application, "PUT", "/ocsp/issuing")
            assert (reply[0], reply[1]["allow"]) == (405, "GET, HEAD, POST")
            assert (await exchange(application, "GET", "/ocspx"))[0] == 404
            huge = await exchange(application, "POST", "/ocsp", b"0" * (settings.limits.body_bytes + 1))
            assert huge[0] == 413

    run(scenario())


def test_answers_with_a_nonce_and_about_nothing_are_not_kept(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as application:
            for data in (
                await asked(application, b"n" * 16),
                await asked(application, serial=b"\x55" * 16),
                await asked(application, b"n" * 16, serial=b"\x55" * 16),
            ):
                reply = await exchange(application, "POST", "/ocsp/issuing", data)
                assert status(reply) == "SUCCESSFUL"
                assert reply[1]["cache-control"] == "no-store"
                assert "etag" not in reply[1]
                path = quote(base64.b64encode(data).decode(), safe="")
                got = await exchange(application, "GET", f"/ocsp/{path}", b"", "If-None-Match: *")
                assert got[0] == 200

    run(scenario())


def test_answers_are_counted_and_responders_watched(settings: Settings) -> None:
    clock = ManualClock(SystemClock().now())

    async def scenario() -> None:
        async with running(settings, clock) as application:
            await application.rooms.ocsp.keep()
            data = await asked(application)
            for _ in range(3):
                await exchange(application, "POST", "/ocsp", data)
            await exchange(application, "POST", "/ocsp", b"?")
            text = (await application.metrics.render())[0].decode()
            for line in (
                'certloom_ocsp_answers_total{answer="good",source="signed"} 1.0',
                'certloom_ocsp_answers_total{answer="good",source="ahead"} 2.0',
                'certloom_ocsp_answers_total{answer="malformedRequest",source="unsigned"} 1.0',
                "certloom_ocsp_signatures_total 1.0",
                "certloom_ocsp_kept_answers 1.0",
                'certloom_ocsp_responder_valid_seconds{authority="issuing",generation="1"} 1.2096e+06',
                'certloom_requests_total{listener="http",protocol="ocsp",status="2xx"} 4.0',
            ):
                assert line in text, line

    run(scenario())


def test_a_responder_that_ends_soon_is_told_of(settings: Settings) -> None:
    async def check(application: Application) -> dict[str, Any]:
        reply = await exchange(application, "GET", "/health", b"", "Accept: application/json")
        checks = msgspec.json.decode(reply[2])["checks"]
        found: dict[str, Any] = next(check for check in checks if check["name"] == "ocsp")
        return found

    async def scenario(left: int) -> dict[str, Any]:
        async with running(settings) as application:
            rooms = application.rooms
            await rooms.ocsp.keep()
            ends = rooms.clock.now() + left
            await rooms.store.write(
                lambda tx: tx.run("UPDATE delegates SET not_after = ? WHERE authority = 'issuing'", (ends,))
            )
            return await check(application)

    told = run(scenario(RENEWED_BY - 60))
    assert told == {
        "name": "ocsp",
        "ok": False,
        "required": False,
        "detail": "OCSP responders' certificates end soon: issuing",
    }
    assert run(scenario(LIFE))["ok"]


@pytest.mark.parametrize(
    ("encoded", "octets"),
    [
        ("MAA=", b"0\x00"),
        ("MAA", b"0\x00"),
        ("//MAA%3D", b"0\x00"),
        ("-_8=", b"\xfb\xff"),
        ("MA A=", b"0\x0f\x80"),
        ("M", b""),
        ("MAA==x", b""),
        ("", b""),
        ("ä", b""),
        ("%00", b""),
        ("M" * 9000, b""),
    ],
)
def test_requests_in_urls(encoded: str, octets: bytes) -> None:
    assert decode_url(encoded) == octets


def test_a_body_that_comes_in_pieces(settings: Settings) -> None:
    """Our server hands over whole bodies; another one need not."""

    async def scenario() -> None:
        async with running(settings) as application:
            data = await asked(application)
            pieces = [data[:10], data[10:20], data[20:]]
            messages = [
                {"type": "http.request", "body": piece, "more_body": n < 2} for n, piece in enumerate(pieces)
            ]
            sent: list[Any] = []

            async def receive() -> Any:
                return messages.pop(0)

            async def send(message: Any) -> None:
                sent.append(message)

            async def nobody(scope: Any, receive: Any, send: Any) -> None:
                raise AssertionError("not below /ocsp")

            app = OCSPApp(application.rooms.ocsp, lambda: ("issuing",), nobody)
            await app({"method": "POST", "path": "/ocsp", "headers": []}, receive, send)
            response = stranger.load_der_ocsp_response(sent[1]["body"])
            assert response.response_status.name == "SUCCESSFUL"

    run(scenario())
