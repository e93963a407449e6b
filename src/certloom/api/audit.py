"""The audit log: looked through, exported, signed and verified."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem, declare
from certloom.api.routing import JSON, JSON_LINES, Answer, Call, Media, Page, Paging, Stream, Time, at, route
from certloom.audit import CheckpointError, Range, Verdict, export, verify
from certloom.audit.checkpoints import Checkpoint, load_public, public_pem
from certloom.store import event_search
from certloom.store.base import Tx
from certloom.store.event_search import Filters

BUSY = declare("verification-under-way", 409, "A verification is under way already")
_PEM = "application/x-pem-file"
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_HALF_A_MICROSECOND = 0.0000005


class Event(msgspec.Struct, frozen=True):
    """One event: who did what to what, and where from."""

    id: int
    at: datetime
    kind: str
    """What happened: `thing.change`."""
    subject: str
    """To what: `thing:id`."""
    actor: str
    """Who did it, such as `person:ID`, `token:ID`, `acme-account:ID`, `local:NAME` or `system`."""
    origin: str
    """The address it came from; empty for the product itself and for local users."""
    request_id: str
    """The id of the request it came with, as its answer's `X-Request-Id`."""
    data: dict[str, Any]
    """What depends on the kind; for edits `before` and `after`."""
    sequence: int | None
    """Its place in the chain; null for the second before it is linked."""


class EventQuery(Paging, frozen=True):
    """Which events; all that are given must fit. An export takes the numbers and times alone."""

    kind: _Text | None = None
    subject: _Text | None = None
    actor: _Text | None = None
    since: Annotated[Time, msgspec.Meta(description="From this moment on.")] | None = None
    until: Annotated[Time, msgspec.Meta(description="Before this moment.")] | None = None
    first: (
        Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1, description="Export from this number on.")] | None
    ) = None
    last: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1, description="Export up to this number.")] | None = (
        None
    )


@route(
    "GET",
    "/audit/events",
    permission="audit.read",
    summary="List or export events",
    query=EventQuery,
    answers={200: (Page[Event], Media((JSON_LINES,)))},
    tag="audit",
)
async def events(call: Call[None, EventQuery, None]) -> Answer:
    """The newest events first.

    With `Accept: application/jsonl` it is an export: in the order of the chain, with all that was hashed, and
    a signed checkpoint at the end.
    """
    _unscoped(call)
    query = call.query
    if call.accepts(JSON, JSON_LINES) == JSON_LINES:
        return _export(call)
    filters = Filters(query.kind, query.subject, query.actor, _ms(query.since), _ms(query.until))
    position = call.position(int)
    found = await call.services.store.scan(lambda tx: event_search.search(tx, filters, position, call.limit))
    cursor = None if found.next is None else call.cursor(found.next)
    return Answer(Page(tuple(_shown(row) for row in found.rows), cursor))


def _export(call: Call[None, EventQuery, None]) -> Answer:
    query = call.query
    if query.kind or query.subject or query.actor:
        raise Problem(
            problems.INVALID,
            "an export is a stretch of the chain: it takes first, last, since and until alone",
        )
    part = Range(query.first or 1, query.last, _ms(query.since), _ms(query.until))
    return Answer(Stream(export(call.services.store, call.services.checkpoints, part)), media=JSON_LINES)


class CheckpointQuery(Paging, frozen=True):
    """Which page."""


@route(
    "GET",
    "/audit/checkpoints",
    permission="audit.read",
    summary="List checkpoints",
    query=CheckpointQuery,
    answers={200: Page[Checkpoint]},
    tag="audit",
)
async def checkpoints(call: Call[None, CheckpointQuery, None]) -> Answer:
    """Those of the furthest places first. Keep some elsewhere: one vouches for all events up to its place."""
    _unscoped(call)
    made = await call.services.checkpoints.newest(call.limit + 1, call.position(int))
    return call.page(made, lambda last: last.sequence)


@route(
    "POST",
    "/audit/checkpoints",
    permission="audit.read",
    summary="Sign a checkpoint now",
    answers={201: Checkpoint},
    tag="audit",
)
async def sign(call: Call[None, None, None]) -> Answer:
    """Of the last event in the chain. Where there is one of it already, that is answered again."""
    _unscoped(call)
    answers: list[Answer] = []

    def also(tx: Tx, checkpoint: Checkpoint) -> None:
        answers[:] = [Answer(checkpoint, status=201)]
        call.remember(tx, answers[0])

    await call.services.checkpoints.make(also)
    return answers[0]


class Verification(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to verify against."""

    checkpoint: Checkpoint | None = None
    """One that was kept elsewhere."""
    public_key: Annotated[str, msgspec.Meta(max_length=4_000)] | None = None
    """The key it must be signed with, as PEM; without it, the one that the database has."""


class VerdictShown(msgspec.Struct, frozen=True):
    """What was found."""

    intact: bool
    verdict: Verdict


_verifying: set[int] = set()


@route(
    "POST",
    "/audit/verification",
    permission="audit.read",
    summary="Verify the log",
    body=Verification,
    answers={200: VerdictShown},
    problems=(BUSY, problems.INVALID),
    keyed=False,
    tag="audit",
)
async def verification(call: Call[None, None, Verification]) -> Answer:
    """Computes the whole chain again, which takes some seconds for each hundred thousand events."""
    _unscoped(call)
    services = call.services
    if id(services) in _verifying:
        raise Problem(BUSY, "wait for the verification that is under way", retry_after=5)
    _verifying.add(id(services))
    try:
        key = load_public(call.body.public_key.encode()) if call.body.public_key else None
        verdict = await verify(
            services.store,
            call.body.checkpoint,
            key,
            keep_days=services.settings.retention.events_days,
            now_ms=services.clock.now_ms(),
        )
    except CheckpointError as error:
        raise Problem(problems.INVALID, str(error)) from error
    finally:
        _verifying.discard(id(services))
    return Answer(VerdictShown(verdict.intact, verdict))


@route(
    "GET",
    "/audit/key",
    permission="audit.read",
    summary="Download the key that checkpoints are verified with",
    answers={200: Media((_PEM,))},
    tag="audit",
)
async def key(call: Call[None, None, None]) -> Answer:
    """An Ed25519 public key as PEM. Keep it with the checkpoints, away from this installation."""
    _unscoped(call)
    return Answer(public_pem(await call.services.checkpoints.public_key()), media=_PEM)


@route(
    "GET",
    "/metrics",
    permission="system.read",
    summary="Show metrics",
    answers={200: Media(("text/plain",))},
    tag="system",
)
async def metrics(call: Call[None, None, None]) -> Answer:
    """In Prometheus' text format, as the metrics listener serves them."""
    call.allow("system.read")
    if call.services.metrics is None:
        raise Problem(problems.NOT_FOUND, "there are metrics only of a server that runs")
    body, content_type = await call.services.metrics("")
    return Answer(body, media=content_type)


def _unscoped(call: Call[Any, Any, Any]) -> None:
    """The log tells of everything, so reading it takes the permission without a narrower scope."""
    call.allow_shared("audit.read")


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else int((moment.timestamp() + _HALF_A_MICROSECOND) * 1000)


def _shown(row: event_search.FoundEvent) -> Event:
    return Event(
        id=row.id,
        at=at(row.at_ms // 1000).replace(microsecond=row.at_ms % 1000 * 1000),
        kind=row.kind,
        subject=row.subject,
        actor=row.actor,
        origin=row.origin,
        request_id=row.trace,
        data=msgspec.json.decode(row.data, type=dict[str, Any]),
        sequence=row.sequence,
    )
