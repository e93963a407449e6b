"""Approvals when things happen at the same instant, and when the process dies. On both databases."""

from __future__ import annotations

import asyncio
from typing import Any

from certloom.clock import ManualClock
from certloom.enrollment.approvals import Changes
from certloom.enrollment.errors import Refused
from certloom.enrollment.states import ApprovalState, State
from certloom.store import Store, approvals
from tests.conftest import run
from tests.core import core
from tests.enrollment.people import BOB, CAROL, DAVE, counted, kinds, origin, person, profile, settled
from tests.enrollment.test_approvals import decide, rest


async def at_once(*acts: Any) -> list[Any]:
    return await asyncio.gather(*acts, return_exceptions=True)


def test_the_last_two_agreements_at_one_instant_issue_exactly_one_certificate(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 2}), 2)
            await c.runner.start()
            for n in range(5):
                waiting = await c.enrollment.submit(rest(f"h{n}.example.com"))
                answers = await at_once(decide(c, waiting, BOB), decide(c, waiting, CAROL))
                assert sorted(answer.state for answer in answers) == ["granted", "waiting"]
                assert (await settled(c, waiting.id)).state == State.ISSUED
                assert await counted(c, "certificates") == n + 1
            assert (await kinds(c, "approval.granted")) == ["approval.granted"] * 5
            assert await counted(c, "jobs") == 0
            await c.runner.stop()

    run(scenario())


def test_more_people_than_are_needed_at_one_instant_issue_exactly_one_certificate(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            await c.runner.start()
            waiting = await c.enrollment.submit(rest())
            people = [BOB, CAROL, DAVE, *(person(f"p{n}", "approver") for n in range(5))]
            answers = await at_once(*(decide(c, waiting, who) for who in people))
            assert sum(isinstance(answer, Refused) for answer in answers) == len(people) - 1
            assert (await settled(c, waiting.id)).state == State.ISSUED
            assert await counted(c, "certificates") == 1
            await c.runner.stop()

    run(scenario())


def test_one_person_at_two_keyboards_counts_once(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 2}), 2)
            waiting = await c.enrollment.submit(rest())
            by_token = person("bob", "approver", kind="token")
            answers = await at_once(*(decide(c, waiting, who) for who in (BOB, by_token, BOB, by_token)))
            assert sum(isinstance(answer, Refused) for answer in answers) == 3
            left = await store.read(lambda tx: approvals.get(tx, waiting.approval_id or ""))
            assert left is not None
            assert (left.state, len(left.agreements)) == (ApprovalState.WAITING, 1)

    run(scenario())


def test_yes_and_no_at_one_instant_end_it_one_way(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            await c.runner.start()
            for n in range(4):
                waiting = await c.enrollment.submit(rest(f"h{n}.example.com"))
                acts = [decide(c, waiting, BOB), decide(c, waiting, CAROL, "deny", "no")]
                acts.append(c.approvals.cancel(waiting.id, origin(BOB)))
                await at_once(*(acts if n % 2 else reversed(acts)))
                end = await settled(c, waiting.id)
                issued = await counted(c, "certificates")
                assert (end.certificate_id is not None) == (end.state == State.ISSUED)
                assert end.state in (State.ISSUED, State.DENIED, State.CANCELLED)
            assert issued <= 4
            await c.runner.stop()

    run(scenario())


def test_the_same_asked_many_times_at_one_instant_is_one_question(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            told: list[str] = []
            c.approvals.on_waiting = lambda tx, approval: tx.signal(f"told {approval.id}")
            asked = await asyncio.gather(*(c.enrollment.submit(rest()) for _ in range(8)))
            assert len({request.id for request in asked}) == 8
            assert len({request.approval_id for request in asked}) == 1
            assert await counted(c, "approvals") == 1
            assert (await kinds(c, "approval.%")) == ["approval.waiting"]
            assert told == []

    run(scenario())


def test_asking_while_the_last_agrees_never_leaves_a_request_waiting(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            await c.runner.start()
            for n in range(4):
                first = await c.enrollment.submit(rest(f"h{n}.example.com"))
                acts = [c.enrollment.submit(rest(f"h{n}.example.com")) for _ in range(4)]
                _, *others = await asyncio.gather(decide(c, first, BOB), *acts)
                for request in (first, *others):
                    assert (await settled(c, request.id)).state == State.ISSUED
            await c.runner.stop()

    run(scenario())


def test_a_change_at_the_instant_of_another_agreement_is_agreed_to_by_enough_or_waits(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 2, "may_change": ["validity"]}), 2)
            waiting = await c.enrollment.submit(rest())
            change = c.approvals.decide(
                waiting.approval_id or "", BOB, origin(BOB), "approve", "", Changes(lifetime=86400)
            )
            await at_once(change, decide(c, waiting, CAROL))
            left = await store.read(lambda tx: approvals.get(tx, waiting.approval_id or ""))
            assert left is not None
            # Carol was first and saw another lifetime, so hers is void; or she agreed to what Bob made of it.
            carols = [d for d in left.decisions if d.person == "carol"]
            assert (left.state == ApprovalState.GRANTED) == (not carols[0].void)

    run(scenario())


def test_what_was_agreed_before_a_crash_is_issued_once_after_it(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock, "first") as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            waiting = await c.enrollment.submit(rest())
            # Nobody runs jobs: the process dies with the last agreement on disk and nothing signed.
            await decide(c, waiting, BOB)
            assert (await settled_or_not(c, waiting.id)) == State.APPROVED
        async with core(store, clock, "second") as c:
            await c.runner.start()
            assert (await settled(c, waiting.id)).state == State.ISSUED
            assert await counted(c, "certificates") == 1
            await c.runner.stop()

    async def settled_or_not(c: Any, id: str) -> str:
        from certloom.store import requests

        found = await c.store.read(lambda tx: requests.get(tx, id))
        return str(found.state)

    run(scenario())


def test_a_crash_between_signing_and_recording_burns_the_serial_and_issues_once(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock, "first") as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            waiting = await c.enrollment.submit(rest())
            signed = asyncio.Event()
            authority = c.local()
            issue = authority.issue

            async def and_die(contents: Any) -> Any:
                await issue(contents)
                signed.set()
                await asyncio.sleep(3600)

            authority.issue = and_die  # type: ignore[method-assign]
            await c.runner.start()
            await decide(c, waiting, BOB)
            await signed.wait()
            # Killed, not stopped: its lease stays until it runs out.
            await c.runner.stop(0)
        clock.advance(3600)
        async with core(store, clock, "second") as c:
            await c.runner.start()
            assert (await settled(c, waiting.id)).state == State.ISSUED
            assert await counted(c, "certificates") == 1
            await c.runner.stop()

    run(scenario())
