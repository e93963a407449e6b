"""``certloom status`` and ``job``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.options import Limit
from certloom.cli.run import Run, command, group, single

status = single()
job = group("Background work.")


class JobState(StrEnum):
    """The states of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@command(status, "status")
def show_status(run: Run) -> None:
    """What runs, and whether it is well."""
    found = run.client.get("/status")
    if run.json:
        show.as_json(found)
        return
    jobs = found.pop("jobs")
    found["jobs"] = ", ".join(f"{count} {state}" for state, count in jobs.items())
    show.record(found)
    if jobs["failed"]:
        print("Some background work failed: see `certloom job list --state failed`.")


@command(job, "list")
def list_jobs(
    run: Run,
    state: Annotated[JobState | None, typer.Option(help="Only this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, such as issue.")] = None,
    limit: Limit = 50,
) -> None:
    """Background work, the newest first."""
    rows = run.client.rows("/jobs", limit, state=state and state.value, kind=kind)
    run.table(rows, ("id", "kind", "state", "attempt?=tries", "due?", "error"), "no jobs")


@command(job, "show")
def show_job(run: Run, id: int) -> None:
    """All that is known of a job."""
    run.record(run.client.get("/jobs" + at(id)))


@command(job, "retry")
def retry(run: Run, id: int) -> None:
    """Run a failed job again, at once."""
    done = run.client.act("/jobs" + at(id) + "/retry")
    run.say(done, f"job {done['id']}: {done['state']}")
