"""``certloom anchors``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from certloom.cli.client import at
from certloom.cli.options import REFUSED, Limit
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, group

app = group("Trust anchors: strangers' CAs, whose clients channels may let in.")

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@command(app, "list")
def list_anchors(run: Run, limit: Limit = 1000) -> None:
    """Every set."""
    rows = run.client.rows("/trust-anchors", limit)
    shown = rows if run.json else [{**row, "cas": len(row["anchors"])} for row in rows]
    run.table(shown, ("name", "cas", "description"), "no trust anchors")


@command(app, "show")
def show_anchors(run: Run, name: str) -> None:
    """The CAs of a set."""
    found = run.client.get("/trust-anchors" + at(name))
    if run.json:
        run.record(found)
    else:
        run.table(found["anchors"], ("subject", "not_after", "sha256"), "no CAs")


@command(app, "put")
def put_anchors(
    run: Run,
    name: str,
    files: Annotated[
        list[Path], typer.Argument(help="CA certificates: PEM, of which a file may hold many, or DER.")
    ],
    description: Annotated[str, typer.Option(help="Words for people.")] = "",
) -> None:
    """Make a set, or put these certificates in the place of those it has."""
    body = {
        "name": name,
        "description": description,
        "certificates": [text for file in files for text in read_certificates(file)],
    }
    found = run.client.put("/trust-anchors" + at(name), body).value
    run.say(found, f"trust anchors {name}: {len(body['certificates'])} CAs")


@command(app, "delete")
def delete_anchors(run: Run, name: str) -> None:
    """Trust them no longer. Not while a channel names them."""
    run.client.delete("/trust-anchors" + at(name))
    run.say({"deleted": name}, f"trust anchors {name} are deleted")


def read_certificates(file: Path) -> list[str]:
    """The certificates in a file, as PEM; or the end, with what is wrong."""
    try:
        data = file.read_bytes()
    except OSError as error:
        fail(REFUSED, f"{file}: {error.strerror}")
    if data[:1] == b"\x30":
        from certloom.pki.pem import to_pem

        return [to_pem(data).decode()]
    found = [match.decode("ascii", "replace") for match in _PEM.findall(data)]
    if not found:
        fail(REFUSED, f"{file}: no certificate in it")
    return found
