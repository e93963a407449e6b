"""Options that commands share, and what the exit status says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OK = 0
REFUSED = 1
"""The answer was no: nothing was changed."""
USAGE = 2
"""The command line itself was wrong."""
BAD_SETTINGS = 3
UNREACHABLE = 4
"""Neither a running server nor its database could be reached, or the server failed or could not start."""
NOT_INTACT = 5
"""``audit verify`` found the log altered."""
WAITING = 6
"""People have to agree first."""
NOT_ALLOWED = 7
"""Not authenticated, or not allowed."""

EPILOG = (
    "Exit status: 0 done, 1 refused (nothing changed), 2 wrong usage, 3 bad settings,"
    " 4 server or database not to be reached, 5 audit log not intact, 6 waiting for people,"
    " 7 not authenticated or not allowed."
)

NOT_GIVEN = {"help": False}
"""For ``default_map`` of what has commands below it. Typer makes a converter, and loads pydantic for it, for
each flag that is None: a third of the time that a page of help takes."""

_CONNECTION = "Connection"

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="CERTLOOM_CONFIG",
        help="Settings file (TOML) of the server on this machine.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="CERTLOOM_SERVER",
        metavar="URL",
        help="A server elsewhere: https://HOST:PORT.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="CERTLOOM_TOKEN_FILE",
        help="File with an API token; the token itself may be in CERTLOOM_TOKEN.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
CAFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="CERTLOOM_CA_FILE",
        help="The server's root (PEM).",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Cert = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        envvar="CERTLOOM_CERT",
        help="Client certificate (PEM) to prove oneself with.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="CERTLOOM_KEY",
        help="Its private key (PEM).",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs: what the REST API answers.")]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the record.")]
