"""Asking the API without a listener."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from certloom.identity.principals import Principal

_NAME_OF_TRACE = "x-request-id"


class Reply(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    """By lower-case name; the last of several."""
    body: bytes


async def ask(
    app: Callable[..., Any],
    method: str,
    target: str,
    *,
    principal: Principal | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    on_piece: Callable[[bytes], None] | None = None,
    scope: Mapping[str, Any] | None = None,
) -> Reply:
    """Ask for ``/api/v1/...``; as ``principal``, who needs no other proof then.

    ``on_piece`` takes the pieces of the body as they come, and ``Reply.body`` stays empty.
    """
    path, _, query = target.partition("?")
    trace = secrets.token_hex(8)
    asked: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "https",
        "method": method,
        "path": path,
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()],
        "client": None,
        "certloom.base_url": "",
        "certloom.trace": trace,
        **(scope or {}),
    }
    if principal is not None:
        asked["certloom.principal"] = principal
    started: dict[str, Any] = {}
    pieces: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        elif on_piece is None:
            pieces.append(message.get("body", b""))
        elif message.get("body"):
            on_piece(message["body"])

    await app(asked, receive, send)
    answered = {name.decode(): value.decode("latin-1") for name, value in started["headers"]}
    answered.setdefault(_NAME_OF_TRACE, trace)
    return Reply(started["status"], answered, b"".join(pieces))
