"""``certloom credential`` and ``certloom token``."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.files import save
from certloom.cli.options import Limit
from certloom.cli.run import Run, command, group
from certloom.cli.values import from_now, grants, moment, seconds

app = group("What requesters prove themselves with.")
token = group("API tokens.")


class Kind(StrEnum):
    """The kinds of credentials."""

    EAB = "acme-eab"
    EST_USER = "est-password"
    EST = "est-token"
    EST_KEY = "est-key"
    CMC = "cmc-secret"
    SCEP = "scep-challenge"
    CMP = "cmp-secret"
    API = "api-token"
    CERTIFICATE = "client-certificate"


_ACT = frozenset({Kind.API, Kind.CERTIFICATE})
_ROLE_HELP = "A role it acts in, such as operator or requester:team=web; may be repeated."
_ALL = 1_000_000
_PERSON_ID = re.compile("[0-9a-f]{32}")

Label = Annotated[str, typer.Option(help="Words for people.")]
Roles = Annotated[list[str] | None, typer.Option("--role", help=_ROLE_HELP)]
ExpiresIn = Annotated[str | None, typer.Option(help="How long it lives, such as 12h or 30d.")]
Service = Annotated[str | None, typer.Option(help="Whose it is: a name for a service.")]
Person = Annotated[str | None, typer.Option(help="Whose it is: a person's id or name.")]
Team = Annotated[str | None, typer.Option(help="The team it belongs to.")]
SecretFile = Annotated[
    Path | None, typer.Option(help="Write the secret here (mode 0600) instead of showing it.")
]


@command(app, "create")
def create(
    run: Run,
    kind: Annotated[Kind, typer.Option(help="What it is.")] = Kind.EAB,
    id: Annotated[
        str | None, typer.Option(help="Key id, user name or reference value of your choice.")
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="The channel it is for. [default for acme-eab: default]")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A name pattern it may be used for; may be repeated.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="A profile it may be used for; may be repeated.")
    ] = None,
    preauthorized: Annotated[
        bool, typer.Option("--preauthorized", help="Its names need no challenge (ACME): internal requesters.")
    ] = False,
    uses: Annotated[int | None, typer.Option(min=1, help="How often it can be used.")] = None,
    expires_in: ExpiresIn = None,
    label: Label = "",
    person: Person = None,
    service: Service = None,
    team: Team = None,
    role: Roles = None,
    spki: Annotated[
        str | None, typer.Option(help="client-certificate: SHA-256 of its public key, in hexadecimal ...")
    ] = None,
    cert_profile: Annotated[
        str | None, typer.Option(help="... or any certificate of this profile ...")
    ] = None,
    cert_name: Annotated[
        str | None, typer.Option(help="... with this name, such as dns:robot.example.com.")
    ] = None,
    secret_file: SecretFile = None,
    as_token: Annotated[
        bool, typer.Option("--token", help="Short for --kind api-token --role admin.", hidden=True)
    ] = False,
) -> None:
    """Make a credential. Its secret is shown once."""
    if as_token:
        kind, role = Kind.API, role or ["admin"]
    body: dict[str, Any] = {
        "kind": kind.value,
        "names": name or [],
        "profiles": profile or [],
        "preauthorized": preauthorized,
        "label": label,
        "grants": grants(role),
    }
    certificate = {"spki_sha256": spki, "profile": cert_profile, "name": cert_name}
    optional = {
        "id": id,
        "channel": channel or ("default" if kind is Kind.EAB else None),
        "uses": uses,
        "expires": from_now(expires_in),
        "person": None if person is None else person_id(run, person),
        "service": service,
        "team": team,
        "certificate": {field: value for field, value in certificate.items() if value is not None} or None,
    }
    if as_token and person is None and service is None:
        optional["service"] = "cli"
    body |= {field: value for field, value in optional.items() if value is not None}
    _show_secret(run, run.client.create("/credentials", body).value, secret_file)


def person_id(run: Run, text: str) -> str:
    """The id of a person who is told by id or by name."""
    if _PERSON_ID.fullmatch(text):
        return text
    for row in run.client.rows("/people", _ALL):
        if text in (row["id"], row["name"]):
            found: str = row["id"]
            return found
    return text


def _show_secret(run: Run, made: dict[str, Any], file: Path | None) -> None:
    secret = made["secret"]
    if file is not None and secret is not None:
        save(file, [secret.encode() + b"\n"], private=True)
        made = {**made, "secret": None}
    if run.json:
        # The credential's own fields first, as listings have them.
        show.as_json({**made["credential"], "secret": made["secret"]})
        return
    credential = made["credential"]
    shown = {name: value for name, value in credential.items() if value not in (None, [], "", False)}
    if made["secret"] is not None:
        shown["secret (shown once)"] = made["secret"]
    show.record(shown, ("id", "kind", "secret (shown once)"))


@command(app, "list")
def listing(
    run: Run,
    kind: Annotated[Kind | None, typer.Option(help="Only this kind.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Revoked ones as well.")] = False,
    limit: Limit = 100,
) -> None:
    """Credentials, the oldest first. Never their secrets."""
    _list(run, kind, all, limit)


def _list(run: Run, kind: Kind | None, all: bool, limit: int) -> None:
    rows = run.client.rows("/credentials", limit, kind=kind and kind.value, in_use=not all)
    columns = ["id", "kind", "channel?", "names", "expires?"]
    if kind in _ACT:
        columns = ["id", "label", "owner?", "last_used?", "expires"]
    run.table(rows, [*columns, "revoked"] if all else columns, "no credentials")


@command(app, "show")
def show_credential(run: Run, id: str) -> None:
    """All of a credential but its secret."""
    run.record(run.client.get("/credentials" + at(id)))


@command(app, "edit")
def edit(
    run: Run,
    id: str,
    name: Annotated[
        list[str] | None, typer.Option(help="The name patterns it may be used for; may be repeated.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="The profiles it may be used for; may be repeated.")
    ] = None,
    preauthorized: Annotated[bool | None, typer.Option(help="Whether its names need no challenge.")] = None,
    uses: Annotated[int | None, typer.Option(min=1, help="How often it can still be used.")] = None,
    expires: Annotated[str | None, typer.Option(help="Until when: a day, a moment or 30d from now.")] = None,
    label: Annotated[str | None, typer.Option(help="Words for people.")] = None,
    team: Team = None,
    role: Roles = None,
) -> None:
    """Change what is given; the rest stays. Refused if somebody else changed it meanwhile."""
    said = {
        "names": name,
        "profiles": profile,
        "preauthorized": preauthorized,
        "uses": uses,
        "expires": moment(expires),
        "label": label,
        "team": team,
        "grants": grants(role) if role else None,
    }

    def change(was: dict[str, Any]) -> dict[str, Any]:
        body = {
            field: was["uses_left" if field == "uses" else field] if value is None else value
            for field, value in said.items()
        }
        return {field: value for field, value in body.items() if value is not None}

    run.record(run.client.edit("/credentials" + at(id), change, "PUT"))


@command(app, "rotate")
def rotate(
    run: Run,
    id: str,
    overlap: Annotated[
        str | None, typer.Option(help="How long the old secret stays good, such as 1h.")
    ] = None,
    secret_file: SecretFile = None,
) -> None:
    """Give a credential a new secret, shown once."""
    _rotate(run, id, overlap, secret_file)


def _rotate(run: Run, id: str, overlap: str | None, secret_file: Path | None) -> None:
    made = run.client.create("/credentials" + at(id) + "/rotate", {"overlap": seconds(overlap) or 0}).value
    _show_secret(run, made, secret_file)


@command(app, "revoke")
def revoke(run: Run, id: str) -> None:
    """Take a credential out of use, for good."""
    _revoke(run, id)


def _revoke(run: Run, id: str) -> None:
    run.client.answer("DELETE", "/credentials" + at(id))
    run.say({"id": id, "revoked": True}, f"credential {id} is revoked")


@command(token, "create")
def create_token(
    run: Run,
    role: Annotated[list[str], typer.Option("--role", help=_ROLE_HELP)],
    label: Label = "",
    service: Service = None,
    person: Person = None,
    team: Team = None,
    expires_in: ExpiresIn = None,
    secret_file: SecretFile = None,
) -> None:
    """Make an API token. It is shown once."""
    body: dict[str, Any] = {"kind": Kind.API.value, "label": label, "grants": grants(role)}
    optional = {
        "expires": from_now(expires_in),
        "person": None if person is None else person_id(run, person),
        "service": service,
        "team": team,
    }
    body |= {field: value for field, value in optional.items() if value is not None}
    _show_secret(run, run.client.create("/credentials", body).value, secret_file)


@command(token, "list")
def list_tokens(
    run: Run,
    all: Annotated[bool, typer.Option("--all", help="Revoked ones as well.")] = False,
    limit: Limit = 100,
) -> None:
    """API tokens, the oldest first. Never their secrets."""
    _list(run, Kind.API, all, limit)


@command(token, "rotate")
def rotate_token(
    run: Run,
    id: str,
    overlap: Annotated[str | None, typer.Option(help="How long the old one stays good, such as 1h.")] = None,
    secret_file: SecretFile = None,
) -> None:
    """Make a token anew, shown once."""
    _rotate(run, id, overlap, secret_file)


@command(token, "revoke")
def revoke_token(run: Run, id: str) -> None:
    """Take a token out of use, for good."""
    _revoke(run, id)
