"""What every listener serves without a protocol: CA certificates, CRLs, health, a line of text.

CA certificates and CRLs are public and their URLs stand in every certificate, so plain HTTP serves them (RFC
5280 section 8 warns of fetching them over TLS, which may need them first).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from certloom import __version__
from certloom.api.problems import refusal_document
from certloom.enrollment.books import UnknownName
from certloom.server.ca_pages import ca_file
from certloom.server.connections import ASGIApp, Receive, Scope, Send
from certloom.server.crl_pages import CRLFiles
from certloom.server.health import Doctor
from certloom.server.rooms import Rooms

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
        self._crls = CRLFiles(rooms.store, rooms.clock)

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
            case ["ca", *path]:
                found = ca_file(self._rooms.books, path)
                return _NOT_FOUND if found is None else Page(*found)
            case ["crl", authority, *path]:
                return await self._crl(authority, path, scope)
        return _NOT_FOUND

    async def _ready(self, scope: Scope) -> Page:
        """Text for people and load balancers, JSON for who asks for it (``Accept: application/json``)."""
        health = await self._doctor.look()
        status = 200 if health.ready else 503
        if any(name == b"accept" and b"application/json" in value for name, value in scope["headers"]):
            return Page(msgspec.json.encode(health), b"application/json", status)
        wrong = [check.detail or check.name for check in health.checks if check.required and not check.ok]
        return Page(("; ".join(wrong) or "ready").encode() + b"\n", status=status)

    async def _crl(self, authority: str, path: list[str], scope: Scope) -> Page:
        try:
            self._rooms.books.authority_row(authority)
        except UnknownName:
            return _NOT_FOUND  # no need to ask the store, which cannot even be asked for every text
        found = await self._crls.answer(authority, path, scope["headers"])
        return _NOT_FOUND if found is None else Page(found.body, found.type, found.status, found.headers)


async def answer(send: Send, page: Page) -> None:
    headers = [(b"content-type", page.type), *page.headers]
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": page.body})


def below(prefix: str, app: Callable[..., Any], otherwise: ASGIApp) -> ASGIApp:
    """An application that gives what lies below ``prefix`` to ``app``."""
    return where(lambda path: path.startswith(prefix), app, otherwise)


def where(fits: Callable[[str], bool], app: Callable[..., Any], otherwise: ASGIApp) -> ASGIApp:
    """An application that gives those paths to ``app`` that fit."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if fits(scope["path"]) else otherwise)(scope, receive, send)

    return dispatch
