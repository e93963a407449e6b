"""The enrolment request's transition table."""

from __future__ import annotations

import pytest

from certloom.enrollment.states import FINAL, OPEN, Act, IllegalAct, State, after


def test_a_request_that_policy_lets_through_is_issued_in_one_go() -> None:
    assert after(State.RECEIVED, Act.APPROVE, Act.START, Act.ISSUE) is State.ISSUED


def test_a_request_that_waits_for_people_is_issued_after_they_agree() -> None:
    waiting = after(State.RECEIVED, Act.ASK)
    assert waiting is State.AWAITING_APPROVAL
    assert after(waiting, Act.APPROVE, Act.START, Act.ISSUE) is State.ISSUED


@pytest.mark.parametrize(
    ("act", "state"),
    [(Act.DENY, State.DENIED), (Act.EXPIRE, State.DENIED), (Act.CANCEL, State.CANCELLED)],
)
def test_a_waiting_request_ends_without_a_certificate(act: Act, state: State) -> None:
    assert after(State.AWAITING_APPROVAL, act) is state


@pytest.mark.parametrize("act", list(Act))
@pytest.mark.parametrize("state", sorted(FINAL))
def test_nothing_leads_out_of_a_final_state(state: State, act: Act) -> None:
    with pytest.raises(IllegalAct, match=f"{state.value} cannot {act.value}"):
        after(state, act)


@pytest.mark.parametrize("act", [Act.ISSUE, Act.START, Act.FAIL])
def test_a_waiting_request_is_not_issued_without_an_approval(act: Act) -> None:
    with pytest.raises(IllegalAct):
        after(State.AWAITING_APPROVAL, act)


def test_a_request_being_issued_can_no_longer_be_withdrawn() -> None:
    with pytest.raises(IllegalAct):
        after(State.ISSUING, Act.CANCEL)


def test_every_state_is_open_or_final() -> None:
    assert {State(name) for name in OPEN} | FINAL == set(State)
