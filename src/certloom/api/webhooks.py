"""Webhooks: where programs are told what happens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, at, at_or_none, etag, route
from certloom.identity.delegation import covers
from certloom.identity.principals import Scope
from certloom.notifications.webhooks import OVERLAP, BadWebhook, WebhookTerms, terms
from certloom.store import notices as notice_statements
from certloom.store import webhooks as statements
from certloom.store.base import Conflict, Tx
from certloom.store.notices import Notice, webhook_target
from certloom.store.webhooks import StoredWebhook

_TAG = "webhooks"


class WebhookPath(msgspec.Struct, frozen=True):
    name: Name


class Webhook(msgspec.Struct, frozen=True):
    """A webhook, without its secret."""

    name: str
    url: str
    events: tuple[str, ...]
    profiles: tuple[str, ...]
    teams: tuple[str, ...]
    enabled: bool
    description: str
    created: datetime
    updated: datetime
    previous_secret_until: datetime | None
    """Until when, after a rotation, messages are signed with the secret before as well."""
    last_success: datetime | None
    last_failure: datetime | None
    last_error: str | None


class WebhookWithSecret(msgspec.Struct, frozen=True):
    """A webhook and its secret, which is shown this once."""

    webhook: Webhook
    secret: str
    """``whsec_`` and base64, as libraries for Standard Webhooks take it."""


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Told(msgspec.Struct, frozen=True):
    """Of a ``WebhookWithSecret``, which one it is."""

    webhook: _Named


class NewWebhook(WebhookTerms, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A webhook that is to be made."""

    name: Name


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the secret is to be changed."""

    overlap: Annotated[int, msgspec.Meta(ge=0, le=30 * 86_400)] = OVERLAP
    """Seconds in which messages are signed with the secret before as well."""


class Delivery(msgspec.Struct, frozen=True):
    """One message to a webhook."""

    id: str
    """The ``webhook-id`` of all its attempts."""
    event: str
    state: str
    """``waiting``, ``delivered``, ``failed`` or ``dropped``."""
    attempts: int
    created: datetime
    next_attempt: datetime | None
    finished: datetime | None
    status: int | None
    """The receiver's last answer."""
    error: str | None


@route(
    "GET",
    "/webhooks",
    permission="webhook.read",
    summary="List webhooks",
    query=Paging,
    answers={200: Page[Webhook]},
    tag=_TAG,
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """By name."""
    after = call.position(str) or ""
    rows = await call.services.store.read(statements.every)
    seen = [row for row in rows if row.name > after and _may(call, "webhook.read", terms(row))]
    return call.page([_shown(row) for row in seen], lambda shown: shown.name)


async def _shown_again(call: Call[Any, Any, Any], body: bytes) -> None:
    """Who may no longer make or rotate it is not told its secret once more."""
    name = msgspec.json.decode(body, type=_Told).webhook.name
    row = await call.services.store.read(lambda tx: statements.get(tx, name))
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such webhook any more")
    _allow(call, terms(row))


@route(
    "POST",
    "/webhooks",
    permission="webhook.write",
    summary="Make a webhook",
    body=NewWebhook,
    answers={201: WebhookWithSecret},
    problems=(problems.CONFLICT, problems.INVALID),
    tag=_TAG,
    again=_shown_again,
)
async def create(call: Call[None, None, NewWebhook]) -> Answer:
    """The answer shows the secret, once."""
    body = call.body
    wanted = WebhookTerms(**{f: getattr(body, f) for f in WebhookTerms.__struct_fields__})
    _allow(call, wanted)

    def unit(tx: Tx) -> Answer:
        try:
            made, secret = call.services.webhooks.create(tx, body.name, wanted, call.origin)
        except BadWebhook as error:
            raise Problem(problems.INVALID, str(error)) from None
        return Answer(
            WebhookWithSecret(_shown(made), secret),
            status=201,
            etag=_etag(made),
            location=f"/webhooks/{made.name}",
        )

    try:
        return await call.create(unit)
    except Conflict:
        raise Problem(problems.CONFLICT, f"there is a webhook {body.name!r} already") from None


@route(
    "GET",
    "/webhooks/{name}",
    permission="webhook.read",
    summary="Show a webhook",
    path=WebhookPath,
    answers={200: Webhook},
    problems=(problems.NOT_FOUND,),
    etag=True,
    tag=_TAG,
)
async def show(call: Call[WebhookPath, None, None]) -> Answer:
    """With when it last worked, and what went wrong last."""
    row = await call.services.store.read(lambda tx: _found(call, tx, "webhook.read"))
    return Answer(_shown(row), etag=_etag(row))


@route(
    "PUT",
    "/webhooks/{name}",
    permission="webhook.write",
    summary="Change a webhook",
    path=WebhookPath,
    body=WebhookTerms,
    answers={200: Webhook},
    problems=(problems.NOT_FOUND, problems.INVALID),
    edits=True,
    tag=_TAG,
)
async def put(call: Call[WebhookPath, None, WebhookTerms]) -> Answer:
    """Everything but its name and its secret. Disabling it drops what waits for it."""

    def unit(tx: Tx) -> Answer:
        row = _found(call, tx, "webhook.write", lock=True)
        call.require_match(_etag(row))
        _allow(call, call.body)
        try:
            changed = call.services.webhooks.change(tx, row, call.body, call.origin)
        except BadWebhook as error:
            raise Problem(problems.INVALID, str(error)) from None
        return Answer(_shown(changed), etag=_etag(changed))

    return await call.write(unit)


@route(
    "DELETE",
    "/webhooks/{name}",
    permission="webhook.write",
    summary="Delete a webhook",
    path=WebhookPath,
    answers={204: None},
    problems=(problems.NOT_FOUND,),
    edits=True,
    tag=_TAG,
)
async def delete(call: Call[WebhookPath, None, None]) -> Answer:
    """What waits for it is dropped."""

    def unit(tx: Tx) -> Answer:
        row = _found(call, tx, "webhook.write", lock=True)
        call.require_match(_etag(row))
        call.services.webhooks.delete(tx, row, call.origin)
        return Answer(status=204)

    return await call.write(unit)


@route(
    "POST",
    "/webhooks/{name}/rotate",
    permission="webhook.write",
    summary="Give a webhook a new secret",
    path=WebhookPath,
    body=Rotation,
    answers={200: WebhookWithSecret},
    problems=(problems.NOT_FOUND,),
    tag=_TAG,
    again=_shown_again,
)
async def rotate(call: Call[WebhookPath, None, Rotation]) -> Answer:
    """The answer shows it, once. During the overlap messages carry a signature by each of the two."""

    def unit(tx: Tx) -> Answer:
        row = _found(call, tx, "webhook.write", lock=True)
        changed, secret = call.services.webhooks.rotate(tx, row, call.origin, call.body.overlap)
        return Answer(WebhookWithSecret(_shown(changed), secret), etag=_etag(changed))

    return await call.create(unit)


@route(
    "POST",
    "/webhooks/{name}/test",
    permission="webhook.write",
    summary="Send a test message",
    path=WebhookPath,
    answers={202: Delivery},
    problems=(problems.NOT_FOUND, problems.CONFLICT),
    tag=_TAG,
)
async def test(call: Call[WebhookPath, None, None]) -> Answer:
    """A message of the type ``webhook.test``; the listing of its deliveries tells what became of it."""

    def unit(tx: Tx) -> Answer:
        row = _found(call, tx, "webhook.write", lock=True)
        if not terms(row).enabled:
            raise Problem(problems.CONFLICT, "the webhook is disabled")
        notice = call.services.webhooks.test(tx, row, call.origin)
        return Answer(_delivery(notice), status=202, location=f"/webhooks/{row.name}/deliveries")

    return await call.create(unit)


@route(
    "GET",
    "/webhooks/{name}/deliveries",
    permission="webhook.read",
    summary="List a webhook's messages",
    path=WebhookPath,
    query=Paging,
    answers={200: Page[Delivery]},
    problems=(problems.NOT_FOUND,),
    tag=_TAG,
)
async def deliveries(call: Call[WebhookPath, Paging, None]) -> Answer:
    """Newest first: those that wait, and those that ended as long as they are kept."""
    before = call.position(str)

    def unit(tx: Tx) -> list[Notice]:
        row = _found(call, tx, "webhook.read")
        target = webhook_target(row.name)
        return notice_statements.listing(tx, target, call.limit + 1, before=before, since=row.created)

    rows = await call.services.store.scan(unit)
    return call.page([_delivery(row) for row in rows], lambda shown: shown.id)


def _found(
    call: Call[WebhookPath, Any, Any], tx: Tx, permission: str, *, lock: bool = False
) -> StoredWebhook:
    """The webhook of the path. Raises 404 where there is none that they may see, and 403."""
    row = statements.get(tx, call.path.name, lock=lock)
    if row is None or not _may(call, "webhook.read", terms(row)):
        raise Problem(problems.NOT_FOUND, "there is no such webhook, or it is not yours to see")
    if not _may(call, permission, terms(row)):
        raise Problem(problems.FORBIDDEN, f"this takes the permission {permission} for all that it is told")
    return row


def _may(call: Call[Any, Any, Any], permission: str, wanted: WebhookTerms) -> bool:
    """Whether they have it for everything the webhook is told: it must not tell what they may not see."""
    return covers(call.principal, permission, Scope(teams=wanted.teams, profiles=wanted.profiles))


def _allow(call: Call[Any, Any, Any], wanted: WebhookTerms) -> None:
    if not _may(call, "webhook.write", wanted):
        raise Problem(
            problems.FORBIDDEN,
            "this takes the permission webhook.write for all teams and profiles it is told of",
        )


def _etag(row: StoredWebhook) -> str:
    return etag("webhook", row.name, row.created, row.revision)


def _shown(row: StoredWebhook) -> Webhook:
    said = terms(row)
    return Webhook(
        name=row.name,
        url=said.url,
        events=said.events,
        profiles=said.profiles,
        teams=said.teams,
        enabled=said.enabled,
        description=said.description,
        created=at(row.created),
        updated=at(row.updated),
        previous_secret_until=at_or_none(row.previous_until),
        last_success=at_or_none(row.last_success),
        last_failure=at_or_none(row.last_failure),
        last_error=row.last_error,
    )


def _delivery(notice: Notice) -> Delivery:
    waits = notice.state == notice_statements.WAITING
    return Delivery(
        id=notice.id,
        event=notice.kind,
        state=notice.state,
        attempts=notice.attempts,
        created=at(notice.created),
        next_attempt=at(notice.due_ms // 1000) if waits else None,
        finished=at_or_none(notice.finished),
        status=notice.status,
        error=notice.error,
    )
