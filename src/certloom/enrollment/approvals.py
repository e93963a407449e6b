"""People's answers to requests that wait for them."""

from __future__ import annotations

from collections.abc import Callable

from certloom.audit import SYSTEM, Origin
from certloom.clock import Clock
from certloom.enrollment.errors import Refused
from certloom.enrollment.pipeline import ISSUE_JOB, Enrollment
from certloom.enrollment.states import Act, IllegalAct, State
from certloom.jobs import enqueue
from certloom.policy.decisions import Reason
from certloom.store import requests as statements
from certloom.store.base import Store, Tx
from certloom.store.requests import Approval, EnrolmentRequest


class Approvals:
    """Approve, deny, cancel and expire. Each answers the request as it then is.

    Raises ``Refused`` with the code ``unknown-request``, ``not-waiting`` or ``already-answered``.
    """

    def __init__(self, store: Store, clock: Clock, enrollment: Enrollment) -> None:
        self._store = store
        self._clock = clock
        self._enrollment = enrollment

    async def approve(self, id: str, origin: Origin, message: str = "") -> EnrolmentRequest:
        """One person agrees. With the last agreement that is needed the request is approved and issued."""

        def act(tx: Tx, request: EnrolmentRequest) -> EnrolmentRequest:
            if any(a.actor == origin.actor for a in request.approvals):
                raise Refused(Reason("already-answered", "you have already answered this request"))
            approvals = (*request.approvals, Approval(origin.actor, self._clock.now(), True, message))
            agreed = sum(a.agreed for a in approvals)
            if agreed < request.approvals_needed:
                return self._enrollment.note_approval(tx, request, approvals, origin)
            approved = self._enrollment.transition(tx, request, origin, Act.APPROVE, approvals=approvals)
            enqueue(tx, self._clock.now_ms(), ISSUE_JOB, {"request": id})
            return approved

        return await self._act(id, Act.APPROVE, act)

    async def deny(self, id: str, origin: Origin, message: str) -> EnrolmentRequest:
        """One person's no is final."""

        def act(tx: Tx, request: EnrolmentRequest) -> EnrolmentRequest:
            approvals = (*request.approvals, Approval(origin.actor, self._clock.now(), False, message))
            reason = Reason("denied", message or "the request was denied")
            return self._enrollment.transition(
                tx, request, origin, Act.DENY, approvals=approvals, reasons=(reason,)
            )

        return await self._act(id, Act.DENY, act)

    async def cancel(self, id: str, origin: Origin) -> EnrolmentRequest:
        """Withdraw a request before it is issued."""

        def act(tx: Tx, request: EnrolmentRequest) -> EnrolmentRequest:
            return self._enrollment.transition(tx, request, origin, Act.CANCEL)

        return await self._act(id, Act.CANCEL, act)

    async def expire(self, limit: int = 100) -> int:
        """Deny what waited for longer than its profile allows; answer how many. Run periodically."""

        def act(tx: Tx, request: EnrolmentRequest) -> EnrolmentRequest:
            reason = Reason("approval-expired", "nobody answered the request in time")
            return self._enrollment.transition(tx, request, SYSTEM, Act.EXPIRE, reasons=(reason,))

        now = self._clock.now()
        ids = await self._store.scan(lambda tx: statements.expired(tx, now, limit))
        for id in ids:
            await self._act(id, Act.EXPIRE, act)
        return len(ids)

    async def _act(
        self, id: str, act: Act, change: Callable[[Tx, EnrolmentRequest], EnrolmentRequest]
    ) -> EnrolmentRequest:
        def unit(tx: Tx) -> EnrolmentRequest:
            request = statements.get(tx, id, lock=True)
            if request is None:
                raise Refused(Reason("unknown-request", f"there is no request {id}"))
            if act is not Act.CANCEL and request.state != State.AWAITING_APPROVAL:
                raise Refused(Reason("not-waiting", f"request {id} is {request.state}"))
            return change(tx, request)

        try:
            return await self._store.write(unit)
        except IllegalAct as error:
            raise Refused(Reason("not-waiting", str(error))) from error
