"""Webhooks: who is posted what, and the posting (Standard Webhooks).

Each message is signed (``signatures``), carries an id that stays the same over all attempts, and has been
delivered when the receiver answers 2xx. 410 disables the webhook; everything else is tried again.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from certloom.audit import SYSTEM, Origin, record
from certloom.clock import Clock
from certloom.notifications import signatures
from certloom.notifications.dispatch import Sent, wake
from certloom.outbound.http import HTTPClient, HTTPFailed
from certloom.secrets import DataKey
from certloom.store import notices
from certloom.store import webhooks as statements
from certloom.store.base import Store, Tx
from certloom.store.ids import new_id
from certloom.store.notices import Notice, webhook_target
from certloom.store.webhooks import StoredWebhook

EventType = Literal[
    "approval.waiting",
    "approval.decided",
    "request.issued",
    "request.denied",
    "request.failed",
    "certificate.issued",
    "certificate.revoked",
]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
LOGGED: dict[str, tuple[str, ...]] = {
    "certificate.issued": ("certificate.issued", "request.issued"),
    "certificate.revoked": ("certificate.revoked",),
    "request.denied": ("request.denied",),
    "request.failed": ("request.failed",),
}
"""Which of them an event of the audit log is."""
TEST = "webhook.test"
MOST = 100
"""Webhooks that there may be."""
OVERLAP = 86_400
"""Seconds after a rotation in which messages are signed with the secret before as well."""

_SECONDS = 15.0
_ANSWER_BYTES = 65_536
_GONE = 410

_Names = tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=63)], ...]


class WebhookTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operator says about a webhook."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    """Where messages are posted: http or https. Redirects are not followed."""
    events: Annotated[tuple[EventType, ...], msgspec.Meta(min_length=1, max_length=len(EVENT_TYPES))]
    """What it is told."""
    profiles: Annotated[_Names, msgspec.Meta(max_length=100)] = ()
    """Only what concerns these profiles; none means any."""
    teams: Annotated[_Names, msgspec.Meta(max_length=100)] = ()
    """Only what belongs to these teams; none means any, or no team at all."""
    enabled: bool = True
    """While it is not, what happens is not kept for it."""
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""

    def wants(self, kind: str, profile: str, team: str | None) -> bool:
        """Whether it is told of such an event."""
        return (
            self.enabled
            and kind in self.events
            and (not self.profiles or profile in self.profiles)
            and (not self.teams or team in self.teams)
        )


class BadWebhook(ValueError):
    """The webhook cannot be as asked. The message says why."""


_decode = msgspec.json.Decoder(WebhookTerms).decode


def terms(webhook: StoredWebhook) -> WebhookTerms:
    """What was said about a stored webhook."""
    return _decode(webhook.body)


def interests(wanted: WebhookTerms) -> set[str]:
    """The kinds of events of the audit log that a webhook's events come from."""
    return {kind for kind, told in LOGGED.items() if any(event in wanted.events for event in told)}


def check(wanted: WebhookTerms) -> None:
    """Raises ``BadWebhook``."""
    url = wanted.url
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadWebhook("the URL holds characters that must be escaped")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadWebhook(f"the URL cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadWebhook("expected an http or https URL")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise BadWebhook("the URL must have neither a user name nor a fragment")
    if len(set(wanted.events)) != len(wanted.events):
        raise BadWebhook("an event is named twice")


class Webhooks:
    """Makes, changes and serves webhooks. Everything but ``send`` runs inside the caller's unit."""

    def __init__(self, store: Store, clock: Clock, data_key: DataKey, client: HTTPClient) -> None:
        self._store = store
        self._clock = clock
        self._data_key = data_key
        self._client = client

    # -- what operators do ---------------------------------------------------------------------------------

    def create(self, tx: Tx, name: str, wanted: WebhookTerms, origin: Origin) -> tuple[StoredWebhook, str]:
        """Make one; answers it with its secret, which is shown this once.

        Raises ``BadWebhook``, or ``Conflict`` when the name is taken.
        """
        check(wanted)
        if statements.count(tx) >= MOST:
            raise BadWebhook(f"there are {MOST} webhooks already")
        self._begin_following(tx, wanted)
        now = self._clock.now()
        secret = signatures.new_secret()
        made = StoredWebhook(
            name=name, body=_text(wanted), secret_sealed=self._seal(name, secret), created=now, updated=now
        )
        statements.insert(tx, made)
        self._record(tx, "webhook.created", name, origin, {"before": None, "after": _shown(wanted)})
        return made, secret

    def change(self, tx: Tx, webhook: StoredWebhook, wanted: WebhookTerms, origin: Origin) -> StoredWebhook:
        """Change one that was read (locked) in this unit. Raises ``BadWebhook``."""
        check(wanted)
        before = terms(webhook)
        self._begin_following(tx, wanted)
        changed = self._update(tx, webhook, body=_text(wanted))
        if before.enabled and not wanted.enabled:
            notices.drop_waiting(
                tx, webhook_target(webhook.name), self._clock.now(), "the webhook was disabled"
            )
        self._record(
            tx,
            "webhook.changed",
            webhook.name,
            origin,
            {"before": _shown(before), "after": _shown(wanted)},
        )
        return changed

    def rotate(
        self, tx: Tx, webhook: StoredWebhook, origin: Origin, overlap: int = OVERLAP
    ) -> tuple[StoredWebhook, str]:
        """Give one that was read (locked) in this unit a new secret; answers it with that secret.

        For ``overlap`` seconds messages are signed with the secret before as well.
        """
        secret = signatures.new_secret()
        until = self._clock.now() + overlap
        changed = self._update(
            tx,
            webhook,
            secret_sealed=self._seal(webhook.name, secret),
            previous_sealed=webhook.secret_sealed if overlap else None,
            previous_until=until if overlap else None,
        )
        self._record(tx, "webhook.rotated", webhook.name, origin, {"overlap": overlap})
        return changed, secret

    def delete(self, tx: Tx, webhook: StoredWebhook, origin: Origin) -> None:
        """Delete one that was read (locked) in this unit; what waits for it is dropped."""
        statements.delete(tx, webhook.name)
        notices.drop_waiting(tx, webhook_target(webhook.name), self._clock.now(), "the webhook was deleted")
        self._record(
            tx, "webhook.deleted", webhook.name, origin, {"before": _shown(terms(webhook)), "after": None}
        )

    def test(self, tx: Tx, webhook: StoredWebhook, origin: Origin) -> Notice:
        """Send a message that means nothing, to see whether it arrives; answers it as it waits."""
        now_ms = self._clock.now_ms()
        notice = self.tell(
            tx, webhook.name, f"test/{new_id(now_ms)}", TEST, {"webhook": webhook.name}, now_ms
        )
        assert notice is not None
        self._record(tx, "webhook.tested", webhook.name, origin, {"notice": notice.id})
        return notice

    def tell(
        self, tx: Tx, name: str, source: str, kind: str, data: dict[str, object], at_ms: int
    ) -> Notice | None:
        """Have a webhook told of something, once; None when it was told of that source before."""
        now_ms = self._clock.now_ms()
        notice = Notice(
            id=f"msg_{new_id(now_ms)}",
            target=webhook_target(name),
            source=source,
            kind=kind,
            recipient=name,
            body=msgspec.json.encode({"type": kind, "timestamp": _rfc3339(at_ms), "data": data}).decode(),
            due_ms=now_ms,
            created=now_ms // 1000,
        )
        if not notices.insert(tx, notice):
            return None
        wake(tx, now_ms, notice.target)
        return notice

    def _begin_following(self, tx: Tx, wanted: WebhookTerms) -> None:
        """Where nobody was told what the audit log gains, begin with what it gains from now on."""
        if not (wanted.enabled and interests(wanted)):
            return
        others = (terms(row) for row in statements.every(tx))
        if not any(other.enabled and interests(other) for other in others):
            notices.set_place(tx, notices.end_of_log(tx))

    # -- delivery ------------------------------------------------------------------------------------------

    async def send(self, notice: Notice) -> Sent:
        """One attempt at delivering a message."""
        name = notice.recipient
        webhook = await self._store.read(lambda tx: statements.get(tx, name))
        if webhook is None or not terms(webhook).enabled:
            return Sent(state=notices.DROPPED, error="the webhook is no more, or is disabled")
        body = notice.body.encode()
        now = self._clock.now()
        headers = {
            "content-type": "application/json",
            **signatures.headers(self._secrets(webhook, now), notice.id, now, body),
        }
        try:
            answer = await self._client.request(
                "POST",
                terms(webhook).url,
                headers=headers,
                body=body,
                seconds=_SECONDS,
                body_limit=_ANSWER_BYTES,
            )
        except HTTPFailed as failed:
            return self._failed(name, None, str(failed)[:500])
        if 200 <= answer.status < 300:
            at = self._clock.now()
            return Sent(
                state=notices.DELIVERED,
                status=answer.status,
                also=lambda tx: statements.note_success(tx, name, at),
            )
        if answer.status == _GONE:
            return self._gone(name)
        return self._failed(name, answer.status, f"the receiver answered {answer.status}")

    def _failed(self, name: str, status: int | None, error: str) -> Sent:
        now = self._clock.now()
        return Sent(
            state=notices.WAITING,
            status=status,
            error=error,
            also=lambda tx: statements.note_failure(tx, name, now, error),
        )

    def _gone(self, name: str) -> Sent:
        error = "the receiver answered 410: it wants no more"

        def disable(tx: Tx) -> None:
            webhook = statements.get(tx, name, lock=True)
            if webhook is None:
                return
            before = terms(webhook)
            statements.note_failure(tx, name, self._clock.now(), error)
            if before.enabled:
                self._update(tx, webhook, body=_text(msgspec.structs.replace(before, enabled=False)))
                notices.drop_waiting(tx, webhook_target(name), self._clock.now(), error)
                self._record(tx, "webhook.disabled", name, SYSTEM, {"why": error})

        return Sent(state=notices.FAILED, status=_GONE, error=error, also=disable)

    def _secrets(self, webhook: StoredWebhook, now: int) -> list[str]:
        """Those in force: the present one, and during a rotation's overlap the one before."""
        sealed = [webhook.secret_sealed]
        if webhook.previous_sealed is not None and (webhook.previous_until or 0) > now:
            sealed.append(webhook.previous_sealed)
        return [self._data_key.open(_purpose(webhook.name), value).decode() for value in sealed]

    def _seal(self, name: str, secret: str) -> bytes:
        return self._data_key.seal(_purpose(name), secret.encode())

    def _update(self, tx: Tx, webhook: StoredWebhook, **changes: object) -> StoredWebhook:
        changed = msgspec.structs.replace(webhook, updated=self._clock.now(), **changes)
        statements.update(tx, changed)
        return msgspec.structs.replace(changed, revision=webhook.revision + 1)

    def _record(self, tx: Tx, kind: str, name: str, origin: Origin, data: dict[str, object]) -> None:
        record(tx, self._clock.now_ms(), kind, f"webhook:{name}", origin, data)


def _purpose(name: str) -> str:
    return f"webhook:{name}"


def _text(wanted: WebhookTerms) -> str:
    return msgspec.json.encode(wanted).decode()


def _shown(wanted: WebhookTerms) -> object:
    return msgspec.to_builtins(wanted)


def _rfc3339(at_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
