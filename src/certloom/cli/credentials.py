"""``certloom credential``."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from certloom.cli import show
from certloom.cli.options import AsJSON, Config
from certloom.cli.reach import perform

app = typer.Typer(help="What requesters prove themselves with.", no_args_is_help=True)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if match is None:
        raise typer.BadParameter("a number with s, m, h or d, such as 30d")
    return int(match[1]) * _UNITS[match[2]]


@app.command("create")
def create(
    channel: Annotated[str, typer.Option(help="The ACME channel it is for.")] = "default",
    name: Annotated[
        list[str] | None, typer.Option(help="A name pattern it may be used for; may be repeated.")
    ] = None,
    preauthorized: Annotated[
        bool, typer.Option("--preauthorized", help="Its names need no challenge: internal requesters.")
    ] = False,
    uses: Annotated[int | None, typer.Option(min=1, help="How many accounts it may bind.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="How long it lives, such as 12h or 30d.")] = None,
    token: Annotated[bool, typer.Option("--token", help="An admin API token instead.")] = False,
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Make an ACME external account binding key (or an API token). Its secret is shown once."""
    result = perform(
        config,
        "credential.create",
        token=token,
        channel=channel,
        names=name or [],
        preauthorized=preauthorized,
        uses=uses,
        seconds=_seconds(expires_in),
    )
    show.record(result, json=json)


@app.command("list")
def listing(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    after: Annotated[str, typer.Option(help="The last id of the page before.")] = "",
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Credentials, the oldest first. Never their secrets."""
    rows = perform(config, "credential.list", limit=limit, after=after)
    columns = ("id", "kind", "channel", "names", "preauthorized", "uses_left", "expires", "revoked")
    show.table(rows, columns, json=json, nothing="no credentials")


@app.command("revoke")
def revoke(id: str, config: Config = None, json: AsJSON = False) -> None:
    """Take a credential out of use."""
    show.record(perform(config, "credential.revoke", id=id), json=json)
