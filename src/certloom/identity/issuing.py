"""Who may have which credential made, changed or shown.

Three things are asked. Is the credential within what somebody's ``credential.write`` reaches (its team, its
channel, its profiles, its names)? Does it act with no more than they hold themselves? And whose would it be:
what acts as another person can be made only by who may manage that person's account.
"""

from __future__ import annotations

from certloom.identity.authentication import API_TOKEN, SERVICE
from certloom.identity.credentials import CredentialError, is_service, scope_of
from certloom.identity.delegation import Refusal, check_giving, covers
from certloom.identity.grants import check_grants, custom_roles, decode_grants
from certloom.identity.kinds import KINDS
from certloom.identity.people import People
from certloom.identity.principals import BUILT_IN, Grant, Principal, Scope
from certloom.store import configuration
from certloom.store import people as people_statements
from certloom.store import roles as role_statements
from certloom.store.base import Tx
from certloom.store.credentials import StoredCredential
from certloom.store.people import ACTIVE


def may_see(by: Principal, credential: StoredCredential) -> bool:
    """Whether they may see a credential (never its secret): their own always."""
    return is_own(by, credential) or covers(by, "credential.read", _scope(credential), credential.owner)


def is_own(by: Principal, credential: StoredCredential) -> bool:
    """Whether it is theirs, and acts as them. Services of one name in two teams are two services."""
    if not KINDS[credential.kind].acts or credential.owner != by.owner:
        return False
    return not is_service(by.owner) or credential.team == (by.teams[0] if by.teams else None)


def check_write(tx: Tx, people: People, by: Principal, credential: StoredCredential) -> None:
    """Raises ``Refusal`` unless they may change or rotate a credential (and so be shown its new secret), or
    make one that is so. ``CredentialError`` or ``GrantError`` where it names what there is not."""
    kind = KINDS[credential.kind]
    # Not so a client certificate's: whose name or key is claimed twice stands for nobody any more.
    personal = is_own(by, credential) and by.kind == "person" and credential.kind == API_TOKEN
    if not personal and not covers(by, "credential.write", _scope(credential), credential.owner):
        raise Refusal("this takes the permission credential.write for that team, channel, profiles and names")
    grants = decode_grants(credential.grants)
    _check_existing(tx, credential, grants)
    _check_owner(tx, people, by, credential)
    if kind.acts:
        roles = custom_roles(tx, grants)
        check_giving(by, grants, roles, owner=credential.owner)
        service = credential.owner is None or credential.owner.startswith(SERVICE)
        given = (BUILT_IN.get(grant.role) or roles[grant.role] for grant in grants)
        decides = any("approval.decide" in role.permissions for role in given)
        if service and decides and not covers(by, "person.write", Scope()):
            # A service is nobody; with one each, one person could agree as often as they like.
            raise Refusal("a service that decides on approvals takes the permission person.write everywhere")


def check_revoke(by: Principal, credential: StoredCredential) -> None:
    """Raises ``Refusal`` unless they may take a credential out of use: taking away needs no more."""
    if not is_own(by, credential) and not covers(
        by, "credential.write", _scope(credential), credential.owner
    ):
        raise Refusal("this takes the permission credential.write for that team, channel, profiles and names")


def _scope(credential: StoredCredential) -> Scope:
    kind = KINDS[credential.kind]
    return scope_of(kind, credential.channel, credential.names, credential.profiles, credential.team)


def _check_owner(tx: Tx, people: People, by: Principal, credential: StoredCredential) -> None:
    owner = credential.owner
    if owner == by.owner:
        return
    if owner is None:
        pass  # it is nobody's, and whoever has it asks on nobody's behalf
    elif owner.startswith(SERVICE):
        name = owner.removeprefix(SERVICE)
        if not name or len(name) > 128 or not name.isprintable():
            raise CredentialError("owner: a service has a name of at most 128 characters")
    else:
        person = people_statements.get(tx, owner)
        if person is None or person.state != ACTIVE:
            raise CredentialError("owner: there is no such person, or they are disabled")
        if KINDS[credential.kind].acts:
            people.check_manages(tx, by, person)
    decides = not KINDS[credential.kind].acts and by.may_somewhere("approval.decide")
    if decides and not covers(by, "person.write", Scope()):
        # Or they could ask as another, and agree as themselves.
        raise Refusal("who decides on approvals makes credentials for themselves only")


def _check_existing(tx: Tx, credential: StoredCredential, grants: tuple[Grant, ...]) -> None:
    check_grants(tx, grants)
    if credential.team is not None and role_statements.team(tx, credential.team) is None:
        raise CredentialError(f"team: there is no team {credential.team!r}")
    if credential.profiles:
        there = configuration.current_profiles(tx)
        for profile in credential.profiles:
            if profile not in there:
                raise CredentialError(f"profiles: there is no profile {profile!r}")
    if credential.channel is not None:
        channels = {(protocol, name) for protocol, name, _ in configuration.channels(tx)}
        if (credential.protocol, credential.channel) not in channels:
            raise CredentialError(
                f"channel: there is no channel {credential.channel!r} of {credential.protocol}"
            )
