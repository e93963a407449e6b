"""Logging in with a password, logging out, and who one is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from certloom.api import problems
from certloom.api.authentication import COOKIE, session_secret
from certloom.api.problems import Problem
from certloom.api.routing import Answer, Authenticated, Call, Public, at, route
from certloom.api.telling import told
from certloom.identity.principals import PERMISSIONS, Scope
from certloom.store import people as statements
from certloom.store.base import Tx

_Password = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name and a password."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    password: _Password


class Session(msgspec.Struct, frozen=True):
    """A session that was opened; its secret is in the cookie."""

    person: str
    """The person's id."""
    name: str
    expires: datetime
    """It ends earlier when it is not used."""


class Held(msgspec.Struct, frozen=True):
    """A role, and where it holds."""

    role: str
    permissions: tuple[str, ...]
    own: bool
    """Whether it reaches only what one asked for oneself."""
    scope: Scope


class Whoami(msgspec.Struct, frozen=True):
    """Who was authenticated, and what they may do."""

    kind: str
    """`person`, `token`, `client-certificate` or `local`."""
    id: str
    name: str
    owner: str
    """Whose what they ask for is."""
    teams: tuple[str, ...]
    roles: tuple[Held, ...]


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One's own password, old and new."""

    old: _Password
    new: Annotated[str, msgspec.Meta(min_length=12, max_length=256)]


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A one-time code, and the password to set with it."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    password: Annotated[str, msgspec.Meta(min_length=12, max_length=256)]


class SetUp(msgspec.Struct, frozen=True):
    """Whose password was set."""

    name: str


def cookie(secret: str) -> tuple[str, str]:
    """The header that hands a browser its session; for an empty secret, that takes it back."""
    ends = "" if secret else "; Max-Age=0"
    return "set-cookie", f"{COOKIE}={secret}; Path=/; Secure; HttpOnly; SameSite=Lax{ends}"


@route(
    "POST",
    "/sessions",
    permission=Public("one logs in before one is anybody"),
    summary="Log in with a password",
    body=Login,
    answers={201: Session},
    problems=("login-refused", "too-many-requests", "unavailable"),
    keyed=False,
    tag="sessions",
)
async def login(call: Call[None, None, Login]) -> Answer:
    """Open a session; the answer sets its cookie. Attempts are bounded per address and per account."""
    with told():
        opened = await call.services.logins.login(call.body.name, call.body.password, call.origin)
    return Answer(
        Session(opened.person_id, opened.name, at(opened.expires)),
        status=201,
        location="/whoami",
        headers=(cookie(opened.secret),),
    )


@route(
    "DELETE",
    "/sessions/current",
    permission=Authenticated("it ends one's own session"),
    summary="Log out",
    answers={204: None},
    problems=("not-found",),
    tag="sessions",
)
async def logout(call: Call[None, None, None]) -> Answer:
    """End the session that this request's cookie belongs to."""
    secret = session_secret(call.headers.get("cookie", ""))
    if not secret or not await call.services.logins.logout(secret, call.origin):
        raise Problem(problems.NOT_FOUND, "this request belongs to no session")
    return Answer(status=204, headers=(cookie(""),))


@route(
    "DELETE",
    "/sessions",
    permission=Authenticated("they are one's own sessions"),
    summary="Log out everywhere",
    answers={204: None},
    problems=("conflict",),
    tag="sessions",
)
async def logout_everywhere(call: Call[None, None, None]) -> Answer:
    """End all of one's sessions."""

    def unit(tx: Tx) -> None:
        person = statements.get(tx, call.principal.owner, lock=True)
        if person is None:
            raise Problem(problems.CONFLICT, "only people have sessions")
        call.services.people.end_sessions(tx, call.principal, person, call.origin)

    await call.write(unit)
    return Answer(status=204, headers=(cookie(""),))


@route(
    "GET",
    "/whoami",
    permission=Authenticated("it is about oneself"),
    summary="Show who one is",
    answers={200: Whoami},
    tag="sessions",
)
async def whoami(call: Call[None, None, None]) -> Answer:
    """Who was authenticated, and the roles they act in at this moment."""
    by = call.principal
    roles = tuple(
        Held(h.role.name, tuple(p for p in PERMISSIONS if p in h.role.permissions), h.role.own, h.scope)
        for h in by.held
    )
    return Answer(Whoami(by.kind, by.id, by.name, by.owner, by.teams, roles))


@route(
    "PUT",
    "/password",
    permission=Authenticated("it is one's own password"),
    summary="Change one's password",
    body=NewPassword,
    answers={204: None},
    problems=("login-refused", "forbidden", "invalid", "too-many-requests", "unavailable"),
    tag="sessions",
)
async def change_password(call: Call[None, None, NewPassword]) -> Answer:
    """Set another password, which ends all of one's sessions. Takes the old one."""
    if call.principal.kind != "person":
        raise Problem(problems.FORBIDDEN, "a password is changed by the person, logged in")
    with told():
        await call.services.logins.change_password(
            call.principal.id, call.body.old, call.body.new, call.origin
        )
    return Answer(status=204, headers=(cookie(""),))


@route(
    "POST",
    "/setup",
    permission=Public("the one-time code is the proof"),
    summary="Set a password with a one-time code",
    body=Setup,
    answers={200: SetUp},
    problems=("login-refused", "invalid", "too-many-requests", "unavailable"),
    keyed=False,
    tag="sessions",
)
async def setup(call: Call[None, None, Setup]) -> Answer:
    """Set the password of the account that the code was handed out for; the code is void then."""
    with told():
        name = await call.services.logins.complete_setup(call.body.code, call.body.password, call.origin)
    return Answer(SetUp(name))
