"""Trust anchors: strangers' CA certificates, by name, whose clients channels may let in."""

from __future__ import annotations

from datetime import datetime

import msgspec

from certloom.api import edits
from certloom.api.problems import CONFLICT, NOT_FOUND, Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, at, etag, route
from certloom.audit import record
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import format_name
from certloom.policy.anchors import TrustAnchors, certificates_of
from certloom.store import configuration
from certloom.store.base import Tx


class AnchorsPath(msgspec.Struct, frozen=True):
    name: Name


class AnchorShown(msgspec.Struct, frozen=True):
    """One CA's certificate."""

    subject: str
    """RFC 4514."""
    sha256: str
    """Fingerprint, in hex."""
    not_after: datetime
    certificate: str
    """PEM."""


class AnchorsShown(msgspec.Struct, frozen=True):
    """A set of trust anchors."""

    name: str
    description: str
    anchors: tuple[AnchorShown, ...]


@route(
    "GET",
    "/trust-anchors",
    permission="anchor.read",
    summary="List trust anchors",
    query=Paging,
    answers={200: Page[AnchorsShown]},
    tag="trust-anchors",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """By name."""
    after = call.position(str) or ""
    rows = await call.services.store.scan(lambda tx: configuration.anchors_after(tx, after, call.limit + 1))
    return call.page([_shown(body) for _, body in rows], lambda row: row.name)


@route(
    "GET",
    "/trust-anchors/{name}",
    permission="anchor.read",
    summary="Show a set of trust anchors",
    path=AnchorsPath,
    answers={200: AnchorsShown},
    etag=True,
    tag="trust-anchors",
)
async def show(call: Call[AnchorsPath, None, None]) -> Answer:
    """With who the CAs are."""
    name = call.path.name
    body = await call.services.store.read(lambda tx: configuration.anchor_set(tx, name))
    if body is None:
        raise _missing(name)
    return Answer(_shown(body), etag=etag(body))


@route(
    "PUT",
    "/trust-anchors/{name}",
    permission="anchor.write",
    summary="Make or change a set of trust anchors",
    path=AnchorsPath,
    body=TrustAnchors,
    answers={200: AnchorsShown, 201: AnchorsShown},
    edits=True,
    tag="trust-anchors",
)
async def put(call: Call[AnchorsPath, None, TrustAnchors]) -> Answer:
    """Channels that name it let in who holds certificates of these CAs, within seconds on every server."""
    services, anchors = call.services, call.body
    call.allow_shared("anchor.write")
    if anchors.name != call.path.name:
        raise edits.invalid(f"this is the set {call.path.name!r}", "$.name")
    edits.check_anchors(anchors)

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        was = configuration.anchor_set(tx, anchors.name)
        call.require_match(None if was is None else etag(was))
        change = edits.put_anchors(tx, services, anchors, call.origin)
        if change.change != "unchanged":
            configuration.touch(tx)
        now = configuration.anchor_set(tx, anchors.name) or ""
        if was is not None:
            return Answer(_shown(now), etag=etag(now))
        return Answer(_shown(now), 201, etag=etag(now), location=f"/trust-anchors/{anchors.name}")

    answer = await call.write(unit)
    await services.refresh()
    return answer


@route(
    "DELETE",
    "/trust-anchors/{name}",
    permission="anchor.write",
    summary="Delete a set of trust anchors",
    path=AnchorsPath,
    answers={204: None},
    problems=(CONFLICT,),
    edits=True,
    tag="trust-anchors",
)
async def delete(call: Call[AnchorsPath, None, None]) -> Answer:
    """Not while a channel names it."""
    call.allow_shared("anchor.write")
    name = call.path.name

    def unit(tx: Tx) -> None:
        configuration.edit(tx)
        body = configuration.anchor_set(tx, name)
        if body is None:
            raise _missing(name)
        call.require_match(etag(body))
        for protocol, channel, told in configuration.channels(tx):
            if name in msgspec.json.decode(told).get("anchors", ()):
                raise Problem(CONFLICT, f"the channel {protocol}/{channel} lets their clients in")
        configuration.delete_anchors(tx, name)
        configuration.touch(tx)
        data = {"before": edits.told_of_anchors(body), "after": None}
        subject = f"trust-anchors:{name}"
        record(tx, call.services.clock.now_ms(), "trust-anchors.deleted", subject, call.origin, data)

    await call.write(unit)
    await call.services.refresh()
    return Answer(status=204)


def _shown(body: str) -> AnchorsShown:
    anchors = msgspec.json.decode(body, type=TrustAnchors)
    shown = []
    for pem, der in zip(anchors.certificates, certificates_of(anchors), strict=True):
        facts = parse_certificate(der)
        shown.append(AnchorShown(format_name(facts.subject), facts.sha256.hex(), at(facts.not_after), pem))
    return AnchorsShown(anchors.name, anchors.description, tuple(shown))


def _missing(name: str) -> Problem:
    return Problem(NOT_FOUND, f"there are no trust anchors {name!r}")
