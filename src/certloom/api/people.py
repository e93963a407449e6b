"""People: accounts, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.routing import Answer, Call, Id, Page, Paging, at, at_or_none, etag, route
from certloom.api.telling import told
from certloom.identity import people
from certloom.identity.grants import decode_grants
from certloom.identity.people import SETUP_SECONDS, may_see
from certloom.identity.principals import Grant
from certloom.store import people as statements
from certloom.store.base import Tx
from certloom.store.people import ACTIVE, StoredPerson

_PROBLEMS = ("not-found", "forbidden", "invalid", "conflict")
_READ = 500


class PersonPath(msgspec.Struct, frozen=True):
    id: Id


class Person(msgspec.Struct, frozen=True):
    """An account."""

    id: str
    name: str
    """What they log in with."""
    display: str
    email: str
    active: bool
    has_password: bool
    oidc_subject: str | None
    """Who they are at the identity provider."""
    teams: tuple[str, ...]
    grants: tuple[Grant, ...]
    oidc_teams: tuple[str, ...]
    """What the provider's groups gave them at their last login."""
    oidc_grants: tuple[Grant, ...]
    created: datetime
    updated: datetime
    last_login: datetime | None


class PersonTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What can be changed of an account. What is left out is emptied."""

    display: Annotated[str, msgspec.Meta(max_length=200)] = ""
    email: Annotated[str, msgspec.Meta(max_length=320)] = ""
    teams: Annotated[tuple[str, ...], msgspec.Meta(max_length=200)] = ()
    grants: Annotated[tuple[Grant, ...], msgspec.Meta(max_length=100)] = ()

    def terms(self) -> people.Terms:
        """As the room of people has them."""
        return people.Terms(display=self.display, email=self.email, teams=self.teams, grants=self.grants)


class NewPerson(PersonTerms, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An account to be made."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the account can be used."""

    active: bool


class Password(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account's first password."""

    password: Annotated[str, msgspec.Meta(min_length=12, max_length=256)]


class OIDCLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who somebody is at the identity provider."""

    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None
    """The `sub` claim; null takes the link away."""


class SetupCode(msgspec.Struct, frozen=True):
    """A one-time code, shown this once."""

    code: str
    expires: datetime


def shown(person: StoredPerson) -> Person:
    """An account as the API shows it."""
    return Person(
        person.id,
        person.name,
        person.display,
        person.email,
        person.state == ACTIVE,
        person.password_hash is not None,
        person.oidc_subject,
        msgspec.json.decode(person.teams, type=tuple[str, ...]),
        decode_grants(person.grants),
        msgspec.json.decode(person.oidc_teams, type=tuple[str, ...]),
        decode_grants(person.oidc_grants),
        at(person.created),
        at(person.updated),
        at_or_none(person.last_login),
    )


@route(
    "GET",
    "/people",
    permission="person.read",
    summary="List people",
    query=Paging,
    answers={200: Page[Person]},
    tag="people",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """By name; those in teams that one may see."""

    def unit(tx: Tx) -> list[StoredPerson]:
        found: list[StoredPerson] = []
        after = call.position(str) or ""
        while len(found) <= call.limit:
            rows = statements.listing(tx, _READ, after)
            found += [person for person in rows if may_see(call.principal, person)]
            if len(rows) < _READ:
                break
            after = rows[-1].name
        return found

    rows = await call.services.store.scan(unit)
    return call.page([shown(row) for row in rows[: call.limit + 1]], lambda person: person.name)


@route(
    "POST",
    "/people",
    permission="person.write",
    summary="Make an account",
    body=NewPerson,
    answers={201: Person},
    problems=_PROBLEMS,
    etag=True,
    tag="people",
)
async def create(call: Call[None, None, NewPerson]) -> Answer:
    """Nobody can log into it until a password is set, a setup code used, or it is linked to an identity at
    the provider. Nobody gives more than they hold themselves."""

    def unit(tx: Tx) -> Answer:
        person = call.services.people.create(
            tx, call.principal, call.body.name, call.body.terms(), call.origin
        )
        return _answer(person, 201)

    with told():
        return await call.create(unit)


@route(
    "GET",
    "/people/{id}",
    permission="person.read",
    summary="Show an account",
    path=PersonPath,
    answers={200: Person},
    problems=("not-found",),
    etag=True,
    tag="people",
)
async def show(call: Call[PersonPath, None, None]) -> Answer:
    return _answer(await call.services.store.read(lambda tx: _seen(call, tx)))


@route(
    "PUT",
    "/people/{id}",
    permission="person.write",
    summary="Change an account",
    path=PersonPath,
    body=PersonTerms,
    answers={200: Person},
    problems=_PROBLEMS,
    edits=True,
    tag="people",
)
async def change(call: Call[PersonPath, None, PersonTerms]) -> Answer:
    """Nobody changes an account that may do more than they, nor gives one more than they hold."""
    manage = call.services.people
    return await _edit(
        call, lambda tx, was: manage.change(tx, call.principal, was, call.body.terms(), call.origin)
    )


@route(
    "PUT",
    "/people/{id}/state",
    permission="person.write",
    summary="Disable or enable an account",
    path=PersonPath,
    body=State,
    answers={200: Person},
    problems=_PROBLEMS,
    edits=True,
    tag="people",
)
async def set_state(call: Call[PersonPath, None, State]) -> Answer:
    """Disabling ends its sessions and revokes its tokens and client certificate identities, for good."""
    manage = call.services.people
    return await _edit(
        call, lambda tx, was: manage.set_state(tx, call.principal, was, call.body.active, call.origin)
    )


@route(
    "PUT",
    "/people/{id}/password",
    permission="person.write",
    summary="Set an account's first password",
    path=PersonPath,
    body=Password,
    answers={200: Person},
    problems=(*_PROBLEMS, "unavailable"),
    edits=True,
    tag="people",
)
async def set_password(call: Call[PersonPath, None, Password]) -> Answer:
    """Only where there is none; after that its holder changes it, or uses a setup code."""
    person = await call.services.store.read(lambda tx: _seen(call, tx))
    with told():
        hashed = await call.services.logins.hash(call.body.password, name=person.name)
    manage = call.services.people
    return await _edit(
        call, lambda tx, was: manage.set_password(tx, call.principal, was, hashed, call.origin)
    )


@route(
    "PUT",
    "/people/{id}/oidc",
    permission="person.write",
    summary="Link an account to the identity provider",
    path=PersonPath,
    body=OIDCLink,
    answers={200: Person},
    problems=_PROBLEMS,
    edits=True,
    tag="people",
)
async def link(call: Call[PersonPath, None, OIDCLink]) -> Answer:
    """Say by which subject the provider knows the person."""
    issuer = call.services.settings.oidc.issuer
    if not issuer:
        raise Problem(problems.CONFLICT, "no identity provider is configured (oidc.issuer)")
    manage = call.services.people
    return await _edit(
        call, lambda tx, was: manage.link(tx, call.principal, was, issuer, call.body.subject, call.origin)
    )


async def _handed_out_again(call: Call[Any, Any, Any], body: bytes) -> None:
    """Who may no longer manage the person is not told the code once more."""

    def unit(tx: Tx) -> None:
        call.services.people.check_manages(tx, call.principal, _seen(call, tx))

    with told():
        await call.services.store.read(unit)


@route(
    "POST",
    "/people/{id}/setup",
    permission="person.write",
    summary="Hand out a setup code",
    path=PersonPath,
    answers={201: SetupCode},
    problems=_PROBLEMS,
    tag="people",
    again=_handed_out_again,
)
async def hand_out_setup(call: Call[PersonPath, None, None]) -> Answer:
    """A code with which the person sets their password, once. An earlier one is void; a password that there
    is stays until the code is used."""

    def unit(tx: Tx) -> Answer:
        was = _seen(call, tx, lock=True)
        _, code = call.services.people.hand_out_setup(tx, call.principal, was, call.origin)
        return Answer(SetupCode(code, at(call.services.clock.now() + SETUP_SECONDS)), status=201)

    with told():
        return await call.create(unit)


@route(
    "DELETE",
    "/people/{id}/sessions",
    permission="person.write",
    summary="Log a person out everywhere",
    path=PersonPath,
    answers={204: None},
    problems=("not-found", "forbidden"),
    tag="people",
)
async def end_sessions(call: Call[PersonPath, None, None]) -> Answer:
    def unit(tx: Tx) -> None:
        call.services.people.end_sessions(tx, call.principal, _seen(call, tx, lock=True), call.origin)

    with told():
        await call.write(unit)
    return Answer(status=204)


def _seen(call: Call[PersonPath, Any, Any], tx: Tx, *, lock: bool = False) -> StoredPerson:
    person = statements.get(tx, call.path.id, lock=lock)
    if person is None or not may_see(call.principal, person):
        raise Problem(problems.NOT_FOUND, "there is no such person, or they are not yours to see")
    return person


async def _edit(call: Call[PersonPath, Any, Any], edit: Callable[[Tx, StoredPerson], StoredPerson]) -> Answer:
    def unit(tx: Tx) -> Answer:
        was = _seen(call, tx, lock=True)
        call.require_match(_etag(was))
        return _answer(edit(tx, was))

    with told():
        return await call.write(unit)


def _answer(person: StoredPerson, status: int = 200) -> Answer:
    location = f"/people/{person.id}" if status == 201 else None
    return Answer(shown(person), status=status, etag=_etag(person), location=location)


def _etag(person: StoredPerson) -> str:
    return etag("person", person.id, person.revision)
