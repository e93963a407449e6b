"""Nonces: good once, for a while, in this process only; and what a flood costs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.clock import ManualClock
from certloom.protocols.acme.nonces import Nonces
from certloom.protocols.acme.problems import Problem


def refused(nonces: Nonces, nonce: str) -> Problem:
    with pytest.raises(Problem) as caught:
        nonces.use(nonce)
    return caught.value


def test_a_nonce_is_good_once() -> None:
    nonces = Nonces(ManualClock(), 3600)
    nonce = nonces.issue().decode()
    nonces.use(nonce)
    assert refused(nonces, nonce).type == "badNonce"


def test_nonces_can_be_used_in_any_order() -> None:
    clock = ManualClock()
    nonces = Nonces(clock, 3600)
    issued = []
    for _ in range(200):
        issued.append(nonces.issue().decode())
        clock.advance(3)
    assert len(set(issued)) == 200
    for nonce in reversed(issued):
        nonces.use(nonce)
    for nonce in issued:
        assert refused(nonces, nonce).type == "badNonce"


def test_a_nonce_lives_as_long_as_set_and_not_much_longer() -> None:
    clock = ManualClock()
    nonces = Nonces(clock, 3600)
    first, second = nonces.issue().decode(), nonces.issue().decode()
    clock.advance(3600)
    nonces.use(first)
    clock.advance(3600 / 16 * 2)
    assert refused(nonces, second).type == "badNonce"


def test_what_a_nonce_was_used_for_is_not_forgotten_before_it_expires() -> None:
    clock = ManualClock()
    nonces = Nonces(clock, 3600)
    nonce = nonces.issue().decode()
    nonces.use(nonce)
    for _ in range(100):
        clock.advance(100)
        nonces.issue()
        assert refused(nonces, nonce).type == "badNonce"


def test_the_wording_is_what_acme_sh_looks_for() -> None:
    nonces = Nonces(ManualClock(), 3600)
    assert refused(nonces, "A" * 32).detail == "JWS has an invalid anti-replay nonce"


def test_a_nonce_of_another_process_is_bad() -> None:
    clock = ManualClock()
    assert refused(Nonces(clock, 3600), Nonces(clock, 3600).issue().decode()).type == "badNonce"


@pytest.mark.parametrize("nonce", ["%", "a=", "AA==", "é", " ", "AAAAA", "\0", "a+b/"])
def test_what_is_not_base64url_is_malformed(nonce: str) -> None:
    # RFC 8555 section 6.5.2
    assert refused(Nonces(ManualClock(), 3600), nonce).type == "malformed"


@given(st.text(max_size=40) | st.text(alphabet="ABCabc019-_", min_size=32, max_size=32))
def test_no_text_makes_use_raise_anything_but_a_problem(text: str) -> None:
    with contextlib.suppress(Problem):
        Nonces(ManualClock(), 3600).use(text)


@given(st.integers(0, 31), st.sampled_from("ABCDabcd0123-_"))
def test_a_changed_nonce_is_not_good(place: int, letter: str) -> None:
    nonces = Nonces(ManualClock(), 3600)
    nonce = nonces.issue().decode()
    changed = nonce[:place] + letter + nonce[place + 1 :]
    if changed != nonce:
        assert refused(nonces, changed).type == "badNonce"


def test_a_flood_pushes_nobody_out_and_costs_one_bit_a_nonce() -> None:
    clock = ManualClock()
    nonces = Nonces(clock, 3600)
    mine = nonces.issue().decode()
    for _ in range(100_000):
        nonces.issue()
    assert nonces.remembered_bytes <= 100_001 // 8 + 1
    nonces.use(mine)


def test_memory_does_not_grow_for_ever() -> None:
    clock = ManualClock()
    nonces = Nonces(clock, 1600)
    most = 0
    for _ in range(400):
        clock.advance(50)
        for _ in range(80):
            nonces.issue()
        most = max(most, nonces.remembered_bytes)
    assert most <= 80 * (1600 // 50 + 8) // 8


def test_a_clock_that_goes_back_makes_no_nonce_good_twice() -> None:
    clock = ManualClock()
    nonces = Nonces(clock, 3600)
    used = nonces.issue().decode()
    nonces.use(used)
    clock.advance(-1000)
    fresh = nonces.issue().decode()
    nonces.use(fresh)
    assert refused(nonces, used).type == refused(nonces, fresh).type == "badNonce"


def test_good_nonces_can_be_refused_to_find_out_who_retries() -> None:
    nonces = Nonces(ManualClock(), 3600, refuse_good=1.0)
    assert refused(nonces, nonces.issue().decode()).type == "badNonce"
    some = Nonces(ManualClock(), 3600, refuse_good=0.5)
    outcomes = set()
    for _ in range(100):
        try:
            some.use(some.issue().decode())
            outcomes.add("good")
        except Problem as problem:
            outcomes.add(problem.type)
    assert outcomes == {"good", "badNonce"}
