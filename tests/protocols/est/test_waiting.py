"""Waiting for people (RFC 7030 section 4.2.3), and asking again."""

from __future__ import annotations

import asyncio
from typing import Literal

from certloom.server.retention import Retention
from certloom.settings.schema import Retention as RetentionSettings
from certloom.store import Store
from tests.conftest import run
from tests.enrollment.people import BOB, origin, settled
from tests.protocols.est.lab import Lab, csr, lab, new_key


async def waiting(it: Lab) -> int:
    row = await it.c.store.read(
        lambda tx: tx.one("SELECT count(*) FROM enrolment_requests WHERE state = 'awaiting_approval'")
    )
    assert row is not None
    return int(row[0])


async def decide(it: Lab, verb: Literal["approve", "deny"], why: str = "") -> None:
    """Bob answers the one question there is."""
    row = await it.c.store.read(
        lambda tx: tx.one("SELECT id, approval_id FROM enrolment_requests WHERE state = 'awaiting_approval'")
    )
    assert row is not None
    await it.c.approvals.decide(row[1], BOB, origin(BOB), verb, why)
    await settled(it.c, row[0])


async def ask_people(it: Lab) -> str:
    await it.profile(approval={"approvers": 1})
    await it.channel(poll_seconds=7)
    return await it.password(uses=1)


def test_a_client_waits_for_people_and_then_gets_its_certificate(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, key = await ask_people(it), new_key()
            answer = await it.enroll(csr(key, "w.example"), authorization=password)
            assert answer.status == 202
            assert answer.headers["retry-after"] == "7"
            # Polling, each time signed anew, and with another challenge password: the same ask.
            for text in (None, "one", "two"):
                again = await it.enroll(csr(key, "w.example", password=text), authorization=password)
                assert again.status == 202
            assert await waiting(it) == 1
            await it.c.runner.start()
            await decide(it, "approve")
            await it.c.runner.stop(5)
            issued = await it.enroll(csr(key, "w.example"), authorization=password)
            assert issued.certificate.public_key() == key.public_key()
            assert await it.count() == 1

    run(go())


def test_another_key_or_name_is_another_ask(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.profile(approval={"approvers": 1})
            password, key = await it.password(), new_key()
            for body in (csr(key, "a.example"), csr(key, "b.example"), csr(new_key(), "a.example")):
                assert (await it.enroll(body, authorization=password)).status == 202
            assert await waiting(it) == 3

    run(go())


def test_a_refusal_is_told_once_more_and_people_are_not_asked_again(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, key = await ask_people(it), new_key()
            await it.enroll(csr(key, "w.example"), authorization=password)
            await decide(it, "deny", "not on my network")
            for _ in range(2):
                answer = await it.enroll(csr(key, "w.example"), authorization=password)
                assert answer.status == 403
                assert "not on my network" in answer.text
            assert await waiting(it) == 0

    run(go())


def test_of_asks_at_one_instant_one_is_answered_for_all(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, key = await it.password(uses=1), new_key()
            answers = await asyncio.gather(
                *[it.enroll(csr(key, "i.example"), authorization=password) for _ in range(8)]
            )
            # Who came a moment too late for the one use may be told so; none gets a second certificate.
            issued = {a.der for a in answers if a.status == 200}
            assert len(issued) == 1
            assert {a.status for a in answers} <= {200, 401}
            assert await it.count() == 1

    run(go())


def test_renewals_need_not_ask_people_again(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, key = await it.password(), new_key()
            old = (await it.enroll(csr(key, "w.example"), authorization=password)).certificate
            await it.profile(approval={"approvers": 1})
            body = csr(new_key(), "w.example")
            assert (await it.enroll(body, operation="simplereenroll", certificate=old)).status == 202
            await it.profile(approval={"approvers": 1, "renewals": False})
            body = csr(new_key(), "w.example")
            assert (await it.enroll(body, operation="simplereenroll", certificate=old)).status == 200
            assert (await it.enroll(csr(new_key(), "x.example"), authorization=password)).status == 202

    run(go())


def test_old_transactions_go(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password = await it.password()
            await it.enroll(csr(new_key(), "old.example"), authorization=password)
            await it.profile(approval={"approvers": 1})
            await it.enroll(csr(new_key(), "open.example"), authorization=password)
            it.clock.advance(9 * 86_400)
            pruned = await Retention(store, it.clock, RetentionSettings()).prune()
            # What still waits is kept for who still asks.
            assert pruned.transactions == 1

    run(go())
