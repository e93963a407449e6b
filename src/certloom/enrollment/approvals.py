"""People's agreement: how it is sought, given, refused, and what it is worth.

Theory of operation. Where a profile or a policy rule wants people to agree, they are not asked about an order
or a CSR, but whether *this requester* may have a certificate for *these names* from *this profile*
(``agreement.binding`` says what is bound, ``states`` what can happen). That question is one row, the
approval. An ask with the same binding while it waits joins it, and nobody is told again; a client that gives
up after a minute and comes back an hour later asks the same question, not a new one.

An approval has stages, one after another: so many people who hold a role where the thing is (its team,
profile, channel, names). One human being counts once in all stages together, however they came in, and nobody
counts for what is asked on their own behalf. One no ends it. With the last agreement all requests that wait
under it are approved, and a job for each, made in that same unit, has the authority issue; until
``good_until`` further asks for the same are issued at once.

An approver may change the lifetime or the names, where the profile lets them. What was agreed before was
agreed to something else, so it is void, and those people may look again; what policy says of the changed
thing counts, also when that is that more people must agree. ACME is given exactly the names of its order and
exactly the times it asked for (RFC 8555 section 7.4), so those are never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from certloom.audit import SYSTEM, Origin
from certloom.clock import Clock
from certloom.enrollment import agreement
from certloom.enrollment.asks import facts_again, recall
from certloom.enrollment.books import UnknownName
from certloom.enrollment.errors import Refused
from certloom.enrollment.moves import Hook
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.states import Act, ApprovalAct, ApprovalState, IllegalAct
from certloom.enrollment.waiting import EXPIRED
from certloom.identity.principals import Principal, Thing
from certloom.pki.identifiers import Identifier, IdentifierError
from certloom.pki.keys import facts_of
from certloom.policy.decide import names_to_issue
from certloom.policy.decisions import Decision, Outcome, Reason, Stage
from certloom.store import approvals as statements
from certloom.store import certificates as certificate_statements
from certloom.store import history
from certloom.store import requests as request_statements
from certloom.store.approvals import Change, PersonDecision, StoredApproval
from certloom.store.base import Store, Tx
from certloom.store.request_search import Filters, find_approvals
from certloom.store.requests import EnrolmentRequest

Verb = Literal["approve", "deny"]
_CHUNK = 100
_PAGES = 20
"""Of waiting approvals, looked through for those that somebody can decide."""


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an approver wants to be otherwise."""

    lifetime: int | None = None
    """Seconds."""
    names: tuple[str, ...] | None = None
    """All names the certificate is to have, ``type:value``."""


def thing_of(approval: StoredApproval) -> Thing:
    """What permissions and roles are looked up for."""
    return Thing(
        owner=approval.owner or "",
        team=approval.team or "",
        profile=approval.profile,
        channel=f"{approval.protocol}/{approval.channel}",
        names=_identifiers(approval.effective_names),
    )


def _identifiers(names: tuple[str, ...]) -> tuple[Identifier, ...]:
    try:
        return agreement.parse_names(names)
    except IdentifierError as error:
        raise Refused(Reason("bad-names", str(error))) from None


class Approvals:
    """Decide, withdraw, expire and list. One per process."""

    def __init__(self, store: Store, clock: Clock, enrollment: Enrollment) -> None:
        self._store = store
        self._clock = clock
        self._enrollment = enrollment
        self._moves = enrollment.moves
        self._books = enrollment.books

    @property
    def on_waiting(self) -> Hook:
        """Called in the unit when an approval begins to wait, enters a new stage, or is changed."""
        return self._moves.on_waiting

    @on_waiting.setter
    def on_waiting(self, hook: Hook) -> None:
        self._moves.on_waiting = hook

    @property
    def on_decided(self) -> Hook:
        """Called in the unit when an approval is granted or denied, has expired or is withdrawn."""
        return self._moves.on_decided

    @on_decided.setter
    def on_decided(self, hook: Hook) -> None:
        self._moves.on_decided = hook

    async def decide(
        self,
        id: str,
        principal: Principal,
        origin: Origin,
        decision: Verb,
        reason: str = "",
        changes: Changes | None = None,
    ) -> StoredApproval:
        """One person's yes or no; answers the approval as it then is. See ``decide_in``."""
        return await self._store.write(
            lambda tx: self.decide_in(tx, id, principal, origin, decision, reason, changes)
        )

    def decide_in(
        self,
        tx: Tx,
        id: str,
        principal: Principal,
        origin: Origin,
        decision: Verb,
        reason: str = "",
        changes: Changes | None = None,
    ) -> StoredApproval:
        """As ``decide``, inside the caller's unit.

        Raises ``Refused``: ``unknown-approval``, ``not-waiting``, ``not-allowed`` (no such permission there),
        ``own-request``, ``not-an-approver`` (holds no role that its stage wants), ``already-answered``,
        ``reason-needed`` (a no has one), ``change-not-allowed``, ``bad-names``, or what policy says of the
        change.
        """
        approval = self._waiting(tx, id)
        self._check_may(approval, principal)
        if decision == "deny":
            return self._deny(tx, approval, principal, origin, reason, changes)
        if any(agreed.person == principal.person for agreed in approval.agreements):
            raise Refused(Reason("already-answered", "you have agreed already; one person counts once"))
        wanted = approval.stages[approval.stage]
        if not principal.has_role(wanted.role, thing_of(approval)):
            raise Refused(
                Reason("not-an-approver", f"now it waits for somebody who holds the role {wanted.role} there")
            )
        stages, changed, decisions = approval.stages, approval.changes, approval.decisions
        otherwise = self._change(tx, approval, principal, changes or Changes())
        if otherwise is not None:
            change, stages = otherwise
            changed = (*changed, change)
            decisions = tuple(msgspec.structs.replace(d, void=True) for d in decisions)
            after = msgspec.structs.replace(approval, changes=changed)
            thing = thing_of(after)
            if not principal.may("approval.decide", thing) or not principal.has_role(wanted.role, thing):
                raise Refused(Reason("not-allowed", "you may not decide about those names"))
        said = PersonDecision(
            person=principal.person,
            actor=principal.actor,
            name=principal.name,
            at=self._clock.now(),
            stage=_counts_in(stages, wanted, approval.stage),
            agreed=True,
            reason=reason,
        )
        then = msgspec.structs.replace(approval, stages=stages, changes=changed, decisions=(*decisions, said))
        last = agreement.stage_of(then) >= len(stages)
        return self._moves.approval(
            tx,
            approval,
            origin,
            ApprovalAct.GRANT if last else ApprovalAct.AGREE,
            decisions=then.decisions,
            changes=changed,
            stages=stages,
            why=reason,
        )

    def _waiting(self, tx: Tx, id: str) -> StoredApproval:
        approval = statements.get(tx, id, lock=True)
        if approval is None:
            raise Refused(Reason("unknown-approval", f"there is no approval {id}"))
        if approval.state != ApprovalState.WAITING or approval.expires <= self._clock.now():
            state = approval.state if approval.state != ApprovalState.WAITING else ApprovalState.EXPIRED
            raise Refused(Reason("not-waiting", f"approval {id} is {state}"))
        return approval

    def _check_may(self, approval: StoredApproval, principal: Principal) -> None:
        if not principal.may("approval.decide", thing_of(approval)):
            raise Refused(Reason("not-allowed", "you may not decide about this"))
        if is_own(approval, principal):
            raise Refused(Reason("own-request", "nobody decides about what is asked on their own behalf"))

    def _deny(
        self,
        tx: Tx,
        approval: StoredApproval,
        principal: Principal,
        origin: Origin,
        reason: str,
        changes: Changes | None,
    ) -> StoredApproval:
        if not reason.strip():
            raise Refused(Reason("reason-needed", "say why not: the requester is told"))
        if changes is not None and changes != Changes():
            raise Refused(Reason("change-not-allowed", "what is denied is not changed"))
        thing = thing_of(approval)
        if not any(principal.has_role(stage.role, thing) for stage in approval.stages):
            raise Refused(Reason("not-an-approver", "you hold none of the roles that are asked"))
        said = PersonDecision(
            person=principal.person,
            actor=principal.actor,
            name=principal.name,
            at=self._clock.now(),
            stage=approval.stage,
            agreed=False,
            reason=reason,
        )
        return self._moves.approval(
            tx,
            approval,
            origin,
            ApprovalAct.DENY,
            decisions=(*approval.decisions, said),
            reasons=(Reason("denied", reason),),
            why=reason,
        )

    def _change(
        self, tx: Tx, approval: StoredApproval, principal: Principal, wanted: Changes
    ) -> tuple[Change, tuple[Stage, ...]] | None:
        """What is to be otherwise, checked, with the stages it then takes; None where nothing is."""
        asked = approval.asked
        lifetime_now = approval.changed_lifetime or asked.lifetime
        lifetime = wanted.lifetime if wanted.lifetime != lifetime_now else None
        names = None
        if wanted.names is not None:
            names = tuple(str(identifier) for identifier in _identifiers(wanted.names))
            if sorted(names) == sorted(approval.effective_names):
                names = None
        if lifetime is None and names is None:
            return None
        for what, value in (("validity", lifetime), ("names", names)):
            if value is not None and what not in asked.may_change:
                raise Refused(
                    Reason("change-not-allowed", f"the profile does not let approvers change {what}")
                )
        if approval.protocol == "acme" and names is not None:
            raise Refused(Reason("change-not-allowed", "an ACME order gets exactly the names it is for"))
        if approval.protocol == "acme" and (asked.not_before is not None or asked.not_after is not None):
            raise Refused(Reason("change-not-allowed", "an ACME order gets exactly the times it asked for"))
        decision = self._policy_of_changed(tx, approval, names, lifetime)
        stages = approval.stages
        if decision is not None and decision.approval is not None:
            stages = agreement.merged(stages, decision.approval.stages)
        change = Change(
            person=principal.person,
            actor=principal.actor,
            name=principal.name,
            at=self._clock.now(),
            lifetime_before=lifetime_now if lifetime is not None else None,
            lifetime=lifetime,
            names_before=approval.effective_names if names is not None else None,
            names=names,
        )
        return change, stages

    def _policy_of_changed(
        self, tx: Tx, approval: StoredApproval, names: tuple[str, ...] | None, lifetime: int | None
    ) -> Decision | None:
        """What policy says of the changed thing, for the oldest request that waits. Raises ``Refused``."""
        waiting = request_statements.waiting_under(tx, approval.id)
        if not waiting:
            return None
        return self._decide_again(
            tx, waiting[0], names or agreement.changed_names(approval), lifetime or approval.changed_lifetime
        )

    def _decide_again(
        self, tx: Tx, request: EnrolmentRequest, names: tuple[str, ...] | None, lifetime: int | None
    ) -> Decision:
        now = self._clock.now()
        try:
            profile, version = self._books.profile(request.profile, request.profile_version)
            authority_end = self._books.authority(profile.authority).not_after
        except UnknownName as error:
            raise Refused(Reason("not-configured", str(error))) from None
        longest = profile.validity.max or profile.validity.default
        if lifetime is not None and not 60 <= lifetime <= longest:
            raise Refused(
                Reason(
                    "validity-too-long" if lifetime > longest else "validity-empty",
                    f"the profile allows 60 to {longest} seconds, not {lifetime}",
                )
            )
        asked = recall(request)
        key = facts_of(asked.spki)
        told = facts_again(
            request,
            asked,
            key,
            now,
            certificate_statements.is_blocked(tx, key.spki_sha256),
            authority_end,
            None,
            approved=False,
        )
        profile, told = agreement.as_agreed(profile, told, names, lifetime)
        if self._enrollment.needs_history:
            named = names_to_issue(profile, told.identifiers, told.certificate)
            past = history.of_names(tx, named, now)
            told = msgspec.structs.replace(told, history=past)
        decision = self._enrollment.decide(profile, version, told)
        if decision.outcome is Outcome.REFUSE:
            raise Refused(*decision.reasons)
        return decision

    async def cancel(self, request_id: str, origin: Origin) -> EnrolmentRequest:
        """Withdraw one request. Raises ``Refused`` (``unknown-request``, ``not-waiting``)."""
        return await self._store.write(lambda tx: self.cancel_in(tx, request_id, origin))

    def cancel_in(self, tx: Tx, request_id: str, origin: Origin) -> EnrolmentRequest:
        """As ``cancel``, inside the caller's unit."""
        try:
            found = self._enrollment.cancel(tx, request_id, origin)
        except IllegalAct as error:
            raise Refused(Reason("not-waiting", str(error))) from error
        if found is None:
            raise Refused(Reason("unknown-request", f"there is no request {request_id}"))
        return found

    async def withdraw(self, id: str, origin: Origin, reason: str = "") -> StoredApproval:
        """Take the question back, with all requests that wait under it; or, once granted, the agreement.

        Raises ``Refused`` (``unknown-approval``, ``not-waiting``).
        """
        return await self._store.write(lambda tx: self.withdraw_in(tx, id, origin, reason))

    def withdraw_in(self, tx: Tx, id: str, origin: Origin, reason: str = "") -> StoredApproval:
        """As ``withdraw``, inside the caller's unit."""
        approval = statements.get(tx, id, lock=True)
        if approval is None:
            raise Refused(Reason("unknown-approval", f"there is no approval {id}"))
        granted = approval.state == ApprovalState.GRANTED
        act = ApprovalAct.LAPSE if granted else ApprovalAct.WITHDRAW
        told = (Reason("withdrawn", reason or "it was withdrawn"),)
        try:
            return self._moves.approval(tx, approval, origin, act, reasons=told, why=reason)
        except IllegalAct as error:
            raise Refused(Reason("not-waiting", str(error))) from error

    async def expire(self) -> int:
        """End what waited, or was good, for as long as it may; how many that was. Run it every minute."""
        now = self._clock.now()
        count = await self._expire_of_before()
        while True:
            ids = await self._store.scan(
                lambda tx: [*statements.expired(tx, now, _CHUNK), *statements.lapsed(tx, now, _CHUNK)]
            )
            for id in ids:
                count += await self._store.write(self._expiry(id, now))
            if len(ids) < _CHUNK:
                return count

    async def _expire_of_before(self) -> int:
        """Requests that waited before there were approvals to wait under: nobody can answer those."""
        reason = Reason("approval-expired", "since an upgrade people are asked anew: ask again")

        def unit(tx: Tx) -> int:
            left = request_statements.waiting_under_nothing(tx, _CHUNK)
            for request in left:
                self._moves.request(tx, request, SYSTEM, Act.EXPIRE, reasons=(reason,))
            return len(left)

        if not await self._store.scan(lambda tx: request_statements.waiting_under_nothing(tx, 1)):
            return 0
        return await self._store.write(unit)

    def _expiry(self, id: str, now: int) -> Callable[[Tx], int]:
        def unit(tx: Tx) -> int:
            approval = statements.get(tx, id, lock=True)
            if approval is None:
                return 0
            if approval.state == ApprovalState.WAITING and approval.expires <= now:
                self._moves.approval(tx, approval, SYSTEM, ApprovalAct.EXPIRE, reasons=(EXPIRED,))
                return 1
            if approval.state == ApprovalState.GRANTED and (approval.good_until or 0) <= now:
                self._moves.approval(tx, approval, SYSTEM, ApprovalAct.LAPSE)
                return 1
            return 0

        return unit

    def waiting_for(
        self, tx: Tx, principal: Principal, limit: int, before: str | None = None
    ) -> list[StoredApproval]:
        """What waits that this principal can decide now, newest first. Looks through so many at most."""
        found: list[StoredApproval] = []
        position: tuple[str, ...] | None = None if before is None else (before,)
        waiting = Filters(state=ApprovalState.WAITING)
        for _ in range(_PAGES):
            page = find_approvals(tx, waiting, None, _CHUNK, position)
            found += [approval for approval in page.rows if self.can_decide(approval, principal)]
            position = page.after
            if position is None or len(found) >= limit:
                break
        return found[:limit]

    def can_decide(self, approval: StoredApproval, principal: Principal) -> bool:
        """Whether this principal's agreement is what it waits for."""
        return (
            approval.state == ApprovalState.WAITING
            and approval.expires > self._clock.now()
            and approval.stage < len(approval.stages)
            and not is_own(approval, principal)
            and not any(agreed.person == principal.person for agreed in approval.agreements)
            and principal.may("approval.decide", thing_of(approval))
            and principal.has_role(approval.stages[approval.stage].role, thing_of(approval))
        )


def is_own(approval: StoredApproval, principal: Principal) -> bool:
    """Whether it was asked by, or on behalf of, this principal."""
    return principal.person == approval.owner or principal.actor == approval.requester


def _counts_in(stages: tuple[Stage, ...], wanted: Stage, index: int) -> int:
    """The stage that an agreement given in stage ``index`` counts in; a change may have moved it."""
    if index < len(stages) and stages[index].role == wanted.role:
        return index
    return next((i for i, stage in enumerate(stages) if stage.role == wanted.role), index)
