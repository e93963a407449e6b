"""``certloom webhook``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.files import save
from certloom.cli.options import Limit
from certloom.cli.run import Run, command, group
from certloom.cli.values import seconds

app = group("Who is told over HTTP.")
_EVENTS = ("approval.waiting", "approval.decided", "request.issued", "request.denied", "request.failed")

Event = Annotated[
    list[str] | None,
    typer.Option("--event", help="What it is told, such as approval.waiting; may be repeated."),
]
SecretFile = Annotated[
    Path | None, typer.Option(help="Write the secret here (mode 0600) instead of showing it.")
]


@command(app, "list")
def listing(run: Run, limit: Limit = 1000) -> None:
    """Webhooks, by name."""
    rows = run.client.rows("/webhooks", limit)
    run.table(rows, ("name", "url", "enabled", "last_success?", "last_error"), "no webhooks")


@command(app, "show")
def show_webhook(run: Run, name: str) -> None:
    """All of a webhook but its secret."""
    run.record(run.client.get("/webhooks" + at(name)))


@command(app, "add")
def add(
    run: Run,
    name: str,
    url: str,
    event: Event = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Only what concerns this profile; may be repeated.")
    ] = None,
    team: Annotated[list[str] | None, typer.Option(help="Only this team's; may be repeated.")] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    secret_file: SecretFile = None,
) -> None:
    """Have a URL told what happens, signed with a secret that is shown once."""
    body = {
        "name": name,
        "url": url,
        "events": event or list(_EVENTS),
        "profiles": profile or [],
        "teams": team or [],
        "description": description,
    }
    _show_secret(run, run.client.create("/webhooks", body).value, secret_file)


@command(app, "edit")
def edit(
    run: Run,
    name: str,
    url: Annotated[str | None, typer.Option(help="Where it is told.")] = None,
    event: Event = None,
    enabled: Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it is told.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
) -> None:
    """Change what is given; the rest stays. Disabling it drops what waits for it."""
    said = {"url": url, "events": event or None, "enabled": enabled, "description": description}

    def change(was: dict[str, Any]) -> dict[str, Any]:
        kept = {field: was[field] for field in ("profiles", "teams")}
        return kept | {field: was[field] if value is None else value for field, value in said.items()}

    done = run.client.edit("/webhooks" + at(name), change, "PUT")
    run.say(done, f"webhook {done['name']}: changed")


@command(app, "remove")
def remove(run: Run, name: str) -> None:
    """Tell it no more."""
    run.client.delete("/webhooks" + at(name))
    run.say({"removed": name}, f"webhook {name} is removed")


@command(app, "rotate")
def rotate(
    run: Run,
    name: str,
    overlap: Annotated[
        str | None, typer.Option(help="How long messages are signed with the old secret too. [default: 1d]")
    ] = None,
    secret_file: SecretFile = None,
) -> None:
    """Sign with a new secret, shown once."""
    body = {} if overlap is None else {"overlap": seconds(overlap)}
    _show_secret(run, run.client.create("/webhooks" + at(name) + "/rotate", body).value, secret_file)


@command(app, "test")
def test(run: Run, name: str) -> None:
    """Send a test message."""
    sent = run.client.create("/webhooks" + at(name) + "/test").value
    run.say(sent, f"message {sent['id']} is on its way: see `certloom webhook deliveries {name}`")


@command(app, "deliveries")
def deliveries(run: Run, name: str, limit: Limit = 50) -> None:
    """What a webhook was told, the newest first, and what became of it."""
    rows = run.client.rows("/webhooks" + at(name) + "/deliveries", limit)
    run.table(rows, ("id", "event", "state", "attempts?", "status?", "error"), "nothing was sent")


def _show_secret(run: Run, made: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        save(file, [made["secret"].encode() + b"\n"], private=True)
        made = {**made, "secret": None}
    if run.json:
        show.as_json(made)
        return
    shown = dict(made["webhook"])
    if made["secret"] is not None:
        shown["secret (shown once)"] = made["secret"]
    show.record(shown, ("name", "secret (shown once)"))
