"""People who ask and people who approve, for tests of approvals."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from certloom.audit import Origin
from certloom.enrollment.states import State
from certloom.identity.principals import Grant, Principal, Role, Scope, holding
from certloom.policy.profiles import Profile, parse_profile
from certloom.store import requests
from certloom.store.base import Tx
from tests.core import Core

SECURITY = Role(name="security", permissions=frozenset({"approval.read", "approval.decide"}))


def person(name: str, *roles: str, scope: Scope | None = None, kind: str = "person") -> Principal:
    """Somebody who holds these roles everywhere, or within a scope."""
    scope = scope or Scope()
    held = holding([Grant(role=role, scope=scope) for role in roles], {"security": SECURITY})
    return Principal(kind=kind, id=name, name=name.title(), owner=name, held=held)


BOB = person("bob", "approver")
CAROL = person("carol", "approver")
DAVE = person("dave", "approver")
SAM = person("sam", "security")
SUE = person("sue", "security")


def origin(principal: Principal) -> Origin:
    return Origin(principal.actor, "192.0.2.7", "trace-2")


def profile(approval: Mapping[str, Any], name: str = "tls-server", **more: Any) -> Profile:
    """A profile for TLS servers on which people must agree."""
    return parse_profile(
        {
            "name": name,
            "authority": "issuing",
            "keys": [{"type": "ec"}],
            "extended_key_usage": ["serverAuth"],
            "validity": {"default": "30d", "max": "60d", "backdate": "1h"},
            "approval": approval,
            "lint": {"mode": "off"},
            **more,
        }
    )


async def settled(c: Core, id: str) -> requests.EnrolmentRequest:
    """The request once its job has run."""
    for _ in range(500):
        found = await c.store.read(lambda tx: requests.get(tx, id))
        assert found is not None
        if found.state not in (State.APPROVED, State.ISSUING):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("the request was never issued")


async def counted(c: Core, table: str) -> int:
    """How many rows a table has."""
    (row,) = await c.store.read(lambda tx: tx.all(f"SELECT count(*) FROM {table}"))
    return int(row[0])


async def kinds(c: Core, like: str = "%") -> Sequence[str]:
    """The kinds of the events there are, in order."""

    def unit(tx: Tx) -> list[str]:
        return [row[0] for row in tx.all("SELECT kind FROM events WHERE kind LIKE ? ORDER BY id", (like,))]

    return await c.store.read(unit)
