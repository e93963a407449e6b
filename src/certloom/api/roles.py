"""Roles: the built-in ones, and custom ones."""

from __future__ import annotations

from typing import Annotated

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, etag, route
from certloom.api.telling import told
from certloom.identity import roles
from certloom.identity.grants import decode_role
from certloom.identity.principals import BUILT_IN, PERMISSIONS, Role
from certloom.store import roles as statements
from certloom.store.base import Tx
from certloom.store.roles import StoredRole

_PROBLEMS = ("not-found", "forbidden", "invalid", "conflict")


class RolePath(msgspec.Struct, frozen=True):
    name: Name


class RoleTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a custom role is."""

    permissions: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=100)]
    own: bool = False
    """Whether it reaches only what its holder asked for themselves."""
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""


class ShownRole(msgspec.Struct, frozen=True):
    """A named set of permissions."""

    name: str
    built_in: bool
    permissions: tuple[str, ...]
    own: bool
    description: str


class Permission(msgspec.Struct, frozen=True):
    """One permission, and what it is for."""

    name: str
    description: str


class Permissions(msgspec.Struct, frozen=True):
    """Every permission there is."""

    items: tuple[Permission, ...]


def shown(role: Role) -> ShownRole:
    """A role as the API shows it."""
    permissions = tuple(p for p in PERMISSIONS if p in role.permissions)
    return ShownRole(role.name, role.name in BUILT_IN, permissions, role.own, role.description)


@route(
    "GET",
    "/permissions",
    permission="role.read",
    summary="List permissions",
    answers={200: Permissions},
    tag="roles",
)
async def permissions(call: Call[None, None, None]) -> Answer:
    return Answer(Permissions(tuple(Permission(name, text) for name, text in PERMISSIONS.items())))


@route(
    "GET",
    "/roles",
    permission="role.read",
    summary="List roles",
    query=Paging,
    answers={200: Page[ShownRole]},
    tag="roles",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """By name, the built-in ones among the others."""
    after = call.position(str) or ""
    rows = await call.services.store.scan(lambda tx: statements.listing(tx, call.limit + 1, after))
    found = [decode_role(row.name, row.body) for row in rows]
    found += [role for role in BUILT_IN.values() if role.name > after]
    found.sort(key=lambda role: role.name)
    return call.page([shown(role) for role in found[: call.limit + 1]], lambda role: role.name)


@route(
    "GET",
    "/roles/{name}",
    permission="role.read",
    summary="Show a role",
    path=RolePath,
    answers={200: ShownRole},
    problems=("not-found",),
    etag=True,
    tag="roles",
)
async def show(call: Call[RolePath, None, None]) -> Answer:
    built_in = BUILT_IN.get(call.path.name)
    if built_in is not None:
        return Answer(shown(built_in), etag=etag("role", built_in.name, shown(built_in)))
    row = await call.services.store.read(lambda tx: statements.get(tx, call.path.name))
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such role")
    return _answer(row)


@route(
    "PUT",
    "/roles/{name}",
    permission="role.write",
    summary="Make or change a custom role",
    path=RolePath,
    body=RoleTerms,
    answers={200: ShownRole, 201: ShownRole},
    problems=_PROBLEMS,
    edits=True,
    tag="roles",
)
async def put(call: Call[RolePath, None, RoleTerms]) -> Answer:
    """Takes all of the role's permissions, and `role.write`, everywhere. Built-in roles stay as they are."""
    body = call.body
    role = Role(
        name=call.path.name,
        permissions=frozenset(body.permissions),
        own=body.own,
        description=body.description,
    )

    def unit(tx: Tx) -> Answer:
        was = statements.get(tx, role.name)
        call.require_match(None if was is None else _etag(was))
        row = roles.put_role(tx, call.services.clock, call.principal, role, was, call.origin)
        return _answer(row, 201 if was is None else 200)

    with told():
        return await call.write(unit)


@route(
    "DELETE",
    "/roles/{name}",
    permission="role.write",
    summary="Take away a custom role",
    path=RolePath,
    answers={204: None},
    problems=_PROBLEMS,
    edits=True,
    tag="roles",
)
async def delete(call: Call[RolePath, None, None]) -> Answer:
    """Only while it is granted to nobody."""

    def unit(tx: Tx) -> None:
        was = statements.get(tx, call.path.name)
        if was is None:
            raise Problem(problems.NOT_FOUND, "there is no such custom role")
        call.require_match(_etag(was))
        roles.delete_role(tx, call.services.clock, call.principal, was, call.origin)

    with told():
        await call.write(unit)
    return Answer(status=204)


def _answer(row: StoredRole, status: int = 200) -> Answer:
    location = f"/roles/{row.name}" if status == 201 else None
    return Answer(shown(decode_role(row.name, row.body)), status=status, etag=_etag(row), location=location)


def _etag(row: StoredRole) -> str:
    return etag("role", row.name, row.created, row.revision)
