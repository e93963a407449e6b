"""Teams, roles, people and credentials for the tests of this room."""

from __future__ import annotations

import msgspec

from certloom.audit import SYSTEM
from certloom.clock import Clock
from certloom.identity.authentication import as_principal
from certloom.identity.grants import encode_role
from certloom.identity.people import People, Terms
from certloom.identity.principals import Grant, Principal, Role, Scope, local
from certloom.store import Store
from certloom.store import people as people_statements
from certloom.store import roles as role_statements
from certloom.store.base import Tx
from certloom.store.people import StoredPerson
from certloom.store.roles import StoredRole, StoredTeam

ROOT = local("root")


def grant(role: str, **scope: tuple[str, ...]) -> Grant:
    return Grant(role=role, scope=msgspec.convert(scope, Scope))


async def person(
    store: Store, clock: Clock, name: str, *grants: Grant, teams: tuple[str, ...] = ()
) -> StoredPerson:
    """An account with these grants; teams are made as needed."""

    def unit(tx: Tx) -> StoredPerson:
        for team in {*teams, *(t for g in grants for t in g.scope.teams)}:
            if role_statements.team(tx, team) is None:
                role_statements.insert_team(tx, StoredTeam(team, "", 1, clock.now()))
        terms = Terms(teams=teams, grants=grants, email=f"{name}@example.com")
        return People(clock).create(tx, ROOT, name, terms, SYSTEM)

    return await store.write(unit)


async def role(store: Store, clock: Clock, name: str, *permissions: str, own: bool = False) -> None:
    body = encode_role(Role(name=name, permissions=frozenset(permissions), own=own))
    await store.write(lambda tx: role_statements.insert(tx, StoredRole(name, body, 1, clock.now())))


async def acting_as(store: Store, found: StoredPerson) -> Principal:
    """The person as they may act now."""

    def unit(tx: Tx) -> Principal:
        row = people_statements.get(tx, found.id)
        assert row is not None
        return as_principal(tx, row)

    return await store.read(unit)
