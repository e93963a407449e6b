"""Custom roles, and teams: made, changed, taken away.

The built-in roles are in the code and cannot be changed, nor can another role have one's name. A role counts
wherever it is granted, so only who holds all of a role's permissions everywhere, and ``role.write``
everywhere, makes or changes it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.identity.delegation import Refusal, check_role, covers
from certloom.identity.grants import decode_grants, decode_role, encode_role
from certloom.identity.principals import BUILT_IN, PERMISSIONS, Principal, Role, Scope, Thing
from certloom.store import roles as statements
from certloom.store.base import Tx
from certloom.store.roles import StoredRole, StoredTeam


class RoleError(ValueError):
    """The role or team cannot be so; the message says why."""


class StaleRole(Exception):
    """It was changed in the meantime."""


def put_role(
    tx: Tx, clock: Clock, by: Principal, role: Role, was: StoredRole | None, origin: Origin
) -> StoredRole:
    """Make a custom role, or change the one that ``was`` is.

    Raises ``RoleError``, ``Refusal``, ``StaleRole``, or ``Conflict`` where one was made in the meantime.
    """
    _check_custom(role.name)
    unknown = sorted(role.permissions - PERMISSIONS.keys())
    if unknown:
        raise RoleError(f"permissions: there is no {', '.join(unknown)}")
    if len(role.description) > 500:
        raise RoleError("description: at most 500 characters")
    _check_writes(by)
    check_role(by, role)
    if was is not None:
        # What it held until now goes too, and whoever granted it meant that.
        check_role(by, decode_role(was.name, was.body))
    body = encode_role(role)
    if was is None:
        now = StoredRole(role.name, body, 1, clock.now())
        statements.insert(tx, now)
    else:
        if not statements.update(tx, role.name, body, was.revision):
            raise StaleRole("the role was changed in the meantime")
        now = msgspec.structs.replace(was, body=body, revision=was.revision + 1)
    data = {
        "before": None if was is None else msgspec.json.decode(was.body),
        "after": msgspec.json.decode(body),
    }
    _record(tx, clock, "role.created" if was is None else "role.changed", f"role:{role.name}", origin, data)
    return now


def delete_role(tx: Tx, clock: Clock, by: Principal, was: StoredRole, origin: Origin) -> None:
    """Take away a custom role that is granted to nobody. Raises ``RoleError`` or ``Refusal``."""
    _check_custom(was.name)
    _check_writes(by)
    check_role(by, decode_role(was.name, was.body))
    if any(grant.role == was.name for text in statements.granted(tx) for grant in decode_grants(text)):
        # A role of that name made later would otherwise be theirs at once.
        raise RoleError("the role is granted to somebody; take it from them first")
    statements.delete(tx, was.name)
    data = {"before": msgspec.json.decode(was.body), "after": None}
    _record(tx, clock, "role.deleted", f"role:{was.name}", origin, data)


def put_team(
    tx: Tx,
    clock: Clock,
    by: Principal,
    name: str,
    description: str,
    was: StoredTeam | None,
    origin: Origin,
) -> StoredTeam:
    """Make a team, or change the one that ``was`` is.

    Raises ``RoleError``, ``Refusal``, ``StaleRole``, or ``Conflict`` where one was made in the meantime.
    """
    _check_team(by, name)
    if len(description) > 500:
        raise RoleError("description: at most 500 characters")
    if was is None:
        now = StoredTeam(name, description, 1, clock.now())
        statements.insert_team(tx, now)
    else:
        if not statements.update_team(tx, name, description, was.revision):
            raise StaleRole("the team was changed in the meantime")
        now = msgspec.structs.replace(was, description=description, revision=was.revision + 1)
    before = None if was is None else {"description": was.description}
    data = {"before": before, "after": {"description": description}}
    _record(tx, clock, "team.created" if was is None else "team.changed", f"team:{name}", origin, data)
    return now


def delete_team(tx: Tx, clock: Clock, by: Principal, was: StoredTeam, origin: Origin) -> None:
    """Take away a team that nobody is in and no credential in use belongs to.

    Raises ``RoleError`` or ``Refusal``. What was issued for it keeps its name.
    """
    _check_team(by, was.name)
    named = any(was.name in msgspec.json.decode(text) for text in statements.memberships(tx))
    if named or statements.team_has_credentials(tx, was.name):
        raise RoleError("there are people in the team, or credentials of it")
    statements.delete_team(tx, was.name)
    data = {"before": {"description": was.description}, "after": None}
    _record(tx, clock, "team.deleted", f"team:{was.name}", origin, data)


def _check_custom(name: str) -> None:
    if name in BUILT_IN:
        raise RoleError(f"{name!r} is a built-in role")


def _check_writes(by: Principal) -> None:
    if not covers(by, "role.write", Scope()):
        raise Refusal("this takes the permission role.write everywhere")


def _check_team(by: Principal, name: str) -> None:
    if not by.may("person.write", Thing(owner="", team=name)):
        raise Refusal("this takes the permission person.write in that team")


def _record(tx: Tx, clock: Clock, kind: str, subject: str, origin: Origin, data: dict[str, Any]) -> None:
    record(tx, clock.now_ms(), kind, subject, origin, data)
