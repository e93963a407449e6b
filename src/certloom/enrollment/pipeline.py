"""The one way from an ask to a certificate, whichever protocol brings it.

    ask ─▶ policy (profile, rules, facts) ─▶ refuse: raised as ``Refused``, nothing is stored
                                   ─▶ ask people: it waits under an approval (see ``approvals``), its own or
                                      that of an earlier ask for the same; or is issued, if they have agreed
                                   ─▶ issue: the authority makes it, then request, certificate, event and
                                      whatever the protocol adds are committed in one unit

An authority that answers at once is asked before anything is stored: a crash in between leaves a reserved
serial (burned at the next start) and a client that asks again. One that takes its time is asked by a job,
after ``issuing`` has been committed; so is any request that waited for people. Each ask carries an
idempotency key: the same key with the same CSR bytes is answered with the request it already made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from certloom.audit import SYSTEM, Origin
from certloom.authorities.base import AuthorityError, AuthorityUnavailable, Issued
from certloom.clock import Clock
from certloom.enrollment import agreement
from certloom.enrollment.asks import (
    Ask,
    facts,
    facts_again,
    recall,
    remember,
    requester_text,
)
from certloom.enrollment.books import Books, UnknownName
from certloom.enrollment.errors import Refused, Unavailable
from certloom.enrollment.moves import ISSUE_JOB, Moves
from certloom.enrollment.states import Act, ApprovalAct, ApprovalState, State, after
from certloom.enrollment.waiting import GrantedMeanwhile, WaitingRoom
from certloom.inventory import ledger
from certloom.jobs import Job, Runner, enqueue
from certloom.pki.keys import KeyRejected, check_fit, facts_of
from certloom.policy.decide import decide, names_to_issue
from certloom.policy.decisions import CertificateContents, Decision, Facts, Outcome, Reason, Requester
from certloom.policy.profiles import Profile
from certloom.settings.schema import Enrollment as EnrollmentSettings
from certloom.store import approvals as approval_statements
from certloom.store import certificates as certificate_statements
from certloom.store import history
from certloom.store import requests as statements
from certloom.store.approvals import StoredApproval
from certloom.store.base import Conflict, Store, StoreError, Tx
from certloom.store.ids import new_id
from certloom.store.requests import EnrolmentRequest

_log = structlog.get_logger(__name__)

Also = Callable[[Tx, EnrolmentRequest], None]
"""What a protocol writes in the same transaction as the request."""

_DEFAULTS = EnrollmentSettings()
_RETRIES = (5, 15, 60, 300, 900, 3600)
_MOST_COUNTED = 1_000
_TRIES = 5
"""How often an ask looks again when an approval moved under it."""


class Enrollment:
    """The pipeline. One per process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        books: Books,
        runner: Runner,
        settings: EnrollmentSettings = _DEFAULTS,
    ) -> None:
        self._store = store
        self._clock = clock
        self.books = books
        self.moves = Moves(clock)
        self._waiting = WaitingRoom(clock, self.moves, settings)
        self.refusals: Counter[tuple[str, str]] = Counter()
        """Asks that were refused at once since this process began, by profile and protocol: for metrics."""
        runner.register(ISSUE_JOB, self._issue_approved, retries=_RETRIES, on_exhausted=self._give_up)

    async def submit(self, ask: Ask, also: Also | None = None) -> EnrolmentRequest:
        """Take an ask as far as it goes now.

        Answers a request that is ``issued``, ``awaiting_approval`` or ``issuing`` (or, for a repeated ask,
        whatever became of it). ``also`` runs in the unit that stores it. Raises ``Refused`` (nothing was
        stored) or ``Unavailable`` (ask again).
        """
        try:
            return await self._take(ask, also)
        except Refused:
            place = (ask.profile, ask.protocol)
            if place in self.refusals or len(self.refusals) < _MOST_COUNTED:
                self.refusals[place] += 1
            raise

    async def _take(self, ask: Ask, also: Also | None) -> EnrolmentRequest:
        try:
            check_fit(ask.csr.key)
        except KeyRejected as error:
            raise Refused(Reason(error.code, str(error))) from error
        key = ask.idempotency_key
        for _ in range(_TRIES):
            try:
                return await self._submit(ask, also)
            except (Conflict, GrantedMeanwhile):
                # Another ask with this key was faster, or an approval moved; what was signed here is never
                # shown and its serial burns.
                if key is not None:
                    known = await self._store.read(lambda tx: statements.by_idempotency_key(tx, key))
                    if known is not None:
                        return _same(known, ask)
            except UnknownName as error:
                raise Refused(Reason("not-configured", str(error))) from error
            except AuthorityUnavailable as error:
                raise Unavailable(Reason(error.code, str(error))) from error
            except AuthorityError as error:
                raise Refused(*_reasons(error)) from error
            except StoreError as error:
                _log.error("enrollment.store_failed", error=str(error), trace=ask.origin.trace)
                raise Unavailable(Reason("store-unavailable", "the request could not be recorded")) from error
        raise Unavailable(Reason("store-unavailable", "the request could not be recorded"), retry_after=1)

    async def _submit(self, ask: Ask, also: Also | None) -> EnrolmentRequest:
        spki_sha256 = ask.csr.key.spki_sha256
        key = ask.idempotency_key
        now = self._clock.now()

        def look(tx: Tx) -> tuple[EnrolmentRequest | None, bool]:
            known = statements.by_idempotency_key(tx, key) if key is not None else None
            return known, certificate_statements.is_blocked(tx, spki_sha256)

        known, blocked = await self._store.read(look)
        if known is not None:
            return _same(known, ask)
        profile, version = self.books.profile(ask.profile)
        past = None
        if self.needs_history:
            named = names_to_issue(profile, ask.identifiers, ask.certificate)
            past = await self._store.read(lambda tx: history.of_names(tx, named, now))
        told = facts(ask, now, blocked, self.books.authority(profile.authority).not_after, past)
        decision = self.decide(profile, version, told)
        if decision.outcome is Outcome.REFUSE:
            raise Refused(*decision.reasons)
        approval: StoredApproval | None = None
        if decision.outcome is Outcome.ASK:
            binding = agreement.binding(ask, decision, profile, now)
            approval = await self._store.read(lambda tx: approval_statements.in_force(tx, binding))
            if not _is_good(approval, now):
                return await self._store_waiting(ask, decision, binding, also)
            assert approval is not None
            decision = await self._as_agreed(profile, version, told, approval)
        assert decision.contents is not None
        authority = self.books.authority(decision.contents.authority)
        if not authority.immediate:
            return await self._store_issuing(ask, decision, approval, also)
        issued = await authority.issue(decision.contents)
        return await self._store_issued(ask, decision, decision.contents, issued, approval, also)

    @property
    def needs_history(self) -> bool:
        """Whether a rule in force looks at what the inventory knows of the names."""
        return self.books.rules.needs_history

    def decide(self, profile: Profile, version: int, told: Facts) -> Decision:
        """What the profile and the rules in force say."""
        return decide(profile, version, told, self.books.rules)

    async def _as_agreed(
        self, profile: Profile, version: int, told: Facts, approval: StoredApproval
    ) -> Decision:
        """The decision once people have agreed, with what they changed. Raises ``Refused``."""
        names = agreement.changed_names(approval)
        profile, told = agreement.as_agreed(profile, told, names, approval.changed_lifetime)
        issued = names_to_issue(profile, told.identifiers, told.certificate)
        past = told.history
        if past is not None and names is not None:
            # Rules are told of what will be issued, not of what was asked.
            past = await self._store.read(lambda tx: history.of_names(tx, issued, told.now))
        told = msgspec.structs.replace(told, history=past, approved=True)
        decision = self.decide(profile, version, told)
        if decision.outcome is not Outcome.ISSUE:
            raise Refused(*decision.reasons)
        return decision

    def _received(self, ask: Ask, decision: Decision, *, to_decide_again: bool) -> EnrolmentRequest:
        assert decision.contents is not None
        now = self._clock.now()
        return EnrolmentRequest(
            id=new_id(self._clock.now_ms()),
            state=State.RECEIVED,
            protocol=ask.protocol,
            channel=ask.channel,
            requester=requester_text(ask.requester),
            profile=ask.profile,
            profile_version=decision.contents.profile_version,
            ask=remember(ask, decision.warnings, to_decide_again=to_decide_again),
            csr=ask.csr.der,
            reasons=decision.reasons,
            idempotency_key=ask.idempotency_key,
            created=now,
            updated=now,
            owner=ask.requester.owner,
            team=ask.requester.team,
        )

    async def _store_waiting(
        self, ask: Ask, decision: Decision, binding: bytes, also: Also | None
    ) -> EnrolmentRequest:
        request = self._received(ask, decision, to_decide_again=True)

        def unit(tx: Tx) -> EnrolmentRequest:
            waiting = self._waiting.enter(tx, request, ask, decision, binding)
            if also is not None:
                also(tx, waiting)
            return waiting

        return await self._store.write(unit)

    async def _store_issuing(
        self, ask: Ask, decision: Decision, approval: StoredApproval | None, also: Also | None
    ) -> EnrolmentRequest:
        request = self._received(ask, decision, to_decide_again=True)
        issuing = msgspec.structs.replace(
            request,
            state=after(request.state, Act.APPROVE, Act.START),
            approval_id=approval.id if approval is not None else None,
        )

        def unit(tx: Tx) -> None:
            self._check_still_good(tx, approval)
            statements.insert(tx, issuing)
            names = [str(i) for i in ask.identifiers]
            self.moves.note_request(tx, issuing, ask.origin, {"names": names, **_warned(decision)})
            enqueue(tx, self._clock.now_ms(), ISSUE_JOB, {"request": request.id})
            if also is not None:
                also(tx, issuing)

        await self._store.write(unit)
        return issuing

    def _check_still_good(self, tx: Tx, approval: StoredApproval | None) -> None:
        if approval is None:
            return
        locked = approval_statements.get(tx, approval.id, lock=True)
        if not _is_good(locked, self._clock.now()):
            raise GrantedMeanwhile

    async def _store_issued(
        self,
        ask: Ask,
        decision: Decision,
        contents: CertificateContents,
        issued: Issued,
        approval: StoredApproval | None,
        also: Also | None,
    ) -> EnrolmentRequest:
        request = self._received(ask, decision, to_decide_again=False)
        state = after(request.state, Act.APPROVE, Act.START, Act.ISSUE)
        spki_sha256 = ask.csr.key.spki_sha256
        notes = {**_warned(decision), **agreement.notes(approval)} if approval or decision.warnings else None

        def unit(tx: Tx) -> EnrolmentRequest:
            self._check_still_good(tx, approval)
            if certificate_statements.is_blocked(tx, spki_sha256):
                raise Refused(Reason("key-blocked", "the key is on the blocklist"))
            id = ledger.enter_issued(
                tx,
                self._clock,
                issued,
                contents,
                spki_sha256,
                requester=request.requester,
                request_id=request.id,
                replaces=ask.replaces,
                origin=ask.origin,
                owner=request.owner,
                team=request.team,
                channel=f"{request.protocol}/{request.channel}",
                notes=notes,
            )
            done = msgspec.structs.replace(
                request,
                state=state,
                certificate_id=id,
                approval_id=approval.id if approval is not None else None,
            )
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

        def look(tx: Tx) -> tuple[EnrolmentRequest | None, StoredApproval | None]:
            found = statements.get(tx, id)
            if found is None or found.approval_id is None:
                return found, None
            return found, approval_statements.get(tx, found.approval_id)

        request, approval = await self._store.read(look)
        if request is None or request.state not in (State.APPROVED, State.ISSUING):
            return None
        asked = recall(request)
        key = facts_of(asked.spki)
        profile, version = self.books.profile(request.profile, request.profile_version)
        now = self._clock.now()
        needs_history = self.needs_history

        def look_again(tx: Tx) -> tuple[Profile, Facts]:
            told = facts_again(
                request,
                asked,
                key,
                now,
                certificate_statements.is_blocked(tx, key.spki_sha256),
                self.books.authority(profile.authority).not_after,
                None,
                approved=True,
            )
            agreed = profile
            if approval is not None:
                agreed, told = agreement.as_agreed(
                    profile, told, agreement.changed_names(approval), approval.changed_lifetime
                )
            if needs_history:
                # Of what will be issued, which an approver may have changed.
                named = names_to_issue(agreed, told.identifiers, told.certificate)
                told = msgspec.structs.replace(told, history=history.of_names(tx, named, now))
            return agreed, told

        profile, told = await self._store.read(look_again)
        decision = self.decide(profile, version, told)
        if decision.outcome is not Outcome.ISSUE or decision.contents is None:
            return self._failure(id, decision.reasons)
        contents = decision.contents
        try:
            issued = await self.books.authority(contents.authority).issue(contents)
        except AuthorityUnavailable:
            raise  # tried again, as often as ``_RETRIES`` says
        except AuthorityError as error:
            return self._failure(id, _reasons(error))

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
                owner=now.owner,
                team=now.team,
                channel=f"{now.protocol}/{now.channel}",
                notes={**_warned(decision), **agreement.notes(approval)},
            )
            self.moves.request(tx, now, SYSTEM, *acts, certificate_id=certificate_id)

        return unit

    def _failure(self, id: str, reasons: tuple[Reason, ...]) -> Callable[[Tx], None]:
        def unit(tx: Tx) -> None:
            request = statements.get(tx, id, lock=True)
            if request is not None and request.state in (State.APPROVED, State.ISSUING):
                self.moves.request(tx, request, SYSTEM, Act.FAIL, reasons=reasons)

        return unit

    def _give_up(self, job: Job) -> Callable[[Tx], None]:
        reason = Reason("authority-unavailable", "the authority did not answer")
        return self._failure(str(job.payload["request"]), (reason,))

    def cancel(self, tx: Tx, id: str, origin: Origin) -> EnrolmentRequest | None:
        """Withdraw one request; with the last that waits under it, its approval is withdrawn as well.

        None when there is no such request. Raises ``IllegalAct`` when it cannot be withdrawn any more.
        """
        seen = statements.get(tx, id)
        if seen is None:
            return None
        approval = (
            approval_statements.get(tx, seen.approval_id, lock=True) if seen.approval_id is not None else None
        )
        request = statements.get(tx, id, lock=True)
        assert request is not None
        cancelled = self.moves.request(tx, request, origin, Act.CANCEL)
        if (
            approval is not None
            and approval.state == ApprovalState.WAITING
            and not statements.waiting_under(tx, approval.id)
        ):
            self.moves.approval(tx, approval, origin, ApprovalAct.WITHDRAW)
        return cancelled

    def cancel_of(self, tx: Tx, requester: Requester, origin: Origin) -> int:
        """Withdraw what a requester who is no more still waits for; answer how many that was."""
        ids = statements.ids_waiting_of(tx, requester_text(requester))
        for id in ids:
            self.cancel(tx, id, origin)
        return len(ids)


def _reasons(error: AuthorityError) -> tuple[Reason, ...]:
    """Why an authority did not issue, one by one."""
    return tuple([Reason(error.code, said) for said in error.details or (str(error),)])


def _is_good(approval: StoredApproval | None, now: int) -> bool:
    """Whether people have agreed, and that is still worth something."""
    return (
        approval is not None
        and approval.state == ApprovalState.GRANTED
        and approval.good_until is not None
        and approval.good_until > now
    )


def _warned(decision: Decision) -> dict[str, object]:
    """For events."""
    return {"warnings": msgspec.to_builtins(decision.warnings)} if decision.warnings else {}


def _same(known: EnrolmentRequest, ask: Ask) -> EnrolmentRequest:
    """A repeated ask gets the request it made, but only if it truly is the same ask."""
    if known.csr != ask.csr.der or known.requester != requester_text(ask.requester):
        raise Refused(Reason("different-ask", "this was asked before, with another CSR"))
    return known
