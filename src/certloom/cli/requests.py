"""``certloom request``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from certloom.cli import show
from certloom.cli.options import AsJSON, Config
from certloom.cli.reach import perform

app = typer.Typer(help="Enrolment requests; those that wait for a person.", no_args_is_help=True)
Message = Annotated[str, typer.Option("--message", "-m", help="For the record, and for the requester.")]


class RequestState(StrEnum):
    """The states in which a request can be found."""

    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    ISSUING = "issuing"
    ISSUED = "issued"
    DENIED = "denied"
    FAILED = "failed"
    CANCELLED = "cancelled"


@app.command("list")
def listing(
    state: Annotated[
        list[RequestState] | None,
        typer.Option(help="Only this state; may be repeated. Default: open ones."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    after: Annotated[str, typer.Option(help="The last id of the page before.")] = "",
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Requests, the oldest first."""
    rows = perform(config, "request.list", states=state or [], limit=limit, after=after)
    columns = ("id", "state", "names", "requester", "profile", "created")
    show.table(rows, columns, json=json, nothing="no such requests" if state else "no open requests")


@app.command("show")
def show_request(id: str, config: Config = None, json: AsJSON = False) -> None:
    """All that is known of a request."""
    show.record(perform(config, "request.show", id=id), json=json)


@app.command("approve")
def approve(id: str, message: Message = "", config: Config = None, json: AsJSON = False) -> None:
    """Agree. With the last agreement that its profile asks for, the certificate is issued."""
    show.record(perform(config, "request.approve", id=id, message=message), json=json)


@app.command("deny")
def deny(id: str, message: Message = "", config: Config = None, json: AsJSON = False) -> None:
    """Say no, for good."""
    show.record(perform(config, "request.deny", id=id, message=message), json=json)
