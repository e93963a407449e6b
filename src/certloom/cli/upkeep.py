"""``certloom backup``, ``restore`` and ``version``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certloom import __version__
from certloom.cli import show
from certloom.cli.client import LONG_SECONDS
from certloom.cli.options import REFUSED, AsJSON, Config
from certloom.cli.reach import fail, read_settings
from certloom.cli.run import Run, command, single

if TYPE_CHECKING:
    from certloom.settings import Settings

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

    from certloom import logs
    from certloom.audit import Origin
    from certloom.clock import SystemClock
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
    for wanted in _wanted(settings):
        print(wanted)
    for path in restored.kept_aside:
        print(f"Put aside: {path}")


def _wanted(settings: Settings) -> list[str]:
    """What else a start needs: key files that are only part of a key, or are not there."""
    from certloom.secrets import SecretError
    from certloom.secrets.sources import source_named_in
    from certloom.server import signer
    from certloom.server.data_dir import DataDir

    data_dir = DataDir(settings)
    signer_key = signer.directory(settings, data_dir) / data_dir.signer_key.name
    told = []
    for path, section, named in (
        (data_dir.data_key, "secrets", settings.secrets.source),
        (signer_key, "signer.secrets", settings.signer.secrets.source),
    ):
        try:
            source = source_named_in(path)
        except SecretError:
            told.append(f"Not there, or not for you to read: {path}. Put it back from its own backup.")
            continue
        if source != "file":
            told.append(f"{path} opens with source {source!r} alone, which is not in the backup.")
        if source != named:
            told.append(f'Set source = "{source}" in [{section}]: settings name {named!r}.')
    return told
