"""People: accounts, what they may do, and who may change that.

What changes an account is a unit (a function over a ``Tx``) that is told who acts (``by``) and refuses what
they must not do: nobody changes an account that may do more than they may themselves, nor gives one more than
that, and where their ``person.write`` is confined to teams, all of the account's teams must be among those.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.identity.authentication import API_TOKEN, CLIENT_CERTIFICATE, teams_of
from certloom.identity.delegation import Refusal, check_giving
from certloom.identity.grants import check_grants, custom_roles, decode_grants, encode_grants
from certloom.identity.principals import BUILT_IN, Grant, Principal, Thing
from certloom.store import credentials as credential_statements
from certloom.store import people as statements
from certloom.store import roles as role_statements
from certloom.store import sessions as session_statements
from certloom.store.base import Tx
from certloom.store.ids import new_id
from certloom.store.people import ACTIVE, DISABLED, StoredPerson

SETUP_SECONDS = 7 * 86_400
"""How long a one-time code for setting a password is good."""
_SETUP_PREFIX = "cls_"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,126}[a-z0-9])?")
_EMAIL = re.compile(r"[!-?A-~]{1,64}@[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?")
_MOST_TEAMS = 200


class PersonError(ValueError):
    """The account cannot be so; the message says where and why."""


class StalePerson(Exception):
    """It was changed in the meantime."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """All of an account that somebody with the right to may change."""

    display: str = ""
    email: str = ""
    teams: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()


class People:
    """Makes and changes accounts, inside the caller's unit."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def create(self, tx: Tx, by: Principal, name: str, terms: Terms, origin: Origin) -> StoredPerson:
        """Make an account that nobody can log into yet.

        Raises ``Conflict`` when the name is taken, ``PersonError``, ``GrantError`` or ``Refusal``.
        """
        check_name(name)
        now = self._clock.now()
        person = StoredPerson(
            id=new_id(self._clock.now_ms()),
            name=name,
            display=terms.display,
            email=terms.email,
            state=ACTIVE,
            teams=msgspec.json.encode(tuple(dict.fromkeys(terms.teams))).decode(),
            grants=encode_grants(terms.grants),
            created=now,
            updated=now,
        )
        self._check(tx, by, person, terms)
        statements.insert(tx, person)
        self._record(tx, "person.created", person.id, origin, {"before": None, "after": described(person)})
        return person

    def change(self, tx: Tx, by: Principal, was: StoredPerson, terms: Terms, origin: Origin) -> StoredPerson:
        """Give an account other terms; other grants or teams end a setup code that is out.

        Raises as ``create`` does, and ``StalePerson``.
        """
        self.check_manages(tx, by, was)
        person = msgspec.structs.replace(
            was,
            display=terms.display,
            email=terms.email,
            teams=msgspec.json.encode(tuple(dict.fromkeys(terms.teams))).decode(),
            grants=encode_grants(terms.grants),
        )
        self._check(tx, by, person, terms)
        if (person.grants, person.teams) != (was.grants, was.teams):
            # Who handed a setup code out may hold it still, and was trusted with the account as it was.
            person = msgspec.structs.replace(person, setup_hash=None, setup_expires=None)
        return self._update(tx, "person.changed", was, person, origin)

    def set_state(
        self, tx: Tx, by: Principal, was: StoredPerson, active: bool, origin: Origin
    ) -> StoredPerson:
        """Disable an account, which ends its sessions and revokes its tokens and client certificates, or
        enable it again. Raises ``Refusal`` or ``StalePerson``."""
        self.check_manages(tx, by, was)
        state = ACTIVE if active else DISABLED
        if was.state == state:
            return was
        changed = msgspec.structs.replace(was, state=state, setup_hash=None, setup_expires=None)
        if not active:
            session_statements.delete_of_person(tx, was.id)
            for id in credential_statements.of_owner(tx, was.id, (API_TOKEN, CLIENT_CERTIFICATE)):
                credential_statements.revoke(tx, id, self._clock.now())
                record(
                    tx,
                    self._clock.now_ms(),
                    "credential.revoked",
                    f"credential:{id}",
                    origin,
                    {"why": "its owner was disabled"},
                )
        return self._update(tx, f"person.{'enabled' if active else 'disabled'}", was, changed, origin)

    def set_password(
        self, tx: Tx, by: Principal, was: StoredPerson, password_hash: str, origin: Origin
    ) -> StoredPerson:
        """Give an account its first password. Raises ``Refusal`` where it has one: then only its holder sets
        another, with the old one or with a setup code."""
        self.check_manages(tx, by, was)
        if was.password_hash is not None:
            raise Refusal("the account has a password; hand out a setup code to have another set")
        changed = msgspec.structs.replace(
            was, password_hash=password_hash, setup_hash=None, setup_expires=None
        )
        return self._update(tx, "person.password-set", was, changed, origin)

    def hand_out_setup(
        self, tx: Tx, by: Principal, was: StoredPerson, origin: Origin
    ) -> tuple[StoredPerson, str]:
        """Make a one-time code with which the person sets their password; an earlier code is void.

        Raises ``Refusal`` or ``StalePerson``.
        """
        self.check_manages(tx, by, was)
        if was.state != ACTIVE:
            raise Refusal("the account is disabled")
        code = _SETUP_PREFIX + secrets.token_urlsafe(24)
        changed = msgspec.structs.replace(
            was,
            setup_hash=hashlib.sha256(code.encode()).digest(),
            setup_expires=self._clock.now() + SETUP_SECONDS,
        )
        return self._update(tx, "person.setup-handed-out", was, changed, origin), code

    def by_setup_code(self, tx: Tx, code: str) -> StoredPerson | None:
        """The account that a setup code is for, if it is good now."""
        if not code.startswith(_SETUP_PREFIX) or len(code) > 64 or not code.isascii():
            return None
        person = statements.by_setup_hash(tx, hashlib.sha256(code.encode()).digest())
        if person is None or person.state != ACTIVE or (person.setup_expires or 0) <= self._clock.now():
            return None
        return person

    def replace_password(
        self, tx: Tx, was: StoredPerson, password_hash: str, origin: Origin, why: str
    ) -> StoredPerson:
        """Set another password for somebody who has shown that they may; ends all their sessions.

        Raises ``StalePerson`` where the account was changed since ``was`` was read.
        """
        session_statements.delete_of_person(tx, was.id)
        changed = msgspec.structs.replace(
            was, password_hash=password_hash, setup_hash=None, setup_expires=None
        )
        return self._update(tx, "person.password-set", was, changed, origin, {"why": why})

    def link(
        self, tx: Tx, by: Principal, was: StoredPerson, issuer: str, subject: str | None, origin: Origin
    ) -> StoredPerson:
        """Say who the person is at the identity provider (None: nobody), which ends their sessions and what
        its groups gave them. Raises ``Refusal``, ``StalePerson``, or ``Conflict`` where another is that one.
        """
        self.check_manages(tx, by, was)
        session_statements.delete_of_person(tx, was.id)
        changed = msgspec.structs.replace(
            was,
            oidc_issuer=issuer if subject is not None else None,
            oidc_subject=subject,
            oidc_teams="[]",
            oidc_grants="[]",
        )
        return self._update(tx, "person.linked", was, changed, origin)

    def end_sessions(self, tx: Tx, by: Principal, person: StoredPerson, origin: Origin) -> int:
        """Log a person out everywhere; answers how often. One's own need no right."""
        if by.owner != person.id:
            self.check_manages(tx, by, person)
        count = session_statements.delete_of_person(tx, person.id)
        if count:
            self._record(tx, "person.logged-out", person.id, origin, {"sessions": count})
        return count

    def check_manages(self, tx: Tx, by: Principal, person: StoredPerson) -> None:
        """Raises ``Refusal`` unless they may change this account."""
        _check_teams(by, teams_of(person))
        grants = decode_grants(person.grants) + decode_grants(person.oidc_grants)
        roles = custom_roles(tx, grants)
        there = (grant for grant in grants if grant.role in BUILT_IN or grant.role in roles)
        try:
            check_giving(by, there, roles, owner=person.id)
        except Refusal as refusal:
            raise Refusal(f"the account may do more than you: {refusal}") from None

    def _check(self, tx: Tx, by: Principal, person: StoredPerson, terms: Terms) -> None:
        if len(terms.display) > 200 or not terms.display.isprintable():
            raise PersonError("display: at most 200 characters on one line")
        if terms.email and not _EMAIL.fullmatch(terms.email):
            raise PersonError("email: not an address")
        if len(terms.teams) > _MOST_TEAMS:
            raise PersonError(f"teams: more than {_MOST_TEAMS}")
        for team in terms.teams:
            if role_statements.team(tx, team) is None:
                raise PersonError(f"teams: there is no team {team!r}")
        check_grants(tx, terms.grants)
        _check_teams(by, teams_of(person))
        check_giving(by, terms.grants, custom_roles(tx, terms.grants), owner=person.id)

    def _update(
        self,
        tx: Tx,
        kind: str,
        was: StoredPerson,
        person: StoredPerson,
        origin: Origin,
        more: dict[str, Any] | None = None,
    ) -> StoredPerson:
        person = msgspec.structs.replace(person, updated=self._clock.now())
        if not statements.update(tx, person):
            raise StalePerson("the account was changed in the meantime")
        person = msgspec.structs.replace(person, revision=was.revision + 1)
        data = {"before": described(was), "after": described(person), **(more or {})}
        self._record(tx, kind, person.id, origin, data)
        return person

    def _record(self, tx: Tx, kind: str, id: str, origin: Origin, data: dict[str, Any]) -> None:
        record(tx, self._clock.now_ms(), kind, f"person:{id}", origin, data)


def check_name(name: str) -> None:
    """Raises ``PersonError`` for what cannot be an account's name."""
    if not _NAME.fullmatch(name):
        raise PersonError("name: lower-case letters, digits and . _ @ + - between them, at most 128")


def described(person: StoredPerson) -> dict[str, Any]:
    """An account as events tell of it: no secrets."""
    return {
        "name": person.name,
        "display": person.display,
        "email": person.email,
        "state": person.state,
        "teams": teams_of(person),
        "grants": decode_grants(person.grants) + decode_grants(person.oidc_grants),
        "has_password": person.password_hash is not None,
        "oidc": None if person.oidc_subject is None else f"{person.oidc_issuer} {person.oidc_subject}",
    }


def may_see(by: Principal, person: StoredPerson) -> bool:
    """Whether they may see an account: their own, or by ``person.read`` in one of its teams."""
    if by.owner == person.id:
        return True
    return any(by.may("person.read", Thing(owner="", team=team)) for team in teams_of(person) or ("",))


def _check_teams(by: Principal, teams: tuple[str, ...]) -> None:
    for team in teams or ("",):
        # An account is nobody's own: what reaches only one's own reaches none.
        if not by.may("person.write", Thing(owner="", team=team)):
            where = f"in the team {team!r}" if team else "outside of teams"
            raise Refusal(f"this takes the permission person.write {where}")
