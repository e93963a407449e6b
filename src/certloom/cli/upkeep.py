"""``certloom audit``, ``backup`` and ``restore``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from certloom.cli import show
from certloom.cli.options import NOT_INTACT, REFUSED, AsJSON, Config
from certloom.cli.reach import fail, perform, read_settings

audit = typer.Typer(help="The audit log.", no_args_is_help=True)


@audit.command("verify")
def verify(config: Config = None, json: AsJSON = False) -> None:
    """Check that no event was altered, removed or inserted."""
    result = perform(config, "audit.verify")
    if json:
        show.as_json(result)
    else:
        head = result["head"]
        print(f"{result['checked']} events checked; the last: number {head['sequence']}, hash {head['hash']}")
        for fault in result["faults"]:
            print(f"event {fault['sequence']}: {fault['problem']}: {fault['detail']}")
    if not result["intact"]:
        raise typer.Exit(NOT_INTACT)


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write the archive; it must not exist.")],
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Back up database and keys while the server runs. The archive holds the CA's keys: guard it so."""
    result = perform(config, "backup", path=str(file.absolute()))
    if json:
        show.as_json(result)
    else:
        size = sum(member["size"] for member in result["members"].values())
        print(f"{result['path']}: {size} octets. Whoever can read it holds the CA's keys.")


def restore(
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

    import msgspec

    from certloom.audit import Origin
    from certloom.clock import SystemClock
    from certloom.server import logs
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
    made = show.text("created", restored.manifest.created)
    print(f"Restored what was backed up at {made}.")
    print(f"{restored.unknown_serials} serial numbers count as issued and unknown.")
    print("What was revoked after the backup must be revoked again.")
    for path in restored.kept_aside:
        print(f"Put aside: {path}")
