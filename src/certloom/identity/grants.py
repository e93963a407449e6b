"""Grants as they are stored, and roles as they are looked up for them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from certloom.identity.principals import BUILT_IN, PERMISSIONS, Grant, Role, Scope, _Held, holding
from certloom.policy.name_rules import PatternError, check_pattern
from certloom.store import roles as statements
from certloom.store.base import Tx

MOST_GRANTS = 100
_MOST_ITEMS = 200


class GrantError(ValueError):
    """These are no grants; the message says where and why."""


class RoleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A custom role without its name."""

    permissions: tuple[str, ...]
    own: bool = False
    description: str = ""


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_body = msgspec.json.Decoder(RoleBody).decode


@lru_cache(maxsize=1024)
def decode_grants(text: str) -> tuple[Grant, ...]:
    """Grants from their column."""
    return msgspec.json.decode(text, type=tuple[Grant, ...])


def encode_grants(grants: Iterable[Grant]) -> str:
    """Grants for their column, without repetitions; what is default is left out."""
    kept = [
        {"role": g.role, **({"scope": scope} if (scope := _scope(g.scope)) else {})}
        for g in dict.fromkeys(grants)
    ]
    return _encode(kept).decode()


def _scope(scope: Scope) -> dict[str, tuple[str, ...]]:
    axes = ("teams", "profiles", "channels", "names")
    return {axis: value for axis in axes if (value := getattr(scope, axis))}


@lru_cache(maxsize=256)
def decode_role(name: str, body: str) -> Role:
    """A custom role from its row; permissions that this version does not know give nothing."""
    read = _decode_body(body)
    return Role(
        name=name,
        permissions=frozenset(read.permissions) & PERMISSIONS.keys(),
        own=read.own,
        description=read.description,
    )


def encode_role(role: Role) -> str:
    return _encode(
        RoleBody(permissions=tuple(sorted(role.permissions)), own=role.own, description=role.description)
    ).decode()


def custom_roles(tx: Tx, grants: Iterable[Grant]) -> dict[str, Role]:
    """The custom roles that these grants name, as far as there are any: a point read for each."""
    found = {}
    for name in {grant.role for grant in grants} - BUILT_IN.keys():
        row = statements.get(tx, name)
        if row is not None:
            found[name] = decode_role(row.name, row.body)
    return found


def held(tx: Tx, *texts: str) -> tuple[_Held, ...]:
    """What stored grants come to now."""
    grants = tuple(grant for text in texts for grant in decode_grants(text))
    return holding(grants, custom_roles(tx, grants))


def check_grants(tx: Tx, grants: tuple[Grant, ...]) -> None:
    """Raises ``GrantError`` for grants of what there is not: roles, teams, name patterns."""
    if len(grants) > MOST_GRANTS:
        raise GrantError(f"more than {MOST_GRANTS} grants")
    roles = custom_roles(tx, grants)
    for i, grant in enumerate(grants):
        if grant.role not in BUILT_IN and grant.role not in roles:
            raise GrantError(f"grants[{i}].role: there is no role {grant.role!r}")
        scope = grant.scope
        for axis in ("teams", "profiles", "channels", "names"):
            if len(getattr(scope, axis)) > _MOST_ITEMS:
                raise GrantError(f"grants[{i}].scope.{axis}: more than {_MOST_ITEMS}")
        for team in scope.teams:
            if statements.team(tx, team) is None:
                raise GrantError(f"grants[{i}].scope.teams: there is no team {team!r}")
        for channel in scope.channels:
            protocol, slash, name = channel.partition("/")
            if not (protocol and slash and name):
                raise GrantError(f"grants[{i}].scope.channels: {channel!r} is not protocol/name")
        for pattern in scope.names:
            try:
                check_pattern(pattern)
            except PatternError as error:
                raise GrantError(f"grants[{i}].scope.names: {error}") from None
