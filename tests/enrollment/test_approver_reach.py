"""An approver's change must not lead to where they are no approver."""

from __future__ import annotations

from certloom.clock import ManualClock
from certloom.identity.principals import Grant, Principal, Scope, holding
from certloom.store import Store
from tests.conftest import run
from tests.core import core
from tests.enrollment.people import SECURITY, profile
from tests.enrollment.test_approvals import decide, refused, rest


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
