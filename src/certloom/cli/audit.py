"""``certloom audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.files import read, save
from certloom.cli.options import NOT_INTACT, REFUSED, Limit
from certloom.cli.progress import progress
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, group
from certloom.cli.values import moment_before

app = group("The audit log.")

Since = Annotated[str | None, typer.Option(help="From this day or moment on; 7d is seven days ago.")]
Until = Annotated[str | None, typer.Option(help="Before this day or moment.")]
_LONGEST_CHECKPOINT = 100_000


@command(app, "list")
def listing(
    run: Run,
    kind: Annotated[str | None, typer.Option(help="What happened, such as certificate.revoked.")] = None,
    subject: Annotated[str | None, typer.Option(help="To what, such as profile:web.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who did it, such as local:root.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
) -> None:
    """Events, the newest first."""
    filters = {
        "kind": kind,
        "subject": subject,
        "actor": actor,
        "since": moment_before(since),
        "until": moment_before(until),
    }
    rows = run.client.rows("/audit/events", limit, **filters)
    run.table(rows, ("at", "kind", "subject", "actor?", "sequence?=no."), "no such events")


@command(app, "export")
def export(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here, not to stdout.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="From this number on.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Up to this number.")] = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """The chain as JSON lines, a signed checkpoint at the end."""
    query = {"first": first, "last": last, "since": moment_before(since), "until": moment_before(until)}
    with progress("exporting") as told:

        def lines() -> Any:
            for done, line in enumerate(run.client.raw_lines("/audit/events", query)):
                if done % 1000 == 0:
                    told(done)
                yield line + b"\n"

        save(output, lines())


@command(app, "verify")
def verify(
    run: Run,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A checkpoint kept elsewhere, or an export that ends in one: compare with it."),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The key it must be signed with (PEM), kept elsewhere.")
    ] = None,
) -> None:
    """Check that no event was altered, removed, reordered or cut off."""
    body: dict[str, Any] = {}
    if checkpoint is not None:
        body["checkpoint"] = _read_checkpoint(checkpoint)
    if public_key is not None:
        body["public_key"] = read(public_key).decode("ascii", "replace")
    with progress("verifying"):
        result = run.client.answer("POST", "/audit/verification", None, body, seconds=3600).value
    verdict = result["verdict"]
    if run.json:
        show.as_json(result)
    else:
        head = verdict["head"]
        print(
            f"{verdict['checked']} events checked; the last: number {head['sequence']}, hash {head['hash']}"
        )
        for fault in verdict["faults"]:
            show.line(f"event {fault['sequence']}: {fault['problem']}: {fault['detail']}")
        if verdict["checkpoint"] is None:
            print("To tell a log that was rewritten as a whole, compare with a checkpoint kept elsewhere.")
        elif verdict["unprovable"]:
            print(
                f"{verdict['unprovable']} events follow the checkpoint:"
                " nothing proves that they were not rewritten."
            )
    if not result["intact"]:
        raise typer.Exit(NOT_INTACT)


def _read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint by itself, or the last line of an export."""
    text = read(file).rstrip()
    for candidate in (text[-_LONGEST_CHECKPOINT:], text[-_LONGEST_CHECKPOINT:].rpartition(b"\n")[2]):
        try:
            found = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(found, dict) and "signature" in found:
            return {name: value for name, value in found.items() if name != "type"}
    return fail(REFUSED, f"{file} holds no checkpoint")


@command(app, "checkpoint")
def checkpoint(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here.")] = None,
) -> None:
    """Sign the end of the chain now. Keep it elsewhere, as what `audit verify --checkpoint` compares with."""
    signed = run.client.create("/audit/checkpoints").value
    if output is not None:
        save(output, [show.json_text(signed).encode() + b"\n"])
    run.record(signed)


@command(app, "key")
def key(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here.")] = None,
) -> None:
    """The public key that checkpoints are verified with (PEM)."""
    save(output, [run.client.fetch("/audit/key", accept="application/x-pem-file")])
