"""``certloom approval``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.options import Limit
from certloom.cli.run import Run, command, group
from certloom.cli.values import seconds

app = group("What waits for people: look, approve, deny.")

_FIRST = ("id", "state", "names", "lifetime", "profile", "requester", "comment", "reasons", "differences")


class ApprovalState(StrEnum):
    """The states of an approval."""

    WAITING = "waiting"
    GRANTED = "granted"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


@command(app, "list")
def listing(
    run: Run,
    state: Annotated[ApprovalState | None, typer.Option(help="Only this state; default: waiting.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only what waits for your decision.")] = False,
    profile: Annotated[str | None, typer.Option(help="Only this profile.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    requester: Annotated[str | None, typer.Option(help="Only asked by this one, such as person:ID.")] = None,
    limit: Limit = 100,
) -> None:
    """Approvals, the newest first."""
    filters = {"mine": mine, "profile": profile, "team": team, "requester": requester}
    wanted = (state or ApprovalState.WAITING).value
    rows = run.client.rows("/approvals", limit, state=wanted, **filters)
    columns = ("id", "names", "profile?", "expires")
    run.table(rows, columns, "nothing waits for people" if state is None else "no such approvals")


@command(app, "show")
def show_approval(run: Run, id: str) -> None:
    """All that an approver needs to see."""
    run.record(run.client.get("/approvals" + at(id)), _FIRST)


@command(app, "approve")
def approve(
    run: Run,
    id: str,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, for the record.")] = "",
    lifetime: Annotated[
        str | None, typer.Option(help="Let it live for this long instead, such as 30d.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="Let it have these names instead (type:value); may be repeated."),
    ] = None,
) -> None:
    """Agree. With the last agreement that is needed, all requests under it are issued.

    A change (where the profile allows it) makes void what others have agreed to before.
    """
    changes: dict[str, Any] = {}
    if lifetime is not None:
        changes["lifetime"] = seconds(lifetime)
    if names:
        changes["names"] = [name if ":" in name else f"dns:{name}" for name in names]
    decide(run, id, "approve", reason, changes)


@command(app, "deny")
def deny(
    run: Run,
    id: str,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; the requester is told.")],
) -> None:
    """Say no, for good."""
    decide(run, id, "deny", reason, {})


@command(app, "withdraw")
def withdraw(
    run: Run,
    id: str,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, for the record.")] = "",
) -> None:
    """Take back a question that waits, or an agreement that still serves further requests."""
    done = run.client.act("/approvals" + at(id) + "/withdraw", {"reason": reason})
    run.say(done, f"{done['id']}: {done['state']}")


def decide(run: Run, id: str, decision: str, reason: str, changes: dict[str, Any]) -> None:
    """One person's yes or no, and how the approval stands then."""
    body: dict[str, Any] = {"decision": decision, "reason": reason}
    if changes:
        body["changes"] = changes
    done = run.client.act("/approvals" + at(id) + "/decisions", body)
    line = f"{done['id']}: {done['state']}"
    if done["state"] == "waiting":
        stage = done["stages"][done["stage"]]
        line += (
            f"; stage {done['stage'] + 1} of {len(done['stages'])} lacks {done['missing']} {stage['role']}"
        )
    elif done["state"] == "granted" and done["good_until"]:
        line += f"; further requests for the same are issued until {show.moment(done['good_until'])}"
    run.say(done, line)
