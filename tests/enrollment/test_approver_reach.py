"""An approver's change must not lead to where they are no approver."""

from __future__ import annotations

from typing import Any

from certloom.audit import SYSTEM
from certloom.clock import ManualClock
from certloom.enrollment import rulebook
from certloom.enrollment.states import ApprovalState, State
from certloom.identity.principals import Grant, Principal, Scope, holding
from certloom.policy.decisions import Requester
from certloom.policy.rules import parse_rule
from certloom.store import Store
from tests.conftest import run
from tests.core import Core, core
from tests.enrollment.people import BOB, SECURITY, profile, settled
from tests.enrollment.test_approvals import decide, refused, rest
from tests.policy.test_rules import OTHER_TEAM


def test_who_changes_the_names_must_hold_the_role_for_the_new_ones(store: Store, clock: ManualClock) -> None:
    held = holding(
        [
            Grant(role="approver", scope=Scope(names=("www.example.com",))),
            Grant(role="security"),
        ],
        {"security": SECURITY},
    )
    mixed = Principal(kind="person", id="mixed", name="Mixed", owner="mixed", held=held)

    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.put_profile(profile({"approvers": 1, "may_change": ["names"]}), 2)
            waiting = await c.enrollment.submit(rest())
            await refused("not-allowed", decide(c, waiting, mixed, names=("dns:bank.example.com",)))
            await decide(c, waiting, mixed)

    run(scenario())


async def names_are_their_teams(c: Core) -> None:
    """A rule: who had a name first keeps it. Approvers may change names; `free` asks nobody."""
    rule = parse_rule({**OTHER_TEAM, "effect": "refuse"})
    await c.store.write(lambda tx: rulebook.put(tx, c.clock, rule, SYSTEM))
    await c.put_profile(profile({"approvers": 1, "may_change": ["names"]}), 2)
    await c.put_profile(profile({}, name="free"), 1)


async def issue_to_another_team(c: Core, name: str) -> None:
    issued = await c.enrollment.submit(
        rest(name, profile="free", requester=Requester("person", "dan", "dan", "db"))
    )
    assert issued.state == State.ISSUED


def test_rules_are_told_of_the_names_that_an_approver_made_of_those_asked_for(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await names_are_their_teams(c)
            waiting = await c.enrollment.submit(rest("a.example.com"))
            changed = await decide(c, waiting, BOB, names=("dns:b.example.com",))
            assert changed.state == ApprovalState.GRANTED
            # Before the certificate is made, the name that it is to have becomes another team's.
            await issue_to_another_team(c, "b.example.com")
            await c.runner.start()
            failed: Any = await settled(c, waiting.id)
            assert failed.state == State.FAILED
            assert [reason.rule for reason in failed.reasons] == ["other-team@1"]
            # So is what is asked under the agreement that is there.
            await refused("rule-refuses", c.enrollment.submit(rest("a.example.com")))
            await c.runner.stop()

    run(scenario())


def test_rules_are_not_told_of_names_that_an_approver_took_away(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await names_are_their_teams(c)
            waiting = await c.enrollment.submit(rest("a.example.com"))
            await decide(c, waiting, BOB, names=("dns:b.example.com",))
            await issue_to_another_team(c, "a.example.com")
            await c.runner.start()
            assert (await settled(c, waiting.id)).state == State.ISSUED
            await c.runner.stop()

    run(scenario())
