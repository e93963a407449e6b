"""Every route with every role: allowed is what the table of permissions says, and nothing else.

Walked in two ways. By the door: each built-in role, a role with nothing and nobody at all ask for each route;
who lacks its permission gets 403 (nobody 401) before anything is read. Inside: somebody who has every
permission, but elsewhere (another team, profile, channel and name space) or only for what is their own, asks
for things that exist, and neither sees nor changes what is not theirs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certloom.api.app import API
from certloom.api.resources import table
from certloom.api.routing import Authenticated, Public, Route
from certloom.clock import ManualClock
from certloom.identity.principals import (
    BUILT_IN,
    PERMISSIONS,
    Grant,
    Principal,
    Role,
    Scope,
    holding,
    local,
)
from tests.api.asking import Reply, ask
from tests.api.test_requests_and_approvals import ALICE, Client, pem, serving
from tests.conftest import run

ADMIN = local("tester")
EVERYTHING = frozenset(PERMISSIONS)
EVERYWHERE = Scope()
ROLES = {
    **BUILT_IN,
    "nothing": Role(name="nothing", permissions=frozenset()),
    **{
        f"only-{name}": Role(name=f"only-{name}", permissions=frozenset({name}))
        for name in sorted(PERMISSIONS)
    },
}

PUBLIC = {
    "POST /compromised-keys/proofs",
    "POST /sessions",
    "POST /setup",
    "GET /version",
    "GET /openapi.json",
    "GET /docs",
}
"""What may be open to everybody. Whoever adds a route here has thought about it."""
SELF_SERVICE = {
    "GET /credentials",
    "POST /credentials",
    "GET /credentials/{id}",
    "PUT /credentials/{id}",
    "POST /credentials/{id}/rotate",
    "DELETE /credentials/{id}",
    "POST /declarations",
    "DELETE /sessions",
    "DELETE /sessions/current",
    "GET /whoami",
    "PUT /password",
}
"""What may be open to whoever was authenticated, since it is about themselves or asks further inside."""


def name(route: Route) -> str:
    return f"{route.method} {route.template}"


ROUTES = {name(route): route for route in table()}


def acting(
    role: Role, scope: Scope = EVERYWHERE, *, owner: str = "somebody", teams: tuple[str, ...] = ()
) -> Principal:
    """Somebody with this role."""
    return Principal(
        kind="person",
        id=owner,
        name=owner,
        owner=owner,
        teams=teams,
        held=holding([Grant(role=role.name, scope=scope)], {role.name: role}),
    )


def filled(template: str, values: dict[str, str]) -> str:
    for parameter, value in values.items():
        template = template.replace("{" + parameter + "}", value)
    return "/api/v1" + template


NOWHERE = {
    "id": "999999999",
    "name": "no-such",
    "version": "1",
    "protocol": "acme",
    "spki": "00" * 32,
    "format": "pem",
}


def test_every_route_says_who_may_use_it() -> None:
    """A route is for holders of a permission, or it stands in one of the lists above, with a reason."""
    public, self_service = set(), set()
    for route in table():
        match route.permission:
            case Public(reason):
                public.add(name(route))
            case Authenticated(reason):
                self_service.add(name(route))
            case permission:
                assert permission in PERMISSIONS, name(route)
                continue
        assert len(reason) > 10, name(route)
    assert (public, self_service) == (PUBLIC, SELF_SERVICE)


def test_every_permission_opens_some_route() -> None:
    inside = {"credential.read", "credential.write"}  # asked for where one's own needs none
    asked = {route.permission for route in table() if isinstance(route.permission, str)}
    assert asked | inside == EVERYTHING | inside


def test_reading_takes_no_permission_to_change() -> None:
    """The auditor's role is the ``.read`` permissions, so nothing that changes anything may be behind one."""
    harmless = {
        "POST /explanations",  # decides about a request that nobody made
        "POST /audit/checkpoints",  # signs what is there, and shows it
        "POST /audit/verification",  # computes
        "POST /certificates/{id}/pkcs12",  # a download; the password is no part of an address
    }
    for route in table():
        if isinstance(route.permission, str) and route.permission.endswith(".read"):
            assert route.method == "GET" or name(route) in harmless, name(route)


def test_the_door_is_open_to_those_with_the_permission_only(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(f"sqlite:///{tmp_path / 'certloom.db'}", tmp_path, clock) as client:
            app = unlimited(client)
            nobody = {}
            for title, route in ROUTES.items():
                target = filled(route.template, NOWHERE)
                reply = await ask(app, route.method, target)
                nobody[title] = reply.status
                if isinstance(route.permission, Public):
                    assert reply.status not in (401, 403) or title == "POST /sessions", (title, reply)
                else:
                    assert reply.status == 401, (title, reply)
                    assert reply.headers["www-authenticate"].startswith("Bearer")
                for role in ROLES.values():
                    permission = route.permission
                    if not isinstance(permission, str):
                        continue
                    reply = await ask(app, route.method, target, principal=acting(role))
                    if permission in role.permissions:
                        assert not refused_at_the_door(reply, permission), (title, role.name, reply)
                        assert reply.status not in (401, 500), (title, role.name, reply)
                    else:
                        assert refused_at_the_door(reply, permission), (title, role.name, reply)

    run(main())


def refused_at_the_door(reply: Reply, permission: str) -> bool:
    return (
        reply.status == 403 and json.loads(reply.body)["detail"] == f"this takes the permission {permission}"
    )


def unlimited(client: Client) -> API:
    """The matrix is larger than what one principal may ask in a minute."""
    client.app._principals._quota = client.app._addresses._quota = 10**9
    client.app.services.failures._quota = 10**9
    return client.app


class World:
    """One of everything, made by Alice, of the team ``web``, or by the operator."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.values: dict[str, dict[str, str]] = {}
        """By the first part of a template: the parameters with which it is something that exists."""

    async def made(self, who: Principal, method: str, path: str, body: Any = None) -> Any:
        reply = await self.client(who, method, path, body)
        assert reply.status in (200, 201, 202), (path, reply)
        return json.loads(reply.body)

    async def make(self) -> None:
        made = self.made
        issued = await made(ALICE, "POST", "/requests", {"profile": "free", "csr": pem("a.example.com")})
        waiting = await made(ALICE, "POST", "/requests", {"profile": "asked", "csr": pem("b.example.com")})
        assert waiting["approval"], waiting
        await made(ADMIN, "PUT", "/teams/web", {})
        credential = await made(
            ADMIN, "POST", "/credentials", {"kind": "acme-eab", "channel": "default", "team": "web"}
        )
        found = credential.get("credential", credential)
        self.values = {
            "requests": {"id": waiting["id"]},
            "approvals": {"id": waiting["approval"]},
            "certificates": {"id": str(issued["certificate"])},
            "profiles": {"name": "free", "version": "1"},
            "channels": {"protocol": "acme", "name": "default"},
            "credentials": {"id": found["id"]},
        }


SCOPED = ("requests", "approvals", "certificates", "profiles", "channels", "credentials")
"""Resources that have an axis scopes may restrict."""
OWNED = ("requests", "approvals", "certificates", "credentials")
"""Resources that are somebody's."""

ELSEWHERE = Scope(
    teams=("other",), profiles=("other",), channels=("acme/other",), names=("**.other.example",)
)
BODIES: dict[str, Any] = {
    "POST /requests/{id}/private-key": {"password": "correct horse battery"},
    "POST /approvals/{id}/decisions": {"decision": "deny", "reason": "it is not mine to deny"},
    "POST /certificates/{id}/pkcs12": {"password": "correct horse battery"},
    "PUT /channels/{protocol}/{name}": {"protocol": "acme", "name": "default", "profiles": ["free"]},
}


def resource(route: Route) -> str:
    return route.template.split("/")[1]


@pytest.mark.parametrize("who", ["elsewhere", "own"])
def test_inside_nobody_sees_or_changes_what_is_outside_their_reach(
    tmp_path: Path, clock: ManualClock, who: str
) -> None:
    role = Role(name="all", permissions=EVERYTHING, own=who == "own")
    stranger = acting(role, ELSEWHERE if who == "elsewhere" else Scope(), teams=("other",))

    async def main() -> None:
        async with serving(f"sqlite:///{tmp_path / 'certloom.db'}", tmp_path, clock) as client:
            app = unlimited(client)
            world = World(client)
            await world.make()
            before = await events(client)
            tried = 0
            for title, route in ROUTES.items():
                kind = resource(route)
                if kind not in (SCOPED if who == "elsewhere" else OWNED):
                    continue
                if "{" not in route.template:
                    if route.method == "GET":
                        reply = await ask(app, "GET", filled(route.template, {}), principal=stranger)
                        assert reply.status in (200, 403), (title, reply)
                        if reply.status == 200:
                            assert json.loads(reply.body)["items"] == [], (title, reply)
                            everything = await ask(app, "GET", filled(route.template, {}), principal=ADMIN)
                            assert json.loads(everything.body)["items"], title
                    continue
                tried += 1
                target = filled(route.template, world.values[kind])
                for body in (b"", json.dumps(BODIES.get(title, {})).encode()):
                    headers = {"if-match": "*", "content-type": "application/json"}
                    reply = await ask(
                        app, route.method, target, principal=stranger, headers=headers, body=body
                    )
                    assert reply.status in (400, 403, 404, 422), (title, reply)
                    if reply.status in (400, 422):
                        assert route.body is not None, (title, reply)
                # With all that the route wants, it is the permission that is missing.
                assert reply.status in (403, 404), (title, reply)
            assert tried > 15
            assert await events(client) == before

    run(main())


def test_inside_the_owner_sees_their_own(tmp_path: Path, clock: ManualClock) -> None:
    role = Role(name="all", permissions=EVERYTHING, own=True)
    alice = acting(role, owner="alice", teams=("web",))

    async def main() -> None:
        async with serving(f"sqlite:///{tmp_path / 'certloom.db'}", tmp_path, clock) as client:
            world = World(client)
            await world.make()
            for kind in ("requests", "approvals", "certificates"):
                (only,) = world.values[kind].values()
                shown = await client(alice, "GET", f"/{kind}/{only}")
                listed = await client(alice, "GET", f"/{kind}")
                assert shown.status == 200, shown
                assert [str(item["id"]) for item in json.loads(listed.body)["items"]].count(only) == 1

    run(main())


async def events(client: Client) -> int:
    return await client.count("events")
