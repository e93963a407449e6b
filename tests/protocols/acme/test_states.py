"""The states of RFC 8555 section 7.1.6."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.enrollment.states import FINAL, State
from certloom.protocols.acme.states import (
    ACCOUNT,
    AUTHORIZATION,
    CHALLENGE,
    AccountStatus,
    Act,
    AuthorizationStatus,
    ChallengeStatus,
    IllegalAct,
    OrderStatus,
    after,
    authorization_status,
    order_status,
)

A = AuthorizationStatus
C = ChallengeStatus
R = OrderStatus


def test_a_challenge_goes_from_pending_through_processing_to_valid_or_invalid() -> None:
    assert after(CHALLENGE, C.PENDING, Act.RESPOND) is C.PROCESSING
    assert after(CHALLENGE, C.PROCESSING, Act.PROVE) is C.VALID
    assert after(CHALLENGE, C.PROCESSING, Act.FAIL) is C.INVALID


def test_nothing_else_can_happen() -> None:
    tables: Any = ((CHALLENGE, C), (AUTHORIZATION, A), (ACCOUNT, AccountStatus))
    for table, states in tables:
        for status, act in itertools.product(states, Act):
            if (status, act) not in table:
                with pytest.raises(IllegalAct):
                    after(table, status, act)


def test_what_is_final_stays_so() -> None:
    for final in (A.INVALID, A.DEACTIVATED, A.EXPIRED):
        assert not [act for status, act in AUTHORIZATION if status is final]
    for done in (C.VALID, C.INVALID):
        assert not [act for status, act in CHALLENGE if status is done]


def test_time_expires_what_is_open_or_valid_and_nothing_else() -> None:
    for status in (A.PENDING, A.VALID):
        assert authorization_status(status, 100, 99) is status
        assert authorization_status(status, 100, 100) is A.EXPIRED
    for status in (A.INVALID, A.DEACTIVATED):
        assert authorization_status(status, 100, 100) is status


def test_an_order_is_ready_as_soon_as_every_authorization_is_valid() -> None:
    assert order_status([A.VALID, A.PENDING], None, failed=False, expired=False) is R.PENDING
    assert order_status([A.VALID, A.VALID], None, failed=False, expired=False) is R.READY


@pytest.mark.parametrize("bad", [A.INVALID, A.DEACTIVATED, A.EXPIRED])
def test_one_authorization_that_came_to_nothing_makes_the_order_invalid(bad: A) -> None:
    for others in ([A.PENDING], [A.VALID], []):
        assert order_status([*others, bad], None, failed=False, expired=False) is R.INVALID
        assert order_status([bad, *others], None, failed=False, expired=False) is R.INVALID


def test_a_finalized_order_follows_its_enrolment_request_and_nothing_else() -> None:
    for state in State:
        expected = {
            State.ISSUED: R.VALID,
            State.DENIED: R.INVALID,
            State.FAILED: R.INVALID,
            State.CANCELLED: R.INVALID,
        }.get(state, R.PROCESSING)
        assert (state in FINAL) == (expected is not R.PROCESSING)
        for failed, expired in itertools.product((True, False), repeat=2):
            assert order_status([A.EXPIRED], state, failed=failed, expired=expired) is expected


@given(st.lists(st.sampled_from(A), max_size=5), st.booleans(), st.booleans())
def test_an_order_that_is_not_finalized_is_never_processing_or_valid(
    found: list[A], failed: bool, expired: bool
) -> None:
    status = order_status(found, None, failed=failed, expired=expired)
    assert status in (R.PENDING, R.READY, R.INVALID)
    if failed or expired:
        assert status is R.INVALID
