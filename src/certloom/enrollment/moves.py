"""Every change of a request's and an approval's state, each with its event: the table's only hands.

What happens to an approval happens, in the same unit, to the requests that wait under it; a granted one makes
a job for each, so that a crash after the last agreement loses nothing. Rows are locked approval first, then
requests, everywhere, so that no two units wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.enrollment.agreement import stage_of
from certloom.enrollment.states import (
    REQUEST_ACT,
    Act,
    ApprovalAct,
    ApprovalState,
    State,
    after,
    approval_after,
)
from certloom.jobs import enqueue
from certloom.policy.decisions import Reason, Stage
from certloom.store import approvals as approval_statements
from certloom.store import request_keys
from certloom.store import requests as statements
from certloom.store.approvals import Change, PersonDecision, StoredApproval
from certloom.store.base import Conflict, Tx
from certloom.store.requests import EnrolmentRequest

ISSUE_JOB = "enrollment.issue"

Hook = Callable[[Tx, StoredApproval], None]

_EVENT: dict[ApprovalAct, str] = {
    ApprovalAct.AGREE: "approval.agreed",
    ApprovalAct.GRANT: "approval.granted",
    ApprovalAct.DENY: "approval.denied",
    ApprovalAct.EXPIRE: "approval.expired",
    ApprovalAct.WITHDRAW: "approval.withdrawn",
    ApprovalAct.LAPSE: "approval.lapsed",
}


def _no_hook(tx: Tx, approval: StoredApproval) -> None:
    """Nobody is to be told."""


class Moves:
    """Moves requests and approvals, inside the caller's unit. One per process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.on_waiting: Hook = _no_hook
        """Called when an approval begins to wait, enters a new stage, or is changed and starts anew."""
        self.on_decided: Hook = _no_hook
        """Called when an approval is granted or denied, has expired or is withdrawn."""

    def request(
        self,
        tx: Tx,
        request: EnrolmentRequest,
        origin: Origin,
        *acts: Act,
        certificate_id: int | None = None,
        reasons: tuple[Reason, ...] | None = None,
        approval_id: str | None = None,
    ) -> EnrolmentRequest:
        """Move a request that was read (locked) in this same unit. Raises ``IllegalAct``."""
        changed = msgspec.structs.replace(
            request,
            state=after(request.state, *acts),
            certificate_id=certificate_id,
            reasons=request.reasons if reasons is None else reasons,
            approval_id=approval_id or request.approval_id,
            updated=self._clock.now(),
        )
        if not statements.update(tx, changed, request.state):
            raise Conflict(f"request {request.id} is no longer {request.state}")
        if not request.csr:
            self._keep_key(tx, changed, origin)
        self.note_request(
            tx,
            changed,
            origin,
            {
                "before": {"state": request.state},
                "after": {"state": changed.state},
                "reasons": [reason.code for reason in changed.reasons],
            },
        )
        return changed

    def _keep_key(self, tx: Tx, request: EnrolmentRequest, origin: Origin) -> None:
        """A key that was made here goes with its request, or waits to be fetched from now on."""
        if request.state == State.ISSUED:
            request_keys.set_certificate(tx, request.id, request.certificate_id, self._clock.now())
        elif request.state in (State.DENIED, State.FAILED, State.CANCELLED) and request_keys.delete(
            tx, request.id
        ):
            record(tx, self._clock.now_ms(), "request.key_wiped", f"request:{request.id}", origin)

    def note_request(
        self, tx: Tx, request: EnrolmentRequest, origin: Origin, data: dict[str, Any] | None = None
    ) -> None:
        """The event that tells of a request's new state."""
        record(
            tx,
            self._clock.now_ms(),
            f"request.{request.state}",
            f"request:{request.id}",
            origin,
            {
                "requester": request.requester,
                "profile": request.profile,
                "protocol": request.protocol,
                **({} if request.approval_id is None else {"approval": request.approval_id}),
                **(data or {}),
            },
        )

    def begin(self, tx: Tx, approval: StoredApproval, origin: Origin) -> None:
        """Let a new approval wait. Raises ``Conflict`` when there is one with its binding."""
        approval_statements.insert(tx, approval)
        self._note_approval(
            tx,
            approval,
            "approval.waiting",
            origin,
            {
                "stages": msgspec.to_builtins(approval.stages),
                "reasons": msgspec.to_builtins(approval.reasons),
                "owner": approval.owner,
                "team": approval.team,
                "expires": approval.expires,
            },
        )
        self.on_waiting(tx, approval)

    def approval(
        self,
        tx: Tx,
        approval: StoredApproval,
        origin: Origin,
        act: ApprovalAct,
        *,
        decisions: tuple[PersonDecision, ...] | None = None,
        changes: tuple[Change, ...] | None = None,
        stages: tuple[Stage, ...] | None = None,
        reasons: tuple[Reason, ...] | None = None,
        why: str = "",
    ) -> StoredApproval:
        """Move an approval that was read, locked, in this same unit, and the requests that wait under it.

        ``reasons`` are for the requests' eyes. Raises ``IllegalAct``.
        """
        now = self._clock.now()
        changed = msgspec.structs.replace(
            approval,
            state=approval_after(approval.state, act),
            decisions=approval.decisions if decisions is None else decisions,
            changes=approval.changes if changes is None else changes,
            stages=approval.stages if stages is None else stages,
            reasons=approval.reasons if reasons is None else (*approval.reasons, *reasons),
            good_until=now + approval.good_seconds if act is ApprovalAct.GRANT else approval.good_until,
            updated=now,
        )
        changed = msgspec.structs.replace(changed, stage=stage_of(changed))
        if not approval_statements.update(tx, changed, approval.state):
            raise Conflict(f"approval {approval.id} is no longer {approval.state}")
        moved = self._requests(tx, changed, origin, act, reasons)
        self._note_approval(
            tx,
            changed,
            _EVENT[act],
            origin,
            {
                "before": _seen(approval),
                "after": _seen(changed),
                **({"reason": why} if why else {}),
                **({"requests": moved} if moved else {}),
            },
        )
        if changed.state != ApprovalState.WAITING:
            if act is not ApprovalAct.LAPSE:
                self.on_decided(tx, changed)
        elif changed.stage != approval.stage or changed.changes != approval.changes:
            self.on_waiting(tx, changed)
        return changed

    def _requests(
        self,
        tx: Tx,
        approval: StoredApproval,
        origin: Origin,
        act: ApprovalAct,
        reasons: Sequence[Reason] | None,
    ) -> list[str]:
        request_act = REQUEST_ACT.get(act)
        if request_act is None:
            return []
        waiting = statements.waiting_under(tx, approval.id)
        for request in waiting:
            told = None if act is ApprovalAct.GRANT else tuple(reasons or ())
            self.request(tx, request, origin, request_act, reasons=told)
            if act is ApprovalAct.GRANT:
                enqueue(tx, self._clock.now_ms(), ISSUE_JOB, {"request": request.id})
        return [request.id for request in waiting]

    def _note_approval(
        self, tx: Tx, approval: StoredApproval, kind: str, origin: Origin, data: dict[str, Any]
    ) -> None:
        record(
            tx,
            self._clock.now_ms(),
            kind,
            f"approval:{approval.id}",
            origin,
            {
                "requester": approval.requester,
                "profile": approval.profile,
                "names": approval.effective_names,
                **data,
            },
        )


def _seen(approval: StoredApproval) -> dict[str, Any]:
    return {
        "state": approval.state,
        "stage": approval.stage,
        "agreed": len(approval.agreements),
        "names": approval.effective_names,
        "lifetime": approval.changed_lifetime or approval.asked.lifetime,
    }
