"""A role that reaches only what is one's own reaches no accounts."""

from __future__ import annotations

import pytest

from certloom.audit import SYSTEM
from certloom.clock import ManualClock
from certloom.identity.delegation import Refusal
from certloom.identity.people import People, Terms, may_see
from certloom.identity.roles import put_team
from certloom.store import Store
from tests.conftest import run
from tests.identity.making import acting_as, grant, person, role


def test_who_looks_after_their_own_makes_and_takes_over_no_accounts(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        await role(store, clock, "own", "person.read", "person.write", own=True)
        eve = await acting_as(store, await person(store, clock, "eve", grant("own")))
        new = await person(store, clock, "new", teams=("web",))
        people = People(clock)
        assert not may_see(eve, new)
        with pytest.raises(Refusal):
            await store.write(lambda tx: people.create(tx, eve, "more", Terms(), SYSTEM))
        with pytest.raises(Refusal):
            await store.write(lambda tx: people.hand_out_setup(tx, eve, new, SYSTEM))
        with pytest.raises(Refusal):
            await store.write(lambda tx: put_team(tx, clock, eve, "mine", "", None, SYSTEM))

    run(scenario())
