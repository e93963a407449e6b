"""Who is told what.

Approvals: ``waiting`` and ``decided`` run inside the unit that changes the approval, so that nothing is lost
when the process dies, and nothing is sent for what was rolled back. Everyone who can decide a stage gets one
email per stage; who joins an approval that waits tells nobody again. The requester is told of the outcome.

What happens to requests and certificates is taken from the audit log, which every change writes in its own
transaction: where no webhook wants to know, issuing pays nothing. ``follow`` reads on from the place it
reached, and moves that place in the transaction that makes the notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial

import msgspec

from certloom.clock import Clock
from certloom.identity.authentication import as_principal
from certloom.identity.principals import Principal, Thing
from certloom.jobs import Job, Runner, enqueue
from certloom.notifications import letters
from certloom.notifications.dispatch import Dispatch, Sender, Sent, wake
from certloom.notifications.mail import Letter, Mailer, MailFailed
from certloom.notifications.webhooks import LOGGED, Webhooks, WebhookTerms, interests, terms
from certloom.pki.identifiers import Identifier, IdentifierError, parse
from certloom.store import approvals as approval_statements
from certloom.store import certificates as certificate_statements
from certloom.store import notices as statements
from certloom.store import people as people_statements
from certloom.store import requests as request_statements
from certloom.store import webhooks as webhook_statements
from certloom.store.approvals import StoredApproval
from certloom.store.base import Store, Tx
from certloom.store.certificates import StoredCertificate
from certloom.store.ids import new_id
from certloom.store.notices import MAIL, Notice, webhook_target
from certloom.store.people import StoredPerson
from certloom.store.requests import EnrolmentRequest

APPROVERS_JOB = "notifications.approvers"

_PEOPLE = 200
"""People read at once."""
_EVENTS = 500
"""Events of the log looked at in one unit."""
_STALE_MS = 86_400_000
"""What happened longer ago is not told any more."""

_decode_letter = msgspec.json.Decoder(Letter).decode

Subscriptions = list[tuple[str, int, WebhookTerms]]


class Notices:
    """Tells people and webhooks. One per process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        runner: Runner,
        webhooks: Webhooks,
        mailer: Mailer | None,
        base_url: str,
    ) -> None:
        """``base_url`` is the HTTPS origin that links lead to; without a ``mailer`` no email is made."""
        self._store = store
        self._clock = clock
        self._mailer = mailer
        self._webhooks = webhooks
        self._base_url = base_url
        senders: dict[str, Sender] = {"webhook": webhooks}
        if mailer is not None:
            senders[MAIL] = _Letters(store, clock, mailer)
        self._dispatch = Dispatch(store, clock, runner, senders)
        runner.register(APPROVERS_JOB, self._tell_approvers)

    # -- approvals -----------------------------------------------------------------------------------------

    def waiting(self, tx: Tx, approval: StoredApproval) -> None:
        """An approval begins to wait, enters a new stage, or was changed and starts anew."""
        self._tell_of_approval(tx, approval, "approval.waiting", f"{_turn(approval)}/waiting")
        if self._mailer is not None:
            enqueue(
                tx,
                self._clock.now_ms(),
                APPROVERS_JOB,
                {"approval": approval.id, "turn": _turn(approval)},
            )

    def decided(self, tx: Tx, approval: StoredApproval) -> None:
        """An approval was granted or denied, has expired, or is withdrawn."""
        self._tell_of_approval(tx, approval, "approval.decided", f"approval/{approval.id}/decided")
        if self._mailer is None or approval.owner is None:
            return
        person = people_statements.get(tx, approval.owner)
        if person is not None and person.email and person.state == people_statements.ACTIVE:
            letter = letters.outcome(approval, person, self._url(approval))
            self._write_to(tx, person, f"approval/{approval.id}/decided", "approval.decided", letter)

    def _tell_of_approval(self, tx: Tx, approval: StoredApproval, kind: str, source: str) -> None:
        at_ms = self._clock.now_ms()
        for name, _, wanted in _subscriptions(tx):
            if wanted.wants(kind, approval.profile, approval.team):
                self._webhooks.tell(tx, name, source, kind, _approval(approval, self._url(approval)), at_ms)

    async def _tell_approvers(self, job: Job) -> Callable[[Tx], None] | None:
        """Write to everyone who can decide, as far as the approval still is where it was."""
        id, turn = str(job.payload["approval"]), str(job.payload["turn"])
        approval = await self._store.read(lambda tx: approval_statements.get(tx, id))
        if approval is None or not _is_at(approval, turn):
            return None
        found = await self._deciders(approval)

        def unit(tx: Tx) -> None:
            now = approval_statements.get(tx, id, lock=True)
            if now is None or not _is_at(now, turn):
                return
            for person in found:
                letter = letters.please_decide(now, person, self._url(now))
                self._write_to(tx, person, f"{turn}/{person.id}", "approval.waiting", letter)

        return unit

    async def _deciders(self, approval: StoredApproval) -> list[StoredPerson]:
        """Everyone with an email address who can decide the present stage."""
        found: list[StoredPerson] = []
        after = ""
        while True:
            last, some = await self._store.scan(partial(_some_deciders, approval=approval, after=after))
            found += some
            if last is None:
                return found
            after = last

    def _write_to(self, tx: Tx, person: StoredPerson, source: str, kind: str, letter: Letter) -> None:
        now_ms = self._clock.now_ms()
        made = statements.insert(
            tx,
            Notice(
                id=f"msg_{new_id(now_ms)}",
                target=MAIL,
                source=source,
                kind=kind,
                recipient=person.id,
                body=msgspec.json.encode(letter).decode(),
                due_ms=now_ms,
                created=now_ms // 1000,
            ),
        )
        if made:
            wake(tx, now_ms, MAIL)

    def _url(self, approval: StoredApproval) -> str:
        return f"{self._base_url}/console/approvals/{approval.id}"

    # -- requests and certificates -------------------------------------------------------------------------

    async def follow(self) -> int:
        """Tell webhooks what the audit log has gained; how many notices were made. Run every second."""
        told = 0
        while True:
            if not await self._store.read(self._is_behind):
                return told
            made, done = await self._store.write(self._advance)
            told += made
            if done:
                return told

    def _is_behind(self, tx: Tx) -> bool:
        """Whether some webhook wants to know of what has not been looked at."""
        if not any(interests(wanted) for _, _, wanted in _subscriptions(tx)):
            return False
        return (statements.place(tx) or 0) < statements.end_of_log(tx)

    def _advance(self, tx: Tx) -> tuple[int, bool]:
        place = statements.place(tx, lock=True) or 0
        head = statements.end_of_log(tx)
        through = min(head, place + _EVENTS)
        subscriptions = _subscriptions(tx)
        kinds = sorted({kind for _, _, wanted in subscriptions for kind in interests(wanted)})
        if not kinds or through <= place:
            return 0, True
        made = 0
        for sequence, at_ms, kind, subject in statements.happened(tx, place, through, kinds):
            made += self._tell_of_event(tx, subscriptions, sequence, at_ms, kind, subject)
        statements.set_place(tx, through)
        return made, through == head

    def _tell_of_event(
        self, tx: Tx, subscriptions: Subscriptions, sequence: int, at_ms: int, kind: str, subject: str
    ) -> int:
        if at_ms < self._clock.now_ms() - _STALE_MS:
            return 0
        made = 0
        data: dict[str, dict[str, object]] = {}
        about = _about(tx, subject)
        if about is None:
            return 0
        for name, created, wanted in subscriptions:
            for told in LOGGED[kind]:
                if at_ms // 1000 < created or not wanted.wants(told, about.profile, about.team):
                    continue
                if told not in data:
                    data[told] = _data(tx, told, about)
                source = f"event/{sequence}/{told}"
                made += self._webhooks.tell(tx, name, source, told, data[told], at_ms) is not None
        return made

    # -- upkeep --------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """See to it that whatever is due has a job. Run every minute."""
        names = await self._store.read(lambda tx: [row.name for row in webhook_statements.every(tx)])
        await self._dispatch.sweep([MAIL, *(webhook_target(name) for name in names)])

    def close(self) -> None:
        """Begin no more email."""
        if self._mailer is not None:
            self._mailer.close()


class _Letters:
    """Sends emails, unless what they ask for is no longer wanted."""

    def __init__(self, store: Store, clock: Clock, mailer: Mailer) -> None:
        self._store = store
        self._clock = clock
        self._mailer = mailer

    async def send(self, notice: Notice) -> Sent:
        """One attempt."""
        if notice.kind == "approval.waiting":
            turn = notice.source.rpartition("/")[0]
            id = turn.split("/")[1]
            approval = await self._store.read(lambda tx: approval_statements.get(tx, id))
            if approval is None or not _is_at(approval, turn):
                return Sent(state=statements.DROPPED, error="it was decided, or went on, without")
        try:
            await self._mailer.send(_decode_letter(notice.body), notice.id, self._clock.now())
        except MailFailed as failed:
            state = statements.FAILED if failed.final else statements.WAITING
            return Sent(state=state, status=failed.status, error=str(failed))
        return Sent(state=statements.DELIVERED, status=250)


def _turn(approval: StoredApproval) -> str:
    """One round of asking: a change has everybody asked anew."""
    return f"approval/{approval.id}/{len(approval.changes)}.{approval.stage}"


def _is_at(approval: StoredApproval, turn: str) -> bool:
    return approval.state == "waiting" and _turn(approval) == turn


def _some_deciders(tx: Tx, approval: StoredApproval, after: str) -> tuple[str | None, list[StoredPerson]]:
    """Those among some people, and the name to read on from; None at the end."""
    thing = Thing(
        owner=approval.owner or "",
        team=approval.team or "",
        profile=approval.profile,
        channel=f"{approval.protocol}/{approval.channel}",
        names=tuple(_identifiers(approval.effective_names)),
    )
    people = people_statements.listing(tx, _PEOPLE, after)
    found = [
        person
        for person in people
        if person.email
        and person.state == people_statements.ACTIVE
        and _can_decide(as_principal(tx, person), approval, thing)
    ]
    return (people[-1].name if len(people) == _PEOPLE else None), found


def _can_decide(principal: Principal, approval: StoredApproval, thing: Thing) -> bool:
    return (
        principal.person != approval.owner
        and not any(agreed.person == principal.person for agreed in approval.agreements)
        and principal.may("approval.decide", thing)
        and principal.has_role(approval.stages[approval.stage].role, thing)
    )


def _identifiers(names: Iterable[str]) -> Iterator[Identifier]:
    for text in names:
        type, _, value = text.partition(":")
        try:
            yield parse(type, value)
        except IdentifierError:
            continue  # the store holds what was parsed before


def _subscriptions(tx: Tx) -> Subscriptions:
    """Name, time of creation and terms of the webhooks that are enabled."""
    found = [(row.name, row.created, terms(row)) for row in webhook_statements.every(tx)]
    return [entry for entry in found if entry[2].enabled]


def _about(tx: Tx, subject: str) -> StoredCertificate | EnrolmentRequest | None:
    thing, _, id = subject.partition(":")
    if thing == "certificate":
        return certificate_statements.get(tx, int(id))
    return request_statements.get(tx, id)


def _data(tx: Tx, told: str, about: StoredCertificate | EnrolmentRequest) -> dict[str, object]:
    if isinstance(about, EnrolmentRequest):
        return _request(about)
    if told == "request.issued":
        request = request_statements.get(tx, about.request_id)
        return {**(_request(request) if request is not None else {}), "certificate": about.id}
    return _certificate(about)


def _certificate(c: StoredCertificate) -> dict[str, object]:
    return {
        "id": c.id,
        "authority": c.authority,
        "serial": c.serial.hex(),
        "fingerprint": c.fingerprint.hex(),
        "names": c.names,
        "not_before": _rfc3339(c.not_before),
        "not_after": _rfc3339(c.not_after),
        "profile": c.profile,
        "profile_version": c.profile_version,
        "requester": c.requester,
        "owner": c.owner,
        "team": c.team,
        "request": c.request_id,
        **({} if c.revoked is None else {"revoked": _rfc3339(c.revoked), "reason": c.revocation_reason}),
    }


def _request(r: EnrolmentRequest) -> dict[str, object]:
    return {
        "id": r.id,
        "state": r.state,
        "protocol": r.protocol,
        "channel": r.channel,
        "profile": r.profile,
        "requester": r.requester,
        "owner": r.owner,
        "team": r.team,
        "approval": r.approval_id,
        "certificate": r.certificate_id,
        "reasons": msgspec.to_builtins(r.reasons),
        "created": _rfc3339(r.created),
    }


def _approval(a: StoredApproval, url: str) -> dict[str, object]:
    return {
        "id": a.id,
        "state": a.state,
        "protocol": a.protocol,
        "channel": a.channel,
        "profile": a.profile,
        "requester": a.requester,
        "owner": a.owner,
        "team": a.team,
        "names": a.effective_names,
        "stage": a.stage,
        "stages": msgspec.to_builtins(a.stages),
        "agreed": len(a.agreements),
        "created": _rfc3339(a.created),
        "expires": _rfc3339(a.expires),
        "url": url,
    }


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
