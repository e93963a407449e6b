"""``certloom person``, ``team`` and ``role``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli.client import at
from certloom.cli.credentials import person_id
from certloom.cli.files import save
from certloom.cli.options import Limit
from certloom.cli.passwords import new_password
from certloom.cli.run import Run, command, group
from certloom.cli.values import granted, grants

person = group("People, and what they may do.")
team = group("Teams.")
role = group("Roles, built in and custom.")

Who = Annotated[str, typer.Argument(metavar="PERSON", help="An id, or the name they log in with.")]
_GRANT_HELP = (
    "A role they act in, such as approver or approver:team=web,name=**.example.com; may be repeated."
)


@command(person, "create")
def create(
    run: Run,
    name: Annotated[str, typer.Argument(help="What they log in with.")],
    display: Annotated[str, typer.Option(help="Their name, for people's eyes.")] = "",
    email: Annotated[str, typer.Option(help="Where they are told of what waits for them.")] = "",
    teams: Annotated[list[str] | None, typer.Option("--team", help="A team; may be repeated.")] = None,
    roles: Annotated[list[str] | None, typer.Option("--role", help=_GRANT_HELP)] = None,
) -> None:
    """Make an account. Then `person setup` hands out a code to set a password with, or `person password` sets
    one."""
    body = {"name": name, "display": display, "email": email, "teams": teams or [], "grants": grants(roles)}
    made = run.client.create("/people", body).value
    run.say(made, f"{made['name']}: {made['id']}")


@command(person, "list")
def list_people(run: Run, limit: Limit = 1000) -> None:
    """People, by name."""
    rows = run.client.rows("/people", limit)
    flat = rows if run.json else [{**row, "roles": granted(row["grants"])} for row in rows]
    run.table(flat, ("name", "id", "active", "teams?", "roles"), "no people")


def _path(run: Run, who: str) -> str:
    return "/people" + at(person_id(run, who))


@command(person, "show")
def show_person(run: Run, who: Who) -> None:
    """All of an account."""
    found = run.client.get(_path(run, who))
    if not run.json:
        found = {name: granted(value) if name.endswith("grants") else value for name, value in found.items()}
    run.record(found)


@command(person, "edit")
def edit(
    run: Run,
    who: Who,
    display: Annotated[str | None, typer.Option(help="Their name, for people's eyes.")] = None,
    email: Annotated[str | None, typer.Option(help="Where they are told of what waits.")] = None,
    teams: Annotated[list[str] | None, typer.Option("--team", help="Their teams; may be repeated.")] = None,
    roles: Annotated[list[str] | None, typer.Option("--role", help=_GRANT_HELP)] = None,
    no_teams: Annotated[bool, typer.Option("--no-teams", help="Out of all teams.")] = False,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="No roles any more.")] = False,
) -> None:
    """Change what is given; the rest stays. Refused if somebody else changed it meanwhile."""
    said: dict[str, Any] = {
        "display": display,
        "email": email,
        "teams": [] if no_teams else teams or None,
        "grants": [] if no_roles else grants(roles) or None,
    }

    def change(was: dict[str, Any]) -> dict[str, Any]:
        return {field: was[field] if value is None else value for field, value in said.items()}

    done = run.client.edit(_path(run, who), change, "PUT")
    run.say(done, f"{done['name']}: changed")


@command(person, "setup")
def setup(
    run: Run,
    who: Who,
    secret_file: Annotated[
        Path | None, typer.Option(help="Write the code here (mode 0600) instead of showing it.")
    ] = None,
) -> None:
    """Hand out a code, shown once, with which the person sets their own password."""
    made = run.client.create(_path(run, who) + "/setup").value
    if secret_file is not None:
        save(secret_file, [made["code"].encode() + b"\n"], private=True)
        made = {**made, "code": None}
    run.record(made if run.json else {name: value for name, value in made.items() if value is not None})


@command(person, "password")
def password(
    run: Run,
    who: Who,
    password_file: Annotated[
        Path | None,
        typer.Option(help="A file whose first line is the password (- is stdin); else it is asked for."),
    ] = None,
) -> None:
    """Set an account's first password."""
    secret = new_password(password_file)
    path = _path(run, who)
    found = run.client.answer("GET", path)
    headers = {"If-Match": found.etag}
    done = run.client.answer("PUT", path + "/password", None, {"password": secret}, headers=headers).value
    run.say(done, f"{done['name']}: the password is set")


def _set_active(run: Run, who: str, active: bool) -> None:
    path = _path(run, who)
    found = run.client.answer("GET", path)
    headers = {"If-Match": found.etag}
    done = run.client.answer("PUT", path + "/state", None, {"active": active}, headers=headers).value
    run.say(done, f"{done['name']}: {'enabled' if done['active'] else 'disabled'}")


@command(person, "disable")
def disable(run: Run, who: Who) -> None:
    """Let nobody into an account: its sessions end and its tokens are revoked, for good."""
    _set_active(run, who, False)


@command(person, "enable")
def enable(run: Run, who: Who) -> None:
    """Let somebody into their account again."""
    _set_active(run, who, True)


@command(person, "logout")
def log_out(run: Run, who: Who) -> None:
    """End all of a person's sessions."""
    path = _path(run, who)
    run.client.answer("DELETE", path + "/sessions")
    run.say({"person": who}, f"{who} is logged out everywhere")


@command(person, "link")
def link(
    run: Run,
    who: Who,
    subject: Annotated[
        str | None, typer.Argument(help="Their `sub` at the identity provider; left out, the link goes.")
    ] = None,
) -> None:
    """Say who a person is at the identity provider."""
    path = _path(run, who)
    found = run.client.answer("GET", path)
    headers = {"If-Match": found.etag}
    done = run.client.answer("PUT", path + "/oidc", None, {"subject": subject}, headers=headers).value
    run.say(done, f"{done['name']}: {'linked' if subject else 'not linked'}")


@command(team, "list")
def list_teams(run: Run, limit: Limit = 1000) -> None:
    """Teams, by name."""
    run.table(run.client.rows("/teams", limit), ("name", "description", "created"), "no teams")


@command(team, "create")
def put_team(run: Run, name: str, description: Annotated[str, typer.Option(help="What it is.")] = "") -> None:
    """Make a team, or say anew what it is."""
    done = run.client.put("/teams" + at(name), {"description": description})
    run.say(done.value, f"team {name}: {'created' if done.status == 201 else 'changed'}")


@command(team, "delete")
def delete_team(run: Run, name: str) -> None:
    """Take a team away that nobody is in."""
    run.client.delete("/teams" + at(name))
    run.say({"deleted": name}, f"team {name} is deleted")


@command(role, "list")
def list_roles(run: Run, limit: Limit = 1000) -> None:
    """Roles, by name."""
    rows = run.client.rows("/roles", limit)
    run.table(rows, ("name", "built_in", "own", "description"), "no roles")


@command(role, "show")
def show_role(run: Run, name: str) -> None:
    """What a role may do."""
    run.record(run.client.get("/roles" + at(name)))


@command(role, "permissions")
def permissions(run: Run) -> None:
    """Every permission that a role can be made of."""
    run.table(run.client.get("/permissions")["items"], ("name", "description"), "no permissions")


@command(role, "create")
def put_role(
    run: Run,
    name: str,
    permission: Annotated[
        list[str], typer.Option("--permission", "-p", help="One of them; may be repeated.")
    ],
    own: Annotated[
        bool, typer.Option("--own", help="It reaches only what its holder asked for themselves.")
    ] = False,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Make a role, or change it."""
    body = {"permissions": permission, "own": own, "description": description}
    done = run.client.put("/roles" + at(name), body)
    run.say(done.value, f"role {name}: {'created' if done.status == 201 else 'changed'}")


@command(role, "delete")
def delete_role(run: Run, name: str) -> None:
    """Take a custom role away."""
    run.client.delete("/roles" + at(name))
    run.say({"deleted": name}, f"role {name} is deleted")
