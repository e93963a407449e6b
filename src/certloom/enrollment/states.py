"""The life of an enrolment request.

A request is received; policy lets it through (approved), sends it to people (awaiting_approval) or refuses it
(it is then never stored). Approved requests are issued, by the authority at once or, where an authority takes
its time, after a stay in ``issuing``. ``issued``, ``denied``, ``failed`` and ``cancelled`` are final.

    received ──ask──▶ awaiting_approval ──deny/expire──▶ denied
       │                 │        └──────cancel────────▶ cancelled
       └────approve──────┴─▶ approved ──start──▶ issuing ──issue──▶ issued
                               └──cancel──▶ cancelled └──fail──▶ failed

Nothing else is possible: an act that is not in the table for a state raises ``IllegalAct``. Everything that
changes a request's state goes through ``after``. States that begin and end inside one transaction (received,
approved and issuing of a request that an authority answers at once) are never seen by anyone else.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    RECEIVED = "received"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    ISSUING = "issuing"
    ISSUED = "issued"
    DENIED = "denied"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Act(StrEnum):
    ASK = "ask"
    APPROVE = "approve"
    DENY = "deny"
    EXPIRE = "expire"
    CANCEL = "cancel"
    START = "start"
    ISSUE = "issue"
    FAIL = "fail"


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

FINAL = frozenset({State.ISSUED, State.DENIED, State.FAILED, State.CANCELLED})
OPEN = tuple(state.value for state in State if state not in FINAL)


class IllegalAct(Exception):
    """A request in that state cannot undergo that act."""

    def __init__(self, state: State, act: Act) -> None:
        super().__init__(f"a request that is {state.value} cannot {act.value}")
        self.state = state
        self.act = act


def after(state: str, *acts: Act) -> State:
    """The state that these acts, in this order, lead to. Raises ``IllegalAct``."""
    reached = State(state)
    for act in acts:
        try:
            reached = _TABLE[reached, act]
        except KeyError:
            raise IllegalAct(reached, act) from None
    return reached
