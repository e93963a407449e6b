"""The API's description of itself: the OpenAPI document, and the same as a page to read."""

from __future__ import annotations

import asyncio
from functools import cache

import msgspec

from certloom.api.routing import Answer, Call, Media, Public, etag, route

_WHY = Public("it describes the software, nothing of the installation")
_HTML = "text/html; charset=utf-8"


@route(
    "GET",
    "/openapi.json",
    permission=_WHY,
    summary="Describe the API",
    answers={200: Media(("application/json",))},
    etag=True,
    tag="documents",
)
async def openapi(call: Call[None, None, None]) -> Answer:
    """This OpenAPI 3.1 document."""
    body = await asyncio.to_thread(_openapi)
    return Answer(body, media="application/json", etag=etag(len(body), body))


@route(
    "GET",
    "/docs",
    permission=_WHY,
    summary="Describe the API to people",
    answers={200: Media(("text/html",))},
    etag=True,
    tag="documents",
)
async def docs(call: Call[None, None, None]) -> Answer:
    """The same as a page to read, which needs nothing from elsewhere."""
    body, policy = await asyncio.to_thread(_docs)
    return Answer(
        body,
        media=_HTML,
        etag=etag(len(body), body),
        headers=(("content-security-policy", policy), ("referrer-policy", "no-referrer")),
    )


@cache
def _openapi() -> bytes:
    # Made of everything else in this room, and only when somebody asks: it takes a good part of a second.
    from certloom.api.openapi import document
    from certloom.api.resources import table

    return msgspec.json.encode(document(table()))


@cache
def _docs() -> tuple[bytes, str]:
    from certloom.api.docs_page import CONTENT_SECURITY_POLICY, render

    return render(msgspec.json.decode(_openapi())).encode(), CONTENT_SECURITY_POLICY
