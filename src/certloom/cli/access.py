"""``certloom login``, ``logout`` and ``whoami``."""

from __future__ import annotations

import sys
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Annotated

import typer

from certloom.cli import sessions, show
from certloom.cli.client import Problem
from certloom.cli.options import REFUSED, UNREACHABLE, USAGE
from certloom.cli.passwords import new_password, password
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, single

login = single()
logout = single()
whoami = single()


@command(login, "login")
def log_in(
    run: Run,
    name: Annotated[str | None, typer.Argument(help="Your name there.")] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="A file whose first line is the password (- is stdin); else it is asked for."),
    ] = None,
    setup_code: Annotated[
        Path | None,
        typer.Option(
            help="A file with the code you were given (- is stdin): first set your password with it."
        ),
    ] = None,
) -> None:
    """Begin a session with a server, as a person. It is kept in a file of your own.

    With - for both, standard input has the code in its first line and the password in its second.
    """
    server = run.connection.server
    if not server:
        fail(USAGE, "name the server with --server or CERTLOOM_SERVER; on its own machine no login is needed")
    run.anonymous = True
    if setup_code is not None:
        code = password("Code", setup_code)
        secret = new_password(password_file)
        made = run.client.answer("POST", "/setup", None, {"code": code.strip(), "password": secret}).value
        name = made["name"]
    else:
        name = name or _ask_name()
        secret = password("Password", password_file)
    answer = run.client.answer("POST", "/sessions", None, {"name": name, "password": secret})
    cookie = _cookie(answer.headers.get("set-cookie", ""))
    ca_file = run.connection.ca_file
    try:
        sessions.keep(
            server,
            {"cookie": cookie, "name": name, "ca_file": "" if ca_file is None else str(ca_file.absolute())},
        )
    except OSError as error:
        fail(REFUSED, f"{sessions.path()}: {error.strerror}")
    expires = answer.value["expires"]
    run.say(answer.value, f"Logged in as {name} until {show.moment(expires)}.")


def _ask_name() -> str:
    if not sys.stdin.isatty():
        fail(USAGE, "there is no terminal to ask for a name: say it, as in `certloom login alice`")
    try:
        return input("Name: ")
    except EOFError:
        fail(USAGE, "no name was given")


def _cookie(header: str) -> str:
    """``name=value`` of the session's cookie."""
    try:
        found = next(iter(SimpleCookie(header).values()), None)
    except CookieError:
        found = None
    if found is None or not found.value:
        fail(UNREACHABLE, "the server opened no session")
    return f"{found.key}={found.value}"


@command(logout, "logout")
def log_out(
    run: Run,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="End all of your sessions.")] = False,
) -> None:
    """End the session with a server."""
    server = run.connection.server
    if not server:
        fail(USAGE, "name the server with --server or CERTLOOM_SERVER")
    try:
        run.client.answer("DELETE", "/sessions" if everywhere else "/sessions/current")
    except Problem as problem:
        # One that is over already needs no end.
        if problem.status not in (401, 404):
            raise
    finally:
        sessions.forget(server)
    run.say({"server": server}, "Logged out.")


@command(whoami, "whoami")
def who_am_i(run: Run) -> None:
    """Whom the server takes you for, and what you may do."""
    found = run.client.get("/whoami")
    if run.json:
        show.as_json(found)
        return
    show.record({name: value for name, value in found.items() if name != "roles"})
    for held in found["roles"]:
        where = [f"{axis} {', '.join(values)}" for axis, values in held["scope"].items() if values]
        if held["own"]:
            where.append("only what is their own")
        show.line(f"{held['role']}{' (' + '; '.join(where) + ')' if where else ''}:")
        show.line(f"  {', '.join(held['permissions'])}")
