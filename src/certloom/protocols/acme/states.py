"""The states of challenges, authorizations, orders and accounts (RFC 8555 section 7.1.6).

Theory of operation. An authorization holds its challenges; what happens to a challenge (``Act``) may end the
authorization, and nothing else does but deactivation and time. An order holds nothing: its status follows
from its authorizations until it is finalized, and from the enrolment request that finalizing made from then
on. So the moment the last authorization turns valid the order is ready, an approval changes the request and
nothing else, and no two records can disagree.

    challenge       pending ──respond──▶ processing ──prove──▶ valid
                                              └─────fail─────▶ invalid
    authorization   pending ──prove──▶ valid ──deactivate──▶ deactivated
                       │ └──fail──▶ invalid   (expired: when its time is up, pending or valid)
                       └──deactivate──▶ deactivated
    order           pending ─▶ ready ─▶ processing ─▶ valid
                       └─────────┴────────────┴─────▶ invalid

An act that has no entry for a state raises ``IllegalAct``.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar


class ChallengeStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class AuthorizationStatus(StrEnum):
    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    """Never stored: it follows from the time."""


class OrderStatus(StrEnum):
    """None of these is stored."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class AccountStatus(StrEnum):
    VALID = "valid"
    DEACTIVATED = "deactivated"


class Act(StrEnum):
    RESPOND = "respond"
    PROVE = "prove"
    FAIL = "fail"
    DEACTIVATE = "deactivate"


CHALLENGE: dict[tuple[ChallengeStatus, Act], ChallengeStatus] = {
    (ChallengeStatus.PENDING, Act.RESPOND): ChallengeStatus.PROCESSING,
    (ChallengeStatus.PROCESSING, Act.PROVE): ChallengeStatus.VALID,
    (ChallengeStatus.PROCESSING, Act.FAIL): ChallengeStatus.INVALID,
}

AUTHORIZATION: dict[tuple[AuthorizationStatus, Act], AuthorizationStatus] = {
    (AuthorizationStatus.PENDING, Act.RESPOND): AuthorizationStatus.PENDING,
    (AuthorizationStatus.PENDING, Act.PROVE): AuthorizationStatus.VALID,
    (AuthorizationStatus.PENDING, Act.FAIL): AuthorizationStatus.INVALID,
    (AuthorizationStatus.PENDING, Act.DEACTIVATE): AuthorizationStatus.DEACTIVATED,
    (AuthorizationStatus.VALID, Act.DEACTIVATE): AuthorizationStatus.DEACTIVATED,
}

ACCOUNT: dict[tuple[AccountStatus, Act], AccountStatus] = {
    (AccountStatus.VALID, Act.DEACTIVATE): AccountStatus.DEACTIVATED,
}

_FROM_REQUEST = {
    "issued": OrderStatus.VALID,
    "denied": OrderStatus.INVALID,
    "failed": OrderStatus.INVALID,
    "cancelled": OrderStatus.INVALID,
}
"""What a finalized order is, by the state of its enrolment request; in all other states it is processing."""

S = TypeVar("S", ChallengeStatus, AuthorizationStatus, AccountStatus)


class IllegalAct(Exception):
    """A thing in that state cannot undergo that act."""

    def __init__(self, status: str, act: Act) -> None:
        super().__init__(f"what is {status} cannot {act}")


def after(table: dict[tuple[S, Act], S], status: S, act: Act) -> S:
    """The status that the act leads to. Raises ``IllegalAct``."""
    try:
        return table[status, act]
    except KeyError:
        raise IllegalAct(status, act) from None


def authorization_status(stored: str, expires: int, now: int) -> AuthorizationStatus:
    """What a stored authorization is at this time (Unix seconds)."""
    status = AuthorizationStatus(stored)
    if expires <= now and status in (AuthorizationStatus.PENDING, AuthorizationStatus.VALID):
        return AuthorizationStatus.EXPIRED
    return status


def order_status(
    authorizations: Iterable[AuthorizationStatus], request_state: str | None, *, failed: bool, expired: bool
) -> OrderStatus:
    """What an order is.

    ``failed`` says that an error was recorded for it, ``expired`` that its time is up; neither undoes a
    finalized one. ``request_state`` is its enrolment request's, None until it is finalized.
    """
    if request_state is not None:
        return _FROM_REQUEST.get(request_state, OrderStatus.PROCESSING)
    if failed or expired:
        return OrderStatus.INVALID
    ready = True
    for status in authorizations:
        if status is AuthorizationStatus.PENDING:
            ready = False
        elif status is not AuthorizationStatus.VALID:
            return OrderStatus.INVALID
    return OrderStatus.READY if ready else OrderStatus.PENDING
