"""The one way from an ask to a certificate, whichever protocol brings it.

    ask ─▶ policy (profile, facts) ─▶ refuse: raised as ``Refused``, nothing is stored
                                   ─▶ ask people: stored as ``awaiting_approval``
                                   ─▶ issue: the authority makes it, then request, certificate, event and
                                      whatever the protocol adds are committed in one unit

An authority that answers at once is asked before anything is stored: a crash in between leaves a reserved
serial (burned at the next start) and a client that asks again. One that takes its time is asked by a job,
after ``issuing`` has been committed; so is any request that people approved. Each ask carries an idempotency
key: the same key with the same CSR bytes is answered with the request it already made.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from certloom.audit import SYSTEM, Origin, record
from certloom.authorities.base import AuthorityError, AuthorityUnavailable, Issued
from certloom.clock import Clock
from certloom.enrollment.books import Books, UnknownName
from certloom.enrollment.errors import Refused, Unavailable
from certloom.enrollment.states import Act, State, after
from certloom.inventory import ledger
from certloom.jobs import Job, Runner, enqueue
from certloom.pki.csr import CertificateRequest
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import KeyRejected, check_fit, facts_of
from certloom.pki.names import Name
from certloom.policy.decide import decide
from certloom.policy.decisions import CertificateContents, Decision, Facts, Outcome, Reason, Requester
from certloom.store import certificates as certificate_statements
from certloom.store import requests as statements
from certloom.store.base import Conflict, Store, StoreError, Tx
from certloom.store.ids import new_id
from certloom.store.requests import Approval, EnrolmentRequest

_log = structlog.get_logger(__name__)

Also = Callable[[Tx, EnrolmentRequest], None]
"""What a protocol writes in the same transaction as the request."""

ISSUE_JOB = "enrollment.issue"
_RETRIES = (5, 15, 60, 300, 900, 3600)


class Ask(msgspec.Struct, frozen=True):
    """One ask for one certificate, as a protocol brings it."""

    protocol: str
    channel: str
    profile: str
    requester: Requester
    csr: CertificateRequest
    """Parsed, its proof of possession verified."""
    identifiers: tuple[Identifier, ...]
    """What the certificate is to name; who asks has shown control of each, as the protocol demands."""
    origin: Origin
    idempotency_key: str | None = None
    not_before: int | None = None
    not_after: int | None = None
    replaces: int | None = None
    """The id of the certificate that this one succeeds."""


class _Remembered(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked. ``spki`` and ``subject`` are kept only where it must be decided again later."""

    identifiers: tuple[Identifier, ...]
    not_before: int | None = None
    not_after: int | None = None
    replaces: int | None = None
    spki: bytes = b""
    subject: Name = Name()


_remember = msgspec.json.Encoder().encode
_recall = msgspec.json.Decoder(_Remembered).decode


class Enrollment:
    """The pipeline. One per process."""

    def __init__(self, store: Store, clock: Clock, books: Books, runner: Runner) -> None:
        self._store = store
        self._clock = clock
        self._books = books
        runner.register(ISSUE_JOB, self._issue_approved, retries=_RETRIES, on_exhausted=self._give_up)

    async def submit(self, ask: Ask, also: Also | None = None) -> EnrolmentRequest:
        """Take an ask as far as it goes now.

        Answers a request that is ``issued``, ``awaiting_approval`` or ``issuing`` (or, for a repeated ask,
        whatever became of it). ``also`` runs in the unit that stores it. Raises ``Refused`` (nothing was
        stored) or ``Unavailable`` (ask again).
        """
        try:
            check_fit(ask.csr.key)
        except KeyRejected as error:
            raise Refused(Reason(error.code, str(error))) from error
        spki_sha256 = ask.csr.key.spki_sha256
        key = ask.idempotency_key

        def look(tx: Tx) -> tuple[EnrolmentRequest | None, bool]:
            known = statements.by_idempotency_key(tx, key) if key is not None else None
            return known, certificate_statements.is_blocked(tx, spki_sha256)

        try:
            known, blocked = await self._store.read(look)
            if known is not None:
                return _same(known, ask)
            decision = self._decide(ask, blocked)
            if decision.outcome is Outcome.REFUSE:
                raise Refused(*decision.reasons)
            assert decision.contents is not None
            request = self._received(ask, decision)
            if decision.outcome is Outcome.ASK:
                return await self._store_waiting(request, decision, ask, also)
            authority = self._books.authority(decision.contents.authority)
            if not authority.immediate:
                return await self._store_issuing(request, ask, also)
            issued = await authority.issue(decision.contents)
            return await self._store_issued(request, decision.contents, issued, ask, also)
        except Conflict:
            # Another ask with this key was faster; what was signed here is never shown and its serial burns.
            if key is not None:
                known = await self._store.read(lambda tx: statements.by_idempotency_key(tx, key))
                if known is not None:
                    return _same(known, ask)
            raise
        except UnknownName as error:
            raise Refused(Reason("not-configured", str(error))) from error
        except AuthorityUnavailable as error:
            raise Unavailable(Reason(error.code, str(error))) from error
        except AuthorityError as error:
            raise Refused(Reason(error.code, str(error))) from error
        except StoreError as error:
            _log.error("enrollment.store_failed", error=str(error), trace=ask.origin.trace)
            raise Unavailable(Reason("store-unavailable", "the request could not be recorded")) from error

    def _decide(self, ask: Ask, blocked: bool) -> Decision:
        profile, version = self._books.profile(ask.profile)
        return decide(
            profile,
            version,
            Facts(
                now=self._clock.now(),
                protocol=ask.protocol,
                channel=ask.channel,
                requester=ask.requester,
                key=ask.csr.key,
                key_is_blocked=blocked,
                identifiers=ask.identifiers,
                csr_subject=ask.csr.subject,
                not_before=ask.not_before,
                not_after=ask.not_after,
                authority_not_after=self._books.authority(profile.authority).not_after,
            ),
        )

    def _received(self, ask: Ask, decision: Decision) -> EnrolmentRequest:
        assert decision.contents is not None
        now = self._clock.now()
        return EnrolmentRequest(
            id=new_id(self._clock.now_ms()),
            state=State.RECEIVED,
            protocol=ask.protocol,
            channel=ask.channel,
            requester=_text(ask.requester),
            profile=ask.profile,
            profile_version=decision.contents.profile_version,
            ask=_remember(_Remembered(ask.identifiers, ask.not_before, ask.not_after, ask.replaces)).decode(),
            csr=ask.csr.der,
            reasons=decision.reasons,
            approvals_needed=sum(s.approvers for s in decision.approval.stages) if decision.approval else 0,
            idempotency_key=ask.idempotency_key,
            created=now,
            updated=now,
        )

    async def _store_waiting(
        self, request: EnrolmentRequest, decision: Decision, ask: Ask, also: Also | None
    ) -> EnrolmentRequest:
        waiting = msgspec.structs.replace(
            request,
            state=after(request.state, Act.ASK),
            expires=self._clock.now() + (decision.approval.wait if decision.approval else 0),
        )
        return await self._store_open(waiting, ask, also, job=False)

    async def _store_issuing(
        self, request: EnrolmentRequest, ask: Ask, also: Also | None
    ) -> EnrolmentRequest:
        issuing = msgspec.structs.replace(request, state=after(request.state, Act.APPROVE, Act.START))
        return await self._store_open(issuing, ask, also, job=True)

    async def _store_open(
        self, request: EnrolmentRequest, ask: Ask, also: Also | None, *, job: bool
    ) -> EnrolmentRequest:
        remembered = _Remembered(
            ask.identifiers, ask.not_before, ask.not_after, ask.replaces, ask.csr.key.spki, ask.csr.subject
        )
        request = msgspec.structs.replace(request, ask=_remember(remembered).decode())

        def unit(tx: Tx) -> None:
            statements.insert(tx, request)
            self._record(tx, request, ask.origin, {"names": [str(i) for i in ask.identifiers]})
            if job:
                enqueue(tx, self._clock.now_ms(), ISSUE_JOB, {"request": request.id})
            if also is not None:
                also(tx, request)

        await self._store.write(unit)
        return request

    async def _store_issued(
        self,
        request: EnrolmentRequest,
        contents: CertificateContents,
        issued: Issued,
        ask: Ask,
        also: Also | None,
    ) -> EnrolmentRequest:
        state = after(request.state, Act.APPROVE, Act.START, Act.ISSUE)
        key = ask.csr.key

        def unit(tx: Tx) -> EnrolmentRequest:
            if certificate_statements.is_blocked(tx, key.spki_sha256):
                raise Refused(Reason("key-blocked", "the key is on the blocklist"))
            id = ledger.enter_issued(
                tx,
                self._clock,
                issued,
                contents,
                key.spki_sha256,
                requester=request.requester,
                request_id=request.id,
                replaces=ask.replaces,
                origin=ask.origin,
            )
            done = msgspec.structs.replace(request, state=state, certificate_id=id)
            statements.insert(tx, done)
            if also is not None:
                also(tx, done)
            return done

        try:
            return await self._store.write(unit)
        except ledger.NotReserved as error:
            raise Unavailable(Reason("serial-lost", str(error))) from error

    async def _issue_approved(self, job: Job) -> Callable[[Tx], None] | None:
        """Ask the authority on behalf of a request that is ``approved`` or ``issuing``.

        Decided again, by the profile's version at the time of the ask, since time has passed: a key may have
        been blocked since. May run again after a crash; only one certificate is ever recorded.
        """
        id = str(job.payload["request"])
        request = await self._store.read(lambda tx: statements.get(tx, id))
        if request is None or request.state not in (State.APPROVED, State.ISSUING):
            return None
        asked = _recall(request.ask)
        key = facts_of(asked.spki)
        kind, _, requester_id = request.requester.partition(":")
        profile, version = self._books.profile(request.profile, request.profile_version)
        blocked = await self._store.read(lambda tx: certificate_statements.is_blocked(tx, key.spki_sha256))
        decision = decide(
            profile,
            version,
            Facts(
                now=self._clock.now(),
                protocol=request.protocol,
                channel=request.channel,
                requester=Requester(kind, requester_id),
                key=key,
                key_is_blocked=blocked,
                identifiers=asked.identifiers,
                csr_subject=asked.subject,
                not_before=asked.not_before,
                not_after=asked.not_after,
                approved=True,
                authority_not_after=self._books.authority(profile.authority).not_after,
            ),
        )
        if decision.outcome is not Outcome.ISSUE or decision.contents is None:
            return self._failure(id, decision.reasons)
        contents = decision.contents
        try:
            issued = await self._books.authority(contents.authority).issue(contents)
        except AuthorityUnavailable:
            raise  # tried again, as often as ``_RETRIES`` says
        except AuthorityError as error:
            return self._failure(id, (Reason(error.code, str(error)),))

        def unit(tx: Tx) -> None:
            now = statements.get(tx, id, lock=True)
            if now is None or now.state not in (State.APPROVED, State.ISSUING):
                return
            acts = (Act.START, Act.ISSUE) if now.state == State.APPROVED else (Act.ISSUE,)
            certificate_id = ledger.enter_issued(
                tx,
                self._clock,
                issued,
                contents,
                key.spki_sha256,
                requester=now.requester,
                request_id=id,
                replaces=asked.replaces,
                origin=SYSTEM,
            )
            self.transition(tx, now, SYSTEM, *acts, certificate_id=certificate_id)

        return unit

    def _failure(self, id: str, reasons: tuple[Reason, ...]) -> Callable[[Tx], None]:
        def unit(tx: Tx) -> None:
            request = statements.get(tx, id, lock=True)
            if request is not None and request.state in (State.APPROVED, State.ISSUING):
                self.transition(tx, request, SYSTEM, Act.FAIL, reasons=reasons)

        return unit

    def _give_up(self, job: Job) -> Callable[[Tx], None]:
        reason = Reason("authority-unavailable", "the authority did not answer")
        return self._failure(str(job.payload["request"]), (reason,))

    def transition(
        self,
        tx: Tx,
        request: EnrolmentRequest,
        origin: Origin,
        *acts: Act,
        certificate_id: int | None = None,
        reasons: tuple[Reason, ...] | None = None,
        approvals: tuple[Approval, ...] | None = None,
    ) -> EnrolmentRequest:
        """Move a request that was read (locked) in this same unit. Raises ``IllegalAct``."""
        changed = msgspec.structs.replace(
            request,
            state=after(request.state, *acts),
            certificate_id=certificate_id,
            reasons=request.reasons if reasons is None else reasons,
            approvals=request.approvals if approvals is None else approvals,
            updated=self._clock.now(),
        )
        if not statements.update(tx, changed, request.state):
            raise Conflict(f"request {request.id} is no longer {request.state}")
        self._record(tx, changed, origin, {"reasons": [reason.code for reason in changed.reasons]})
        return changed

    def cancel_of(self, tx: Tx, requester: Requester, origin: Origin) -> int:
        """Withdraw what a requester who is no more still waits for; answer how many that was."""
        waiting = statements.waiting_of(tx, _text(requester))
        for request in waiting:
            self.transition(tx, request, origin, Act.CANCEL)
        return len(waiting)

    def note_approval(
        self, tx: Tx, request: EnrolmentRequest, approvals: tuple[Approval, ...], origin: Origin
    ) -> EnrolmentRequest:
        """Keep one agreement of several, of a request that was read (locked) in this same unit."""
        changed = msgspec.structs.replace(request, approvals=approvals, updated=self._clock.now())
        if not statements.update(tx, changed, request.state):
            raise Conflict(f"request {request.id} is no longer {request.state}")
        record(tx, self._clock.now_ms(), "request.agreed", f"request:{request.id}", origin)
        return changed

    def _record(
        self, tx: Tx, request: EnrolmentRequest, origin: Origin, data: dict[str, object] | None = None
    ) -> None:
        record(
            tx,
            self._clock.now_ms(),
            f"request.{request.state}",
            f"request:{request.id}",
            origin,
            {"requester": request.requester, "profile": request.profile, **(data or {})},
        )


def _text(requester: Requester) -> str:
    return f"{requester.kind}:{requester.id}"


def _same(known: EnrolmentRequest, ask: Ask) -> EnrolmentRequest:
    """A repeated ask gets the request it made, but only if it truly is the same ask."""
    if known.csr != ask.csr.der or known.requester != _text(ask.requester):
        raise Refused(Reason("different-ask", "this was asked before, with another CSR"))
    return known
