"""The life of an enrolment request, and of the approval it may wait under.

A request is received; policy lets it through (approved), sends it to people (awaiting_approval) or refuses it
(it is then never stored). Approved requests are issued, by the authority at once or, where an authority takes
its time, after a stay in ``issuing``. ``issued``, ``denied``, ``failed`` and ``cancelled`` are final.

    received ──ask──▶ awaiting_approval ──deny/expire──▶ denied
       │                 │        └──────cancel────────▶ cancelled
       └────approve──────┴─▶ approved ──start──▶ issuing ──issue──▶ issued
                               └──cancel──▶ cancelled └──fail──▶ failed

An approval is what people are asked to agree to. Requests for the same wait under the same one; it waits for
its stages, one after another, and is granted when the last has agreed. While it is granted, further asks for
the same are issued at once; after that it has lapsed. One no ends it, as does time, or the requester.

    waiting ──agree──▶ waiting ──grant──▶ granted ──lapse──▶ lapsed
       ├──deny──▶ denied
       ├──expire──▶ expired
       └──withdraw──▶ withdrawn

What happens to an approval happens to the requests that wait under it, in the same unit (``REQUEST_ACT``).

Nothing else is possible: an act that is not in the table for a state raises ``IllegalAct``. Everything that
changes a state goes through ``after`` or ``approval_after``. States that begin and end inside one transaction
(received, approved and issuing of a request that an authority answers at once) are never seen by anyone else.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Of a request."""

    RECEIVED = "received"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    ISSUING = "issuing"
    ISSUED = "issued"
    DENIED = "denied"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Act(StrEnum):
    """What can happen to a request."""

    ASK = "ask"
    APPROVE = "approve"
    DENY = "deny"
    EXPIRE = "expire"
    CANCEL = "cancel"
    START = "start"
    ISSUE = "issue"
    FAIL = "fail"


class ApprovalState(StrEnum):
    """Of an approval."""

    WAITING = "waiting"
    GRANTED = "granted"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


class ApprovalAct(StrEnum):
    """What can happen to an approval."""

    AGREE = "agree"
    """One of several agrees, or changes what is agreed to."""
    GRANT = "grant"
    DENY = "deny"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    LAPSE = "lapse"


_TABLE: dict[tuple[State, Act], State] = {
    (State.RECEIVED, Act.ASK): State.AWAITING_APPROVAL,
    (State.RECEIVED, Act.APPROVE): State.APPROVED,
    (State.AWAITING_APPROVAL, Act.APPROVE): State.APPROVED,
    (State.AWAITING_APPROVAL, Act.DENY): State.DENIED,
    (State.AWAITING_APPROVAL, Act.EXPIRE): State.DENIED,
    (State.AWAITING_APPROVAL, Act.CANCEL): State.CANCELLED,
    (State.APPROVED, Act.CANCEL): State.CANCELLED,
    (State.APPROVED, Act.START): State.ISSUING,
    (State.APPROVED, Act.FAIL): State.FAILED,
    (State.ISSUING, Act.ISSUE): State.ISSUED,
    (State.ISSUING, Act.FAIL): State.FAILED,
}

_APPROVALS: dict[tuple[ApprovalState, ApprovalAct], ApprovalState] = {
    (ApprovalState.WAITING, ApprovalAct.AGREE): ApprovalState.WAITING,
    (ApprovalState.WAITING, ApprovalAct.GRANT): ApprovalState.GRANTED,
    (ApprovalState.WAITING, ApprovalAct.DENY): ApprovalState.DENIED,
    (ApprovalState.WAITING, ApprovalAct.EXPIRE): ApprovalState.EXPIRED,
    (ApprovalState.WAITING, ApprovalAct.WITHDRAW): ApprovalState.WITHDRAWN,
    (ApprovalState.GRANTED, ApprovalAct.LAPSE): ApprovalState.LAPSED,
}

REQUEST_ACT: dict[ApprovalAct, Act] = {
    ApprovalAct.GRANT: Act.APPROVE,
    ApprovalAct.DENY: Act.DENY,
    ApprovalAct.EXPIRE: Act.EXPIRE,
    ApprovalAct.WITHDRAW: Act.CANCEL,
}
"""What an approval's end does to each request that waits under it."""

FINAL = frozenset({State.ISSUED, State.DENIED, State.FAILED, State.CANCELLED})
OPEN = tuple(state.value for state in State if state not in FINAL)


class IllegalAct(Exception):
    """Something in that state cannot undergo that act."""

    def __init__(self, state: State | ApprovalState, act: Act | ApprovalAct) -> None:
        kind = "a request" if isinstance(state, State) else "an approval"
        super().__init__(f"{kind} that is {state.value} cannot {act.value}")
        self.state = state
        self.act = act


def after(state: str, *acts: Act) -> State:
    """The state of a request that these acts, in this order, lead to. Raises ``IllegalAct``."""
    reached = State(state)
    for act in acts:
        try:
            reached = _TABLE[reached, act]
        except KeyError:
            raise IllegalAct(reached, act) from None
    return reached


def approval_after(state: str, act: ApprovalAct) -> ApprovalState:
    """The state of an approval that an act leads to. Raises ``IllegalAct``."""
    known = ApprovalState(state)
    try:
        return _APPROVALS[known, act]
    except KeyError:
        raise IllegalAct(known, act) from None
