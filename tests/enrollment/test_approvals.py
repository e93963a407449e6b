"""Approvals: what people agree to, how often, and what it is worth. On both databases."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from cryptography import x509

from certloom.clock import ManualClock
from certloom.enrollment.approvals import Changes
from certloom.enrollment.errors import Refused
from certloom.enrollment.states import ApprovalState, State
from certloom.identity.principals import Scope
from certloom.policy.decisions import Requester
from certloom.store import Store, approvals, certificates, requests
from certloom.store.approvals import StoredApproval
from certloom.store.base import Tx
from certloom.store.request_search import Filters, FoundRequests, find_approvals, find_requests
from tests.conftest import run
from tests.core import Core, core
from tests.enrollment.people import (
    BOB,
    CAROL,
    DAVE,
    SAM,
    SUE,
    counted,
    kinds,
    origin,
    person,
    profile,
    settled,
)
from tests.enrollment.test_pipeline import ask, certificate_of, csr

REST = Requester("person", "alice", "alice", "web")


def rest(name: str = "www.example.com", **changes: Any) -> Any:
    """An ask over REST, each with a key of its own."""
    values: dict[str, Any] = {
        "protocol": "rest",
        "channel": "api",
        "requester": REST,
        "idempotency_key": None,
    }
    return ask(csr(name), **(values | changes))


async def approval_of(c: Core, request: requests.EnrolmentRequest) -> StoredApproval:
    id = request.approval_id
    assert id is not None
    found = await c.store.read(lambda tx: approvals.get(tx, id))
    assert found is not None
    return found


def _found(tx: Tx, filters: Filters) -> FoundRequests:
    return find_requests(tx, filters, None, 10)


async def decide(c: Core, request: Any, who: Any, verb: Any = "approve", why: str = "", **change: Any) -> Any:
    changes = Changes(**change) if change else None
    return await c.approvals.decide(request.approval_id, who, origin(who), verb, why, changes)


async def refused(code: str, act: Any) -> None:
    with pytest.raises(Refused) as caught:
        await act
    assert caught.value.code == code


def test_a_request_waits_and_is_issued_when_the_last_of_its_people_agrees(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 2}), 2)
            await c.runner.start()
            waiting = await c.enrollment.submit(rest())
            assert waiting.state == State.AWAITING_APPROVAL
            assert waiting.expires == clock.now() + 7 * 86400
            assert (await decide(c, waiting, BOB)).state == ApprovalState.WAITING
            assert await counted(c, "certificates") == 0
            await refused("already-answered", decide(c, waiting, BOB))
            granted = await decide(c, waiting, CAROL, why="fine with me")
            assert granted.state == ApprovalState.GRANTED
            done = await settled(c, waiting.id)
            assert done.state == State.ISSUED
            row = await certificate_of(c, done.certificate_id)
            assert (row.profile_version, row.owner, row.team) == (2, "alice", "web")
            assert await kinds(c, "approval.%") == ["approval.waiting", "approval.agreed", "approval.granted"]
            await c.runner.stop()

    run(scenario())


def test_a_second_ask_for_the_same_joins_and_nobody_is_told_again(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            told: list[str] = []
            c.approvals.on_waiting = lambda tx, approval: told.append(approval.id)
            await c.runner.start()
            first = await c.enrollment.submit(rest())
            clock.advance(600)
            second = await c.enrollment.submit(rest())
            other = await c.enrollment.submit(rest("other.example.com"))
            assert second.id != first.id
            assert second.approval_id == first.approval_id != other.approval_id
            assert second.expires == first.expires
            assert told == [first.approval_id, other.approval_id]
            await decide(c, first, BOB)
            ids = {(await settled(c, r.id)).certificate_id for r in (first, second)}
            assert len(ids) == 2
            assert None not in ids
            assert (await settled(c, other.id)).state == State.AWAITING_APPROVAL
            await c.runner.stop()

    run(scenario())


def test_while_it_is_good_further_asks_are_issued_at_once_and_then_people_are_asked_anew(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1, "good_for": "2d"}), 2)
            waiting = await c.enrollment.submit(rest())
            await decide(c, waiting, BOB)
            clock.advance(2 * 86400 - 1)
            next_one = await c.enrollment.submit(rest())
            assert next_one.state == State.ISSUED
            assert next_one.approval_id == waiting.approval_id
            # Not for somebody else, for another team, another name or another lifetime.
            for other in (
                rest(requester=Requester("person", "mallory", "mallory", "web")),
                rest(requester=Requester("person", "alice", "alice", "db")),
                rest("evil.example.com"),
                rest(lifetime=3600),
            ):
                asked = await c.enrollment.submit(other)
                assert asked.state == State.AWAITING_APPROVAL
                assert asked.approval_id != waiting.approval_id
            clock.advance(1)
            late = await c.enrollment.submit(rest())
            assert late.state == State.AWAITING_APPROVAL
            assert late.approval_id != waiting.approval_id
            lapsed = await approval_of(c, waiting)
            assert lapsed.state == ApprovalState.LAPSED

    run(scenario())


def test_another_limit_in_the_profile_makes_it_another_question_and_another_description_does_not(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            waiting = await c.enrollment.submit(rest())
            same = {"approvers": 1, "wait": "1d", "good_for": "1d"}
            await c.put_profile(profile(same, description="Web servers", renewal={"start": 0.5}), 3)
            joined = await c.enrollment.submit(rest())
            assert joined.approval_id == waiting.approval_id
            await c.put_profile(profile({"approvers": 1}, key_usage=["digitalSignature", "keyAgreement"]), 4)
            anew = await c.enrollment.submit(rest())
            assert anew.approval_id != waiting.approval_id

    run(scenario())


def test_stages_follow_one_another_and_each_wants_its_own_role(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            stages = [{"role": "approver", "approvers": 2}, {"role": "security"}]
            await c.put_profile(profile({"stages": stages}), 2)
            told: list[int] = []
            c.approvals.on_waiting = lambda tx, approval: told.append(approval.stage)
            decided: list[str] = []
            c.approvals.on_decided = lambda tx, approval: decided.append(approval.state)
            await c.runner.start()
            waiting = await c.enrollment.submit(rest())
            await refused("not-an-approver", decide(c, waiting, SAM))
            await decide(c, waiting, BOB)
            assert told == [0]
            assert (await decide(c, waiting, CAROL)).stage == 1
            assert told == [0, 1]
            await refused("not-an-approver", decide(c, waiting, DAVE))
            # One human being counts once in all stages together, whatever they hold.
            both = person("bob", "approver", "security", kind="token")
            await refused("already-answered", decide(c, waiting, both))
            assert (await decide(c, waiting, SAM)).state == ApprovalState.GRANTED
            assert decided == ["granted"]
            assert (await settled(c, waiting.id)).state == State.ISSUED
            await c.runner.stop()

    run(scenario())


def test_nobody_decides_about_their_own(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            waiting = await c.enrollment.submit(rest())
            await refused("own-request", decide(c, waiting, person("alice", "admin", "approver")))
            # Nor through a service of theirs.
            service = Requester("acme-account", "17", "bob")
            by_service = await c.enrollment.submit(ask(csr(), requester=service))
            await refused("own-request", decide(c, by_service, BOB))
            await refused("own-request", decide(c, by_service, BOB, "deny", "no"))
            await decide(c, by_service, CAROL)

    run(scenario())


def test_a_role_counts_only_where_it_is_held(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            waiting = await c.enrollment.submit(rest("www.prod.example.com"))
            for scope in (
                Scope(names=("**.test.example.com",)),
                Scope(teams=("db",)),
                Scope(profiles=("tls-client",)),
                Scope(channels=("acme/default",)),
            ):
                await refused("not-allowed", decide(c, waiting, person("erin", "approver", scope=scope)))
            await refused("not-allowed", decide(c, waiting, person("olga", "operator")))
            # Who may do everything still is no approver, where approvers are asked.
            await refused("not-an-approver", decide(c, waiting, person("root", "admin")))
            scope = Scope(names=("**.prod.example.com",), teams=("web",))
            assert (await decide(c, waiting, person("erin", "approver", scope=scope))).state == "granted"

    run(scenario())


def test_one_no_ends_it_for_all_that_wait_and_tells_why(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 2}), 2)
            request = rest(idempotency_key="k")
            waiting = await c.enrollment.submit(request)
            joined = await c.enrollment.submit(rest())
            await decide(c, waiting, BOB)
            await refused("reason-needed", decide(c, waiting, CAROL, "deny", " "))
            await refused("not-an-approver", decide(c, waiting, SUE, "deny", "no"))
            denied = await decide(c, waiting, CAROL, "deny", "not our name")
            assert denied.state == ApprovalState.DENIED
            for id in (waiting.id, joined.id):
                after = await settled(c, id)
                assert (after.state, after.reasons[0].message) == (State.DENIED, "not our name")
            assert (await c.enrollment.submit(request)).state == State.DENIED
            await refused("not-waiting", decide(c, waiting, DAVE))
            # Asked again, people are asked again.
            assert (await c.enrollment.submit(rest())).approval_id != waiting.approval_id

    run(scenario())


def test_what_nobody_answers_expires(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1, "wait": "1d"}), 2)
            decided: list[str] = []
            c.approvals.on_decided = lambda tx, approval: decided.append(approval.state)
            waiting = await c.enrollment.submit(rest())
            assert await c.approvals.expire() == 0
            clock.advance(86400)
            # Time is up, whether or not anybody has written it down.
            await refused("not-waiting", decide(c, waiting, BOB))
            fresh = await c.enrollment.submit(rest())
            assert fresh.approval_id != waiting.approval_id
            assert await c.approvals.expire() == 0
            after = await settled(c, waiting.id)
            assert (after.state, after.reasons[0].code) == (State.DENIED, "approval-expired")
            clock.advance(86400)
            assert await c.approvals.expire() == 1
            assert decided == ["expired", "expired"]

    run(scenario())


def test_what_waited_before_there_were_approvals_is_told_to_ask_again(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            old = await c.enrollment.submit(rest())
            await store.write(lambda tx: tx.run("UPDATE enrolment_requests SET approval_id = NULL"))
            assert await c.approvals.expire() == 1
            assert (await settled(c, old.id)).state == State.DENIED

    run(scenario())


def test_an_agreement_that_is_no_longer_good_is_marked_so(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1, "good_for": 60}), 2)
            waiting = await c.enrollment.submit(rest())
            await decide(c, waiting, BOB)
            clock.advance(60)
            assert await c.approvals.expire() == 1
            assert (await approval_of(c, waiting)).state == ApprovalState.LAPSED

    run(scenario())


def test_with_the_last_request_the_question_is_withdrawn(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            waiting = await c.enrollment.submit(rest())
            joined = await c.enrollment.submit(rest())
            assert (await c.approvals.cancel(waiting.id, origin(BOB))).state == State.CANCELLED
            assert (await approval_of(c, waiting)).state == ApprovalState.WAITING
            await refused("not-waiting", c.approvals.cancel(waiting.id, origin(BOB)))
            await c.approvals.cancel(joined.id, origin(BOB))
            assert (await approval_of(c, waiting)).state == ApprovalState.WITHDRAWN
            await refused("not-waiting", decide(c, joined, BOB))
            await refused("unknown-request", c.approvals.cancel("nothing", origin(BOB)))

    run(scenario())


def test_withdrawing_the_question_cancels_all_that_waits_and_a_given_agreement_can_be_taken_back(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            waiting = await c.enrollment.submit(rest())
            joined = await c.enrollment.submit(rest())
            gone = await c.approvals.withdraw(waiting.approval_id or "", origin(BOB), "a mistake")
            assert gone.state == ApprovalState.WITHDRAWN
            assert {(await settled(c, r.id)).state for r in (waiting, joined)} == {State.CANCELLED}
            other = await c.enrollment.submit(rest())
            await decide(c, other, BOB)
            back = await c.approvals.withdraw(other.approval_id or "", origin(BOB), "she left")
            assert back.state == ApprovalState.LAPSED
            assert (await c.enrollment.submit(rest())).state == State.AWAITING_APPROVAL

    run(scenario())


def test_an_approver_may_change_what_the_profile_lets_them_and_what_was_agreed_before_is_void(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 2, "may_change": ["validity", "names"]}), 2)
            told: list[int] = []
            c.approvals.on_waiting = lambda tx, approval: told.append(len(approval.changes))
            await c.runner.start()
            waiting = await c.enrollment.submit(rest(lifetime=20 * 86400))
            await decide(c, waiting, BOB)
            await refused("validity-too-long", decide(c, waiting, CAROL, lifetime=61 * 86400))
            await refused("bad-names", decide(c, waiting, CAROL, names=("www.example.com",)))
            wrong_type = decide(c, waiting, CAROL, names=("email:a@example.com",))
            await refused("identifier-type-not-allowed", wrong_type)
            names = ("dns:www.example.com", "dns:www2.example.com")
            changed = await decide(c, waiting, CAROL, lifetime=10 * 86400, names=names)
            assert changed.state == ApprovalState.WAITING
            assert [d.void for d in changed.decisions] == [True, False]
            assert changed.effective_names == names
            assert told == [0, 1]
            await refused("already-answered", decide(c, waiting, CAROL))
            # Bob saw something else then; now he sees this.
            assert (await decide(c, waiting, BOB)).state == ApprovalState.GRANTED
            row = await certificate_of(c, (await settled(c, waiting.id)).certificate_id)
            issued = x509.load_der_x509_certificate(row.der)
            found = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert found.get_values_for_type(x509.DNSName) == ["www.example.com", "www2.example.com"]
            assert row.not_after - row.not_before + 1 == 10 * 86400
            # The same asked again is issued as it was agreed.
            again = await c.enrollment.submit(rest(lifetime=20 * 86400))
            row = await certificate_of(c, again.certificate_id)
            assert row.not_after - row.not_before + 1 == 10 * 86400
            (data,) = await c.store.read(
                lambda tx: tx.all(
                    "SELECT data FROM events WHERE kind = 'certificate.issued' ORDER BY id LIMIT 1"
                )
            )
            for part in ('"changed"', '"before":1728000', '"after":864000', "person:carol", "www2"):
                assert part in data[0]
            await c.runner.stop()

    run(scenario())


def test_what_the_profile_does_not_let_approvers_change_stays(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1, "may_change": ["names"]}), 2)
            waiting = await c.enrollment.submit(rest())
            await refused("change-not-allowed", decide(c, waiting, BOB, lifetime=86400))
            await refused(
                "change-not-allowed", decide(c, waiting, BOB, "deny", "no", names=("dns:a.example",))
            )
            scoped = person("erin", "approver", scope=Scope(names=("www.example.com",)))
            names = ("dns:www.example.com", "dns:other.example.com")
            await refused("not-allowed", decide(c, waiting, scoped, names=names))
            assert (await approval_of(c, waiting)).changes == ()

    run(scenario())


def test_acme_gets_its_orders_names_and_the_times_it_asked_for(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1, "may_change": ["validity", "names"]}), 2)
            plain = await c.enrollment.submit(ask(csr("a.example.com")))
            await refused("change-not-allowed", decide(c, plain, BOB, names=("dns:b.example.com",)))
            exact = await c.enrollment.submit(
                ask(csr("b.example.com"), not_after=clock.now() + 20 * 86400, idempotency_key="2")
            )
            await refused("change-not-allowed", decide(c, exact, BOB, lifetime=86400))
            # Where it asked for no time, the time is the CA's to choose.
            await c.runner.start()
            await decide(c, plain, BOB, lifetime=86400)
            row = await certificate_of(c, (await settled(c, plain.id)).certificate_id)
            assert row.not_after - row.not_before + 1 == 86400
            await c.runner.stop()

    run(scenario())


def test_an_approved_request_whose_key_was_blocked_meanwhile_fails(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            request = rest()
            waiting = await c.enrollment.submit(request)
            spki = request.csr.key.spki_sha256
            await store.write(lambda tx: certificates.block_key(tx, spki, "stolen", clock.now()))
            await c.runner.start()
            await decide(c, waiting, BOB)
            failed = await settled(c, waiting.id)
            assert (failed.state, failed.reasons[0].code) == (State.FAILED, "key-blocked")
            await c.runner.stop()

    run(scenario())


def test_nobody_can_flood_people_with_questions(store: Store, clock: ManualClock) -> None:
    from certloom.enrollment.waiting import WaitingRoom
    from certloom.settings.schema import Enrollment

    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            few = Enrollment(waiting_per_requester=3, approvals_per_day=4)
            c.enrollment._waiting = WaitingRoom(clock, c.enrollment.moves, few)
            asked = [await c.enrollment.submit(rest(f"h{n}.example.com")) for n in range(2)]
            asked.append(await c.enrollment.submit(rest("h0.example.com")))
            await refused("too-many-waiting", c.enrollment.submit(rest("h0.example.com")))
            await c.enrollment.submit(rest(requester=Requester("person", "zoe", "zoe")))
            # Asking, withdrawing and asking again is no way around it.
            for request in asked:
                await c.approvals.cancel(request.id, origin(BOB))
            for n in range(2):
                again = await c.enrollment.submit(rest(f"h{n}.example.com"))
                await c.approvals.cancel(again.id, origin(BOB))
            await refused("too-many-waiting", c.enrollment.submit(rest("h9.example.com")))
            clock.advance(86400)
            await c.enrollment.submit(rest("h9.example.com"))

    run(scenario())


def test_an_owner_has_one_limit_over_all_they_ask_with(store: Store, clock: ManualClock) -> None:
    from certloom.enrollment.waiting import WaitingRoom
    from certloom.settings.schema import Enrollment

    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            few = Enrollment(waiting_per_requester=2, approvals_per_day=3)
            c.enrollment._waiting = WaitingRoom(clock, c.enrollment.moves, few)

            def ask(name: str, kind: str, id: str, owner: str | None) -> Any:
                return c.enrollment.submit(
                    rest(f"{name}.example.com", requester=Requester(kind, id, owner, None))
                )

            asked = [await ask("a", "person", "zoe", "zoe"), await ask("b", "token", "t1", "zoe")]
            for kind, id in (("token", "t2"), ("acme-account", "17"), ("person", "zoe")):
                await refused("too-many-waiting", ask("c", kind, id, "zoe"))
            # Who shares no owner is not held back, and who has none counts alone.
            await ask("c", "token", "t3", "yan")
            for id in ("18", "19"):
                await ask("d", "acme-account", id, None)
                await ask("e", "acme-account", id, None)
                await refused("too-many-waiting", ask("f", "acme-account", id, None))
            # So with what people are asked within a day.
            for request in asked:
                await c.approvals.cancel(request.id, origin(BOB))
            await c.approvals.cancel((await ask("g", "token", "t4", "zoe")).id, origin(BOB))
            await refused("too-many-waiting", ask("h", "token", "t5", "zoe"))

    run(scenario())


@pytest.mark.parametrize("whose", ["requester", "owner"])
def test_limits_are_looked_up_in_an_index(whose: str, store: Store, clock: ManualClock) -> None:
    explain = "EXPLAIN QUERY PLAN " if store.dialect == "sqlite" else "EXPLAIN "

    def unit(tx: Tx) -> list[str]:
        if store.dialect != "sqlite":
            tx.run("SET LOCAL enable_seqscan = off")
            tx.run("SET LOCAL enable_bitmapscan = off")
        rows = []
        for table, more in (
            ("enrolment_requests", "state = 'awaiting_approval'"),
            ("approvals", "created > 5"),
        ):
            found = tx.all(f"{explain}SELECT 1 FROM {table} WHERE {more} AND {whose} = ? LIMIT 5", ("x",))
            rows.append(" ".join(str(column) for row in found for column in row))
        return rows

    waiting, made = run(store.write(unit))
    assert ("enrolment_requests_waiting_of" if whose == "owner" else "enrolment_requests_waiting") in waiting
    if store.dialect == "sqlite":
        assert ("approvals_made_for" if whose == "owner" else "approvals_requester") in made
    else:  # Of an empty table any index on the column is as good.
        assert f"({whose} = " in made.partition("Index Cond: ")[2]


def test_the_listing_of_what_waits_for_me_holds_what_i_can_decide(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"stages": [{"role": "approver"}, {"role": "security"}]}), 2)
            one = await c.enrollment.submit(rest("a.example.com"))
            clock.advance(1)
            two = await c.enrollment.submit(rest("b.example.com"))

            async def mine(who: Any) -> list[str]:
                found = await c.store.read(lambda tx: c.approvals.waiting_for(tx, who, 10))
                return [approval.id for approval in found]

            assert await mine(BOB) == [two.approval_id, one.approval_id]
            assert await mine(SAM) == []
            await decide(c, one, BOB)
            assert await mine(BOB) == [two.approval_id]
            assert await mine(SAM) == [one.approval_id]
            assert await mine(person("alice", "approver", "security")) == []

    run(scenario())


def test_a_hook_that_fails_undoes_what_it_was_told_of(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)

            def broken(tx: Tx, approval: StoredApproval) -> None:
                raise RuntimeError("no")

            c.approvals.on_waiting = broken
            with pytest.raises(RuntimeError):
                await c.enrollment.submit(rest())
            assert await counted(c, "approvals") == await counted(c, "enrolment_requests") == 0

    run(scenario())


def test_old_approvals_go_and_those_that_count_stay(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1, "good_for": "365d", "wait": "365d"}), 2)
            denied = await c.enrollment.submit(rest("a.example.com"))
            await decide(c, denied, BOB, "deny", "no")
            granted = await c.enrollment.submit(rest("b.example.com"))
            await decide(c, granted, BOB)
            waiting = await c.enrollment.submit(rest("c.example.com"))
            clock.advance(86400)
            assert await store.write(lambda tx: approvals.prune(tx, clock.now() - 1, 100)) == 1
            kept = await store.read(lambda tx: find_approvals(tx, Filters(), None, 10))
            assert {approval.id for approval in kept.rows} == {granted.approval_id, waiting.approval_id}

    run(scenario())


def test_a_listing_is_narrowed_to_owners_and_teams(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1}), 2)
            mine = await c.enrollment.submit(rest("a.example.com"))
            clock.advance(1)
            team = await c.enrollment.submit(rest(requester=Requester("person", "bob", "bob", "db")))
            await c.enrollment.submit(rest(requester=Requester("person", "eve", "eve", "hr")))

            within = (("owner", "alice"), ("team", "db"), ("team", "web"))
            listing = await store.read(lambda tx: find_approvals(tx, Filters(), within, 10))
            assert [a.id for a in listing.rows] == [team.approval_id, mine.approval_id]
            waiting = Filters(state="waiting")
            first = await store.read(lambda tx: find_approvals(tx, waiting, within, 1))
            rest_of_it = await store.read(lambda tx: find_approvals(tx, waiting, within, 1, first.after))
            assert [a.id for a in (*first.rows, *rest_of_it.rows)] == [team.approval_id, mine.approval_id]
            found = await store.read(lambda tx: find_requests(tx, Filters(), within, 10))
            assert [r.id for r in found.rows] == [team.id, mine.id]
            for narrow in (
                Filters(owner="alice"),
                Filters(team="web", state="awaiting_approval"),
                Filters(approval=mine.approval_id),
                Filters(state="awaiting_approval", requester="person:alice"),
            ):
                found = await store.read(partial(_found, filters=narrow))
                assert [r.id for r in found.rows] == [mine.id]
            nobody = await store.read(lambda tx: find_requests(tx, Filters(), (), 10))
            assert nobody.rows == []

    run(scenario())
