"""Who is acting, and what they may do. Everything that is not allowed here is denied.

A *permission* is ``thing.act``. A *role* is a named set of permissions; a *grant* gives somebody a role
within a *scope*. A scope has four axes, and an axis that names nothing does not restrict: teams, profiles,
channels (``protocol/name``) and name spaces (patterns as credentials have them, ``**.example.com``). A role
may be confined to what is its holder's own: what they asked for themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from certloom.pki.identifiers import Identifier
from certloom.policy.name_rules import matches

PERMISSIONS: dict[str, str] = {
    "request.read": "see enrolment requests",
    "request.create": "ask for certificates",
    "request.cancel": "withdraw enrolment requests",
    "approval.read": "see what waits for people, and what they decided",
    "approval.decide": "approve and deny, in the roles that a stage asks for",
    "certificate.read": "search, see and download certificates",
    "certificate.key": "download private keys that were made here",
    "certificate.revoke": "revoke certificates",
    "certificate.hold": "put certificates on hold and release them",
    "certificate.replace": "mark certificates for replacement",
    "key.block": "block public keys for ever",
    "profile.read": "see profiles",
    "profile.write": "change profiles",
    "channel.read": "see channels",
    "channel.write": "change channels",
    "anchor.read": "see trust anchors",
    "anchor.write": "change trust anchors",
    "authority.read": "see authorities",
    "authority.write": "make authorities",
    "rule.read": "see policy rules and explain decisions",
    "rule.write": "change policy rules",
    "plan.run": "plan a change against the inventory",
    "credential.read": "see credentials, never their secrets",
    "credential.write": "create, change, rotate and revoke credentials",
    "person.read": "see people and teams",
    "person.write": "create and change people and teams, and what they may do",
    "role.read": "see roles",
    "role.write": "change custom roles",
    "webhook.read": "see webhooks",
    "webhook.write": "change webhooks",
    "audit.read": "read, export and verify the audit log",
    "job.read": "see background jobs",
    "job.write": "run failed jobs again",
    "system.read": "see status and metrics",
    "system.backup": "make backups",
}
"""Every permission there is, and what it is for."""

_READ = frozenset(name for name in PERMISSIONS if name.endswith(".read"))
_WITHOUT_PEOPLE = frozenset(PERMISSIONS) - {"person.write", "role.write", "audit.read", "approval.decide"}


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A named set of permissions."""

    name: str
    permissions: frozenset[str]
    own: bool = False
    """Whether it reaches only what its holder asked for."""
    description: str = ""


BUILT_IN: dict[str, Role] = {
    role.name: role
    for role in (
        Role(name="admin", permissions=frozenset(PERMISSIONS), description="everything"),
        Role(
            name="operator",
            permissions=_WITHOUT_PEOPLE,
            description="runs the service: everything but people, roles, approving and the audit log",
        ),
        Role(
            name="approver",
            permissions=frozenset(
                {
                    "request.read",
                    "approval.read",
                    "approval.decide",
                    "certificate.read",
                    "profile.read",
                    "rule.read",
                }
            ),
            description="decides on requests that wait for people",
        ),
        Role(
            name="auditor",
            permissions=_READ | {"plan.run"},
            description="sees everything, changes nothing",
        ),
        Role(
            name="requester",
            permissions=frozenset(
                {
                    "request.read",
                    "request.create",
                    "request.cancel",
                    "approval.read",
                    "certificate.read",
                    "certificate.key",
                    "certificate.revoke",
                    "profile.read",
                }
            ),
            own=True,
            description="asks for certificates and looks after their own",
        ),
    )
}


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a role holds. An empty axis does not restrict."""

    teams: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    """``protocol/name``."""
    names: tuple[str, ...] = ()
    """Name patterns; every name of a thing must be covered by one of them."""


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A role given to somebody, within a scope."""

    role: str
    scope: Scope = Scope()


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    """What a permission is wanted for, as far as scopes care.

    An axis that is None does not apply to such things (an authority has no team), and no scope restricts it.
    An axis that applies but holds nothing (a certificate of no team: ``""``, of no names: ``()``) is outside
    every scope that restricts it; so is what has no owner (``""``) for roles that reach only what is one's
    own.
    """

    owner: str | None = None
    """Id of the principal whose it is."""
    team: str | None = None
    profile: str | None = None
    channel: str | None = None
    names: tuple[Identifier, ...] | None = None


ANYTHING = Thing()


def shared(*, profile: str = "", channel: str = "") -> Thing:
    """What everybody lives by: a profile, a channel, or (with neither) the installation as a whole.

    To see it may be for whoever has anything to do with it. To change it, or to see what it holds of
    everybody, takes a grant that nothing else restricts: a team's operator is not everybody's.
    """
    return Thing(owner="", team="", profile=profile, channel=channel, names=())


class _Held(msgspec.Struct, frozen=True):
    role: Role
    scope: Scope


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who was authenticated.

    ``kind`` is ``person``, ``token``, ``client-certificate`` or ``local`` (who can open the admin socket),
    and with ``id`` makes the actor of audit events: ``person:3f...``.
    """

    kind: str
    id: str
    name: str
    """For people's eyes."""
    owner: str
    """Whose what it asks for is: a person's id, or for services the credential's owner or own id."""
    teams: tuple[str, ...] = ()
    held: tuple[_Held, ...] = ()

    @property
    def actor(self) -> str:
        """As the audit log names them."""
        return f"{self.kind}:{self.id}"

    @property
    def person(self) -> str:
        """What counts as one human being when agreements are counted, however they came in."""
        return self.owner

    def may(self, permission: str, thing: Thing = ANYTHING) -> bool:
        """Whether some role of theirs has the permission where that thing is."""
        return any(
            permission in held.role.permissions
            and (not held.role.own or thing.owner is None or thing.owner == self.owner)
            and _covers(held.scope, thing)
            for held in self.held
        )

    def may_somewhere(self, permission: str) -> bool:
        """Whether there can be any thing they have the permission for."""
        return any(permission in held.role.permissions for held in self.held)

    def has_role(self, role: str, thing: Thing = ANYTHING) -> bool:
        """Whether they hold this very role where that thing is; the local operator holds every role."""
        return self.kind == "local" or any(
            held.role.name == role and _covers(held.scope, thing) for held in self.held
        )

    def reach(self, permission: str) -> Reach:
        """What a listing must be narrowed to before ``may`` sifts its rows."""
        owners: set[str] | None = set()
        teams: set[str] | None = set()
        for held in self.held:
            if permission not in held.role.permissions:
                continue
            if held.role.own and owners is not None:
                owners.add(self.owner)
            elif held.scope.teams and teams is not None:
                teams.update(held.scope.teams)
            elif not held.role.own:
                return Reach(everything=True)
        return Reach(owners=tuple(sorted(owners or ())), teams=tuple(sorted(teams or ())))


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The rows somebody may see at most: everything, or those of these owners or these teams."""

    everything: bool = False
    owners: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()

    @property
    def within(self) -> tuple[tuple[str, str], ...] | None:
        """For listing statements: (column, value) pairs of which one must hold; None for everything."""
        if self.everything:
            return None
        return (*(("owner", owner) for owner in self.owners), *(("team", team) for team in self.teams))


def holding(grants: Iterable[Grant], roles: dict[str, Role]) -> tuple[_Held, ...]:
    """Grants with their roles looked up; a grant of a role that is no more gives nothing."""
    found = ((BUILT_IN.get(grant.role) or roles.get(grant.role), grant.scope) for grant in grants)
    return tuple(_Held(role, scope) for role, scope in found if role is not None)


def local(name: str) -> Principal:
    """Who can open the admin socket, and so could read the data key itself."""
    return Principal(
        kind="local", id=name, name=name, owner=f"local:{name}", held=(_Held(BUILT_IN["admin"], Scope()),)
    )


def _covers(scope: Scope, thing: Thing) -> bool:
    return (
        (not scope.teams or thing.team is None or thing.team in scope.teams)
        and (not scope.profiles or thing.profile is None or thing.profile in scope.profiles)
        and (not scope.channels or thing.channel is None or thing.channel in scope.channels)
        and (
            not scope.names
            or thing.names is None
            or (
                bool(thing.names)
                and all(any(matches(pattern, name) for pattern in scope.names) for name in thing.names)
            )
        )
    )
