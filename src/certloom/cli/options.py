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
"""Neither a running server nor its database could be reached, or the server could not start."""
NOT_INTACT = 5
"""``audit verify`` found the log altered."""

EPILOG = (
    "Exit status: 0 done, 1 refused (nothing changed), 2 wrong usage, 3 bad settings,"
    " 4 server or database not to be reached, 5 audit log not intact."
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="CERTLOOM_CONFIG", help="Settings file (TOML).", show_default=False
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
