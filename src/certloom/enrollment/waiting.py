"""How a request comes to wait for people: under the approval that waits for the same, or under a new one."""

from __future__ import annotations

import msgspec

from certloom.audit import SYSTEM
from certloom.clock import Clock
from certloom.enrollment import agreement
from certloom.enrollment.asks import Ask
from certloom.enrollment.errors import Refused
from certloom.enrollment.moves import Moves
from certloom.enrollment.states import Act, ApprovalAct, ApprovalState, after
from certloom.pki.names import format_name
from certloom.policy.decisions import Decision, Reason
from certloom.settings.schema import Enrollment as EnrollmentSettings
from certloom.store import approvals as approval_statements
from certloom.store import requests as statements
from certloom.store.approvals import Asked, StoredApproval
from certloom.store.base import Tx
from certloom.store.ids import new_id
from certloom.store.requests import EnrolmentRequest

_DAY = 86_400
EXPIRED = Reason("approval-expired", "nobody answered the request in time")


class GrantedMeanwhile(Exception):
    """The approval is not what it was when it was looked at: look again."""


class WaitingRoom:
    """Lets requests wait, inside the caller's unit."""

    def __init__(self, clock: Clock, moves: Moves, settings: EnrollmentSettings) -> None:
        self._clock = clock
        self._moves = moves
        self._settings = settings

    def enter(
        self, tx: Tx, request: EnrolmentRequest, ask: Ask, decision: Decision, binding: bytes
    ) -> EnrolmentRequest:
        """Store a received request as one that waits; joins what waits already without telling anyone anew.

        Raises ``Refused`` (``too-many-waiting``: nobody may flood people with questions),
        ``GrantedMeanwhile``, or ``Conflict`` when the same ask began to wait at the same time.
        """
        now = self._clock.now()
        approval = approval_statements.in_force(tx, binding, lock=True)
        if approval is not None and approval.state == ApprovalState.GRANTED:
            if approval.good_until is not None and approval.good_until > now:
                raise GrantedMeanwhile
            self._moves.approval(tx, approval, SYSTEM, ApprovalAct.LAPSE)
            approval = None
        elif approval is not None and approval.expires <= now:
            self._moves.approval(tx, approval, SYSTEM, ApprovalAct.EXPIRE, reasons=(EXPIRED,))
            approval = None
        self._check_bounds(tx, request, joins=approval is not None)
        joined = approval is not None
        if approval is None:
            approval = self._new(request, ask, decision, binding)
            self._moves.begin(tx, approval, ask.origin)
        waiting = msgspec.structs.replace(
            request,
            state=after(request.state, Act.ASK),
            expires=approval.expires,
            approval_id=approval.id,
        )
        statements.insert(tx, waiting)
        self._moves.note_request(
            tx,
            waiting,
            ask.origin,
            {
                "names": [str(identifier) for identifier in ask.identifiers],
                "joined": joined,
                "reasons": msgspec.to_builtins(decision.reasons),
                **({"warnings": msgspec.to_builtins(decision.warnings)} if decision.warnings else {}),
            },
        )
        return waiting

    def _check_bounds(self, tx: Tx, request: EnrolmentRequest, *, joins: bool) -> None:
        """Whoever has an owner counts as the owner, who may make as many credentials as they like."""
        requester, owner = request.requester, request.owner
        most = self._settings.waiting_per_requester
        if statements.count_waiting(tx, requester, owner, most) >= most:
            raise Refused(
                Reason("too-many-waiting", f"{most} of your requests wait for people; withdraw some first")
            )
        most = self._settings.approvals_per_day
        since = self._clock.now() - _DAY
        if not joins and approval_statements.made_since(tx, requester, owner, since, most) >= most:
            raise Refused(Reason("too-many-waiting", f"people were asked {most} times for you within a day"))

    def _new(self, request: EnrolmentRequest, ask: Ask, decision: Decision, binding: bytes) -> StoredApproval:
        assert decision.contents is not None
        assert decision.approval is not None
        now, terms = self._clock.now(), decision.approval
        return StoredApproval(
            id=new_id(self._clock.now_ms()),
            binding=binding,
            state=ApprovalState.WAITING,
            protocol=request.protocol,
            channel=request.channel,
            requester=request.requester,
            owner=request.owner,
            team=request.team,
            profile=request.profile,
            profile_version=request.profile_version,
            names=tuple(str(identifier) for identifier in decision.contents.identifiers),
            asked=Asked(
                subject=format_name(decision.contents.subject),
                lifetime=agreement.asked_lifetime(ask, now),
                not_before=ask.not_before,
                not_after=ask.not_after,
                key=ask.csr.key.key_type,
                comment=ask.comment,
                address=ask.origin.address,
                replaces=ask.replaces,
                may_change=terms.may_change,
                warnings=decision.warnings,
            ),
            stages=terms.stages,
            stage=0,
            decisions=(),
            changes=(),
            reasons=decision.reasons,
            created=now,
            updated=now,
            expires=now + terms.wait,
            good_seconds=terms.good_for,
        )
