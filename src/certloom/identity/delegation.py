"""Nobody gives more than they hold: comparing grants, and cutting them to what two of them share.

``covers`` asks whether one principal's grants hold everything that a permission within a scope would give;
``missing`` asks it of whole grants that are about to be given. ``intersect`` is what a token may do that acts
for a person: what the person's grants and the token's both allow, worked out anew at each use.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from certloom.identity.principals import BUILT_IN, Grant, Principal, Role, Scope, _Held

_EVERYTHING = "**"


class Refusal(Exception):
    """This must not be given by them. The message says what they lack."""


def covers(principal: Principal, permission: str, scope: Scope, owner: str | None = None) -> bool:
    """Whether some one grant of theirs has the permission everywhere in this scope.

    ``owner`` is whose the things are; grants that reach only one's own count where that is the principal.
    """
    return any(
        permission in held.role.permissions
        and (not held.role.own or (owner is not None and owner == principal.owner))
        and within(scope, held.scope)
        for held in principal.held
    )


def check_giving(
    principal: Principal, grants: Iterable[Grant], roles: dict[str, Role], *, owner: str | None
) -> None:
    """Raises ``Refusal`` if these grants hold anything that the principal does not, or name no role.

    ``owner`` is who will act with them. A custom role, and one that decides on approvals, is asked for by
    name (by stages), so only those may give it who hold it by name or may make roles anywhere.
    """
    makes_roles = covers(principal, "role.write", Scope())
    for grant in grants:
        role = BUILT_IN.get(grant.role) or roles.get(grant.role)
        if role is None:
            raise Refusal(f"there is no role {grant.role!r}")
        lacking = sorted(p for p in role.permissions if not _gives(principal, p, role, grant.scope, owner))
        if lacking:
            raise Refusal(
                f"the role {grant.role!r} holds what you do not hold there yourself: {', '.join(lacking)}"
            )
        counts_by_name = role.name not in BUILT_IN or "approval.decide" in role.permissions
        if counts_by_name and not makes_roles and not _has_by_name(principal, role.name, grant.scope):
            raise Refusal(f"only who holds the role {grant.role!r} there, or may change roles, can give it")


def check_role(principal: Principal, role: Role) -> None:
    """Raises ``Refusal`` unless the principal holds, everywhere, all that a role would hold."""
    lacking = sorted(p for p in role.permissions if not covers(principal, p, Scope()))
    if lacking:
        raise Refusal(f"you do not hold everywhere what the role would: {', '.join(lacking)}")


def _gives(principal: Principal, permission: str, role: Role, scope: Scope, owner: str | None) -> bool:
    """A role confined to its holder's own can be given to oneself by who holds the same confined."""
    return covers(principal, permission, scope, owner if role.own else None)


def _has_by_name(principal: Principal, role: str, scope: Scope) -> bool:
    return principal.kind == "local" or any(
        held.role.name == role and within(scope, held.scope) for held in principal.held
    )


def within(inner: Scope, outer: Scope) -> bool:
    """Whether one scope reaches nothing that the other does not."""
    return (
        _axis_within(inner.teams, outer.teams)
        and _axis_within(inner.profiles, outer.profiles)
        and _axis_within(inner.channels, outer.channels)
        and (
            not outer.names
            or (
                bool(inner.names) and all(any(pattern_within(p, q) for q in outer.names) for p in inner.names)
            )
        )
    )


def _axis_within(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return not outer or (bool(inner) and set(inner) <= set(outer))


def pattern_within(inner: str, outer: str) -> bool:
    """Whether every name that one pattern matches, the other matches too. Both must be patterns.

    Says no where it is not certain; patterns of different types hold nothing in common.
    """
    if outer == _EVERYTHING or inner == outer:
        return True
    if inner == _EVERYTHING:
        return False
    inner_type, outer_type = _type(inner), _type(outer)
    if inner_type != outer_type:
        return False
    if inner_type == "ip":
        a, b = ipaddress.ip_network(inner), ipaddress.ip_network(outer)
        if isinstance(a, ipaddress.IPv4Network) and isinstance(b, ipaddress.IPv4Network):
            return a.subnet_of(b)
        if isinstance(a, ipaddress.IPv6Network) and isinstance(b, ipaddress.IPv6Network):
            return a.subnet_of(b)
        return False
    if inner_type == "uri":
        return inner.startswith(outer) and (outer[-1] in "/:?#" or inner[len(outer)] in "/?#")
    if inner_type == "email":
        local, _, domain = inner.rpartition("@")
        outer_local, _, outer_domain = outer.rpartition("@")
        # ``@domain`` takes every mailbox there; ``user@domain`` names one.
        if outer_local:
            return False
        return _covers_host(domain, outer_domain) if local else _dns_within(domain, outer_domain)
    return _dns_within(inner, outer)


def _type(pattern: str) -> str:
    """The type of names a pattern is about, by the same signs as ``policy.name_rules.matches``."""
    if "@" in pattern and "/" not in pattern:
        return "email"
    try:
        ipaddress.ip_network(pattern)
    except ValueError:
        return "uri" if ":" in pattern else "dns"
    return "ip"


def _dns_within(inner: str, outer: str) -> bool:
    if outer == "**" or inner == outer:
        return True
    if inner == "**":
        return False
    if inner.startswith("**."):
        # One label more or several below the suffix: only a suffix of that suffix takes them all.
        return outer.startswith("**.") and _is_below_or_equal(inner[3:], outer[3:])
    if inner == "*":
        return False
    if inner.startswith("*."):
        return outer.startswith("**.") and _is_below_or_equal(inner[2:], outer[3:])
    return _covers_host(inner, outer)


def _covers_host(host: str, pattern: str) -> bool:
    if pattern == "**" or host == pattern:
        return True
    if pattern == "*":
        return "." not in host
    parent = host.partition(".")[2]
    if pattern.startswith("**."):
        return bool(parent) and _is_below_or_equal(parent, pattern[3:])
    return pattern.startswith("*.") and parent == pattern[2:]


def _is_below_or_equal(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def intersect(one: Iterable[_Held], other: Iterable[_Held]) -> tuple[_Held, ...]:
    """What both allow: the first are a person's roles, the second those of what acts for them.

    A role keeps its name (which stages ask for) only where nothing of it was cut away.
    """
    found: list[_Held] = []
    others = tuple(other)
    for a in one:
        for b in others:
            permissions = a.role.permissions & b.role.permissions
            scope = _common(a.scope, b.scope)
            if not permissions or scope is None:
                continue
            own = a.role.own or b.role.own
            whole = permissions == a.role.permissions and own == a.role.own
            name = a.role.name if whole else f"{a.role.name}&{b.role.name}"
            found.append(_Held(Role(name=name, permissions=permissions, own=own), scope))
    return tuple(found)


def _common(a: Scope, b: Scope) -> Scope | None:
    """The scope both reach, or None where they have nothing in common."""
    teams = _common_axis(a.teams, b.teams)
    profiles = _common_axis(a.profiles, b.profiles)
    channels = _common_axis(a.channels, b.channels)
    names = _common_names(a.names, b.names)
    if teams is None or profiles is None or channels is None or names is None:
        return None
    return Scope(teams=teams, profiles=profiles, channels=channels, names=names)


def _common_axis(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...] | None:
    if not a or not b:
        return a or b
    return tuple(item for item in a if item in b) or None


def _common_names(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...] | None:
    if not a or not b:
        return a or b
    found = [p for p in a if any(pattern_within(p, q) for q in b)]
    found += [q for q in b if q not in found and any(pattern_within(q, p) for p in a)]
    return tuple(found) or None
