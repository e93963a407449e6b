"""``certloom apply``, ``profile`` and ``channel``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.options import REFUSED, Limit
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, group, single

apply = single()
profile = group("Certificate profiles.")
channel = group("Enrolment addresses.")


@command(apply, "apply")
def apply_document(
    run: Run,
    file: Annotated[
        str,
        typer.Option("--file", "-f", help="TOML, or JSON if it ends in .json; - reads TOML from stdin."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Make profiles, channels, credentials, authorities what a file declares: all of it, or nothing."""
    document = with_files(read_document(file), Path(file).parent if file != "-" else Path())
    result = run.client.act("/declarations", {"document": document, "dry_run": dry_run})
    if run.json:
        show.as_json(result)
        return
    if not result["changes"]:
        show.line(f"{file} declares nothing.")
    for change in result["changes"]:
        show.line(f"{change['change']:<10} {change['kind']} {change['name']}")
        for detail in change["details"]:
            show.line(f"    {detail}")
    for secret in result["secrets"]:
        show.line(f"\ncredential {secret['id']} ({secret['kind']}), shown once:\n  {secret['secret']}")
    if dry_run:
        print("\nNothing was changed (--dry-run).")


def with_files(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document with the certificates that its trust anchors name by ``files``, beside it."""
    from certloom.cli.anchors import read_certificates

    tables = document.get("trust_anchors")
    for table in tables if isinstance(tables, list) else ():
        if isinstance(table, dict) and isinstance(files := table.pop("files", None), list):
            read = [text for file in files for text in read_certificates(folder / str(file))]
            table["certificates"] = [*table.get("certificates", ()), *read]
    return document


def read_document(file: str) -> dict[str, Any]:
    """A table out of a TOML or JSON file; or the end, with what is wrong and where."""
    import json
    import tomllib

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        tree = json.loads(data) if file.endswith(".json") else tomllib.loads(data.decode())
    except OSError as error:
        fail(REFUSED, f"{file}: {error.strerror}")
    except (ValueError, RecursionError) as error:
        fail(REFUSED, f"{file}: {error}")
    if not isinstance(tree, dict):
        fail(REFUSED, f"{file}: not a table")
    # TOML has times of its own; JSON carries them as text.
    decoded: dict[str, Any] = json.loads(json.dumps(tree, default=lambda time: time.isoformat()))
    return decoded


@command(profile, "list")
def list_profiles(run: Run, limit: Limit = 1000) -> None:
    """The newest version of each profile."""
    run.table(
        run.client.rows("/profiles", limit), ("name", "version", "authority", "description"), "no profiles"
    )


@command(profile, "show")
def show_profile(
    run: Run,
    name: str,
    version: Annotated[int | None, typer.Option(help="An older version.", show_default=False)] = None,
) -> None:
    """All of a profile, defaults included."""
    path = "/profiles" + at(name)
    found = run.client.get(path if version is None else path + "/versions" + at(version))
    _show(run, found, found["profile"])


@command(profile, "versions")
def list_versions(run: Run, name: str, limit: Limit = 100) -> None:
    """A profile's versions, the newest first."""
    rows = run.client.rows("/profiles" + at(name) + "/versions", limit)
    run.table(rows, ("version", "created"), "no versions")


@command(channel, "list")
def list_channels(run: Run, limit: Limit = 1000) -> None:
    """Every channel."""
    rows = run.client.rows("/channels", limit)
    run.table(
        rows if run.json else [_on_one_level(row) for row in rows],
        ("name", "protocol", "profiles", "url"),
        "no channels",
    )


def _on_one_level(row: dict[str, Any]) -> dict[str, Any]:
    channel = row["channel"]
    return {**row, **channel, "profiles": channel.get("profiles") or [channel["profile"]]}


Protocol = Annotated[str, typer.Option(help="The protocol it is for: acme or est.")]


@command(channel, "show")
def show_channel(run: Run, name: str, protocol: Protocol = "acme") -> None:
    """All of a channel, defaults included."""
    found = run.client.get("/channels" + at(protocol, name))
    _show(run, found, found["channel"])


@command(channel, "delete")
def delete_channel(run: Run, name: str, protocol: Protocol = "acme") -> None:
    """Serve a channel no longer. What was issued through it stays."""
    run.client.delete("/channels" + at(protocol, name))
    run.say({"deleted": name}, f"channel {name} is deleted")


def _show(run: Run, found: dict[str, Any], part: dict[str, Any]) -> None:
    """For people, all on one level."""
    outer = {name: value for name, value in found.items() if not isinstance(value, dict)}
    run.record(found if run.json else {**outer, **part})
