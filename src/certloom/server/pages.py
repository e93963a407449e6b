"""What every listener serves without a protocol: CA certificates, CRLs, health, a line of text.

CA certificates and CRLs are public and their URLs stand in every certificate, so plain HTTP serves them (RFC
5280 section 8 warns of fetching them over TLS, which may need them first).
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import msgspec

from certloom import __version__
from certloom.api.problems import refusal_document
from certloom.enrollment.books import UnknownName
from certloom.pki.pem import to_pem
from certloom.server.connections import ASGIApp, Receive, Scope, Send
from certloom.server.health import Doctor
from certloom.server.rooms import Rooms
from certloom.store import crls as crl_statements

_TEXT = b"text/plain; charset=utf-8"
_PROBLEM = b"application/problem+json"
_ACME_MALFORMED = "urn:ietf:params:acme:error:malformed"
_ACME_INTERNAL = "urn:ietf:params:acme:error:serverInternal"


class Page(msgspec.Struct, frozen=True):
    """An answer."""

    body: bytes
    type: bytes = _TEXT
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


_NOT_FOUND = Page(b"not found\n", status=404)


def refusal(status: int, detail: str, path: str) -> tuple[bytes, bytes]:
    """What is answered before a protocol is asked: its own terms where one speaks (RFC 8555 section 6.7)."""
    if path.startswith("/acme/"):
        kind = _ACME_INTERNAL if status >= 500 else _ACME_MALFORMED
        return _PROBLEM, msgspec.json.encode({"type": kind, "detail": detail, "status": status})
    if path.startswith("/api/"):
        return _PROBLEM, refusal_document(status, detail)
    return _TEXT, detail.encode() + b"\n"


class Pages:
    """The ASGI application of everything that is no protocol's."""

    def __init__(self, rooms: Rooms, doctor: Doctor) -> None:
        self._rooms = rooms
        self._doctor = doctor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            page = await self._page(scope)
        else:
            page = Page(b"only GET and HEAD\n", status=405, headers=((b"allow", b"GET, HEAD"),))
        await answer(send, page)

    async def _page(self, scope: Scope) -> Page:
        parts = scope["path"].split("/")
        match parts[1:]:
            case [""]:
                return Page(f"Certloom {__version__}\n".encode())
            case ["health"] | ["health", "ready"]:
                return await self._ready(scope)
            case ["health", "live"]:
                return Page(b"live\n")
            case ["ca", file]:
                return self._certificate(file)
            case ["crl", authority, file] if file.endswith(".crl"):
                return await self._crl(authority, file.removesuffix(".crl"))
        return _NOT_FOUND

    async def _ready(self, scope: Scope) -> Page:
        """Text for people and load balancers, JSON for who asks for it (``Accept: application/json``)."""
        health = await self._doctor.look()
        status = 200 if health.ready else 503
        if any(name == b"accept" and b"application/json" in value for name, value in scope["headers"]):
            return Page(msgspec.json.encode(health), b"application/json", status)
        wrong = [check.detail or check.name for check in health.checks if check.required and not check.ok]
        return Page(("; ".join(wrong) or "ready").encode() + b"\n", status=status)

    def _certificate(self, file: str) -> Page:
        if file == "roots.pem":
            return Page(roots_pem(self._rooms), b"application/x-pem-file")
        name, _, form = file.rpartition(".")
        try:
            der = self._rooms.books.authority_row(name).certificate
        except UnknownName:
            return _NOT_FOUND
        if form == "crt":
            return Page(der, b"application/pkix-cert")
        return Page(to_pem(der), b"application/x-pem-file") if form == "pem" else _NOT_FOUND

    async def _crl(self, authority: str, shard: str) -> Page:
        if not (shard.isascii() and shard.isdigit() and len(shard) < 7 and str(int(shard)) == shard):
            return _NOT_FOUND
        try:
            self._rooms.books.authority_row(authority)
        except UnknownName:
            return _NOT_FOUND  # no need to ask the store, which cannot even be asked for every text
        number = int(shard)
        crl = await self._rooms.store.read(lambda tx: crl_statements.get(tx, authority, 1, number))
        if crl is None:
            return _NOT_FOUND
        # A CRL stays good until nextUpdate, but a revocation should not wait that long in a cache.
        left = max(0, min(300, crl.next_update - self._rooms.clock.now()))
        headers = (
            (b"cache-control", b"public, max-age=%d" % left),
            (b"last-modified", formatdate(crl.this_update, usegmt=True).encode()),
        )
        return Page(crl.der, b"application/pkix-crl", headers=headers)


def roots_pem(rooms: Rooms) -> bytes:
    """Every root, as PEM."""
    return b"".join(to_pem(row.certificate) for row in rooms.books.authority_rows() if row.issuer is None)


async def answer(send: Send, page: Page) -> None:
    headers = [(b"content-type", page.type), *page.headers]
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": page.body})


def below(prefix: str, app: Callable[..., Any], otherwise: ASGIApp) -> ASGIApp:
    """An application that gives what lies below ``prefix`` to ``app``."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["path"].startswith(prefix) else otherwise)(scope, receive, send)

    return dispatch
