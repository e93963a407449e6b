"""``certloom apply``, ``profile``, ``channel`` and ``authority``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.options import REFUSED, AsJSON, Config
from certloom.cli.reach import fail, perform

profile = typer.Typer(help="Certificate profiles.", no_args_is_help=True)
channel = typer.Typer(help="Enrolment addresses.", no_args_is_help=True)
authority = typer.Typer(help="CAs that issue.", no_args_is_help=True)


def apply(
    file: Annotated[
        str,
        typer.Option("--file", "-f", help="TOML, or JSON if it ends in .json; - reads TOML from stdin."),
    ],
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    json: AsJSON = False,
) -> None:
    """Make profiles, channels, credentials and authorities what a file declares: all of it, or nothing."""
    result = perform(config, "apply", document=_read(file), dry_run=dry_run)
    if json:
        show.as_json(result)
        return
    if not result["changes"]:
        print(f"{file} declares nothing.")
    for change in result["changes"]:
        details = "".join(f"\n    {detail}" for detail in change["details"])
        print(f"{change['change']:<10} {change['kind']} {change['name']}{details}")
    for secret in result["secrets"]:
        print(f"\ncredential {secret['id']}: HMAC key, shown once:\n  {secret['secret']}")
    if dry_run:
        print("\nNothing was changed (--dry-run).")


def _read(file: str) -> dict[str, Any]:
    import json
    import tomllib

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        tree = json.loads(data) if file.endswith(".json") else tomllib.loads(data.decode())
    except OSError as error:
        fail(REFUSED, f"{file}: {error.strerror}")
    except ValueError as error:
        fail(REFUSED, f"{file}: {error}")
    if not isinstance(tree, dict):
        fail(REFUSED, f"{file}: not a table")
    # TOML has times of its own; JSON carries them as text.
    decoded: dict[str, Any] = json.loads(json.dumps(tree, default=lambda time: time.isoformat()))
    return decoded


@profile.command("list")
def list_profiles(config: Config = None, json: AsJSON = False) -> None:
    """The newest version of each profile."""
    rows = perform(config, "profile.list")
    show.table(rows, ("name", "version", "authority", "description"), json=json, nothing="no profiles")


@profile.command("show")
def show_profile(
    name: str,
    version: Annotated[int | None, typer.Option(help="An older version.", show_default=False)] = None,
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """All of a profile, defaults included."""
    show.record(perform(config, "profile.show", name=name, version=version), json=json)


@channel.command("list")
def list_channels(config: Config = None, json: AsJSON = False) -> None:
    """Every channel."""
    rows = perform(config, "channel.list")
    show.table(rows, ("name", "protocol", "profiles", "directory"), json=json, nothing="no channels")


@channel.command("show")
def show_channel(name: str, config: Config = None, json: AsJSON = False) -> None:
    """All of a channel, defaults included."""
    show.record(perform(config, "channel.show", name=name), json=json)


@authority.command("list")
def list_authorities(config: Config = None, json: AsJSON = False) -> None:
    """Every authority."""
    rows = perform(config, "authority.list")
    columns = ("name", "kind", "issuer", "subject", "not_after", "state")
    show.table(rows, columns, json=json, nothing="no authorities")


@authority.command("show")
def show_authority(name: str, config: Config = None, json: AsJSON = False) -> None:
    """An authority, with its certificate."""
    show.record(perform(config, "authority.show", name=name), json=json)
