"""``certloom backup``, ``restore`` and ``version``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from certloom import __version__
from certloom.cli import show
from certloom.cli.client import LONG_SECONDS
from certloom.cli.options import REFUSED, AsJSON, Config
from certloom.cli.reach import fail, read_settings
from certloom.cli.run import Run, command, single

backup = single()
restore = single()
version = single()


@version.command("version")
def print_version() -> None:
    """Print the version."""
    print(__version__)


@command(backup, "backup")
def make_backup(
    run: Run,
    file: Annotated[Path, typer.Argument(help="Where the server writes the archive; it must not exist.")],
) -> None:
    """Back up database and keys while the server runs. The archive holds the CA's keys: guard it so."""
    result = run.client.create("/backups", {"path": str(file.absolute())}, seconds=LONG_SECONDS).value
    size = sum(member["size"] for member in result["manifest"]["members"].values())
    run.say(result, f"{result['path']}: {size} octets. Whoever can read it holds the CA's keys.")


@restore.command("restore")
def put_back(
    file: Annotated[Path, typer.Argument(help="An archive that `certloom backup` wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there; files are put aside.")
    ] = False,
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Put a backup in place. Stop every server first."""
    settings = read_settings(config)

    import asyncio
    from datetime import UTC, datetime

    import msgspec

    from certloom.audit import Origin
    from certloom.clock import SystemClock
    from certloom import logs
    from certloom.server.admin import actor
    from certloom.server.restore import RestoreError
    from certloom.server.restore import restore as run
    from certloom.settings.schema import Logging

    logs.configure(Logging(level="error", format="text"))
    try:
        restored = asyncio.run(
            run(settings, SystemClock(), file.absolute(), force=force, origin=Origin(actor(os.getuid())))
        )
    except RestoreError as error:
        fail(REFUSED, str(error))
    if json:
        show.as_json(msgspec.to_builtins(restored))
        return
    made = datetime.fromtimestamp(restored.manifest.created, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    print(f"Restored what was backed up at {made}.")
    print(f"{restored.unknown_serials} serial numbers count as issued and unknown.")
    print("What was revoked after the backup must be revoked again.")
    for path in restored.kept_aside:
        print(f"Put aside: {path}")
