"""Teams."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, at, etag, route
from certloom.api.telling import told
from certloom.identity import roles
from certloom.identity.principals import Thing
from certloom.store import roles as statements
from certloom.store.base import Tx
from certloom.store.roles import StoredTeam

_PROBLEMS = ("not-found", "forbidden", "invalid", "conflict")
_READ = 500


class TeamPath(msgspec.Struct, frozen=True):
    name: Name


class TeamTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be said of a team."""

    description: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Team(msgspec.Struct, frozen=True):
    """A team: certificates, requests and credentials belong to one."""

    name: str
    description: str
    created: datetime


@route(
    "GET",
    "/teams",
    permission="person.read",
    summary="List teams",
    query=Paging,
    answers={200: Page[Team]},
    tag="people",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    def unit(tx: Tx) -> list[StoredTeam]:
        found: list[StoredTeam] = []
        after = call.position(str) or ""
        while len(found) <= call.limit:
            rows = statements.teams(tx, _READ, after)
            found += [team for team in rows if call.principal.may("person.read", Thing(team=team.name))]
            if len(rows) < _READ:
                break
            after = rows[-1].name
        return found

    rows = await call.services.store.scan(unit)
    return call.page([_shown(row) for row in rows[: call.limit + 1]], lambda team: team.name)


@route(
    "GET",
    "/teams/{name}",
    permission="person.read",
    summary="Show a team",
    path=TeamPath,
    answers={200: Team},
    problems=("not-found",),
    etag=True,
    tag="people",
)
async def show(call: Call[TeamPath, None, None]) -> Answer:
    row = await call.services.store.read(lambda tx: statements.team(tx, call.path.name))
    if row is None or not call.principal.may("person.read", Thing(team=row.name)):
        raise Problem(problems.NOT_FOUND, "there is no such team, or it is not yours to see")
    return Answer(_shown(row), etag=_etag(row))


@route(
    "PUT",
    "/teams/{name}",
    permission="person.write",
    summary="Make or change a team",
    path=TeamPath,
    body=TeamTerms,
    answers={200: Team, 201: Team},
    problems=_PROBLEMS,
    edits=True,
    tag="people",
)
async def put(call: Call[TeamPath, None, TeamTerms]) -> Answer:
    def unit(tx: Tx) -> Answer:
        was = statements.team(tx, call.path.name)
        call.allow("person.write", Thing(team=call.path.name))
        call.require_match(None if was is None else _etag(was))
        row = roles.put_team(
            tx,
            call.services.clock,
            call.principal,
            call.path.name,
            call.body.description,
            was,
            call.origin,
        )
        made = was is None
        location = f"/teams/{row.name}" if made else None
        return Answer(_shown(row), status=201 if made else 200, etag=_etag(row), location=location)

    with told():
        return await call.write(unit)


@route(
    "DELETE",
    "/teams/{name}",
    permission="person.write",
    summary="Take away a team",
    path=TeamPath,
    answers={204: None},
    problems=_PROBLEMS,
    edits=True,
    tag="people",
)
async def delete(call: Call[TeamPath, None, None]) -> Answer:
    """Only while nobody is in it and no credential in use belongs to it."""

    def unit(tx: Tx) -> None:
        call.allow("person.write", Thing(team=call.path.name))
        was = statements.team(tx, call.path.name)
        if was is None:
            raise Problem(problems.NOT_FOUND, "there is no such team")
        call.require_match(_etag(was))
        roles.delete_team(tx, call.services.clock, call.principal, was, call.origin)

    with told():
        await call.write(unit)
    return Answer(status=204)


def _shown(row: StoredTeam) -> Team:
    return Team(row.name, row.description, at(row.created))


def _etag(row: StoredTeam) -> str:
    return etag("team", row.name, row.created, row.revision)
