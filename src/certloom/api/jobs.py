"""Background jobs: seen, and run again when they failed."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from certloom.api.problems import CONFLICT, NOT_FOUND, Problem
from certloom.api.routing import Answer, Call, Page, Paging, RowId, at, at_or_none, route
from certloom.audit import record
from certloom.jobs.queue import SIGNAL
from certloom.store import jobs as statements
from certloom.store.base import Tx
from certloom.store.jobs import SeenJob

State = Literal["waiting", "running", "done", "failed"]


class JobPath(msgspec.Struct, frozen=True):
    id: RowId


class JobQuery(Paging, frozen=True):
    state: State | None = None
    kind: str | None = None
    """Such as ``issue`` or ``crl``."""


class Job(msgspec.Struct, frozen=True):
    """Work that is done in the background."""

    id: int
    kind: str
    key: str | None
    """What it is about; of jobs of one kind and key at most one waits."""
    state: State
    attempt: int
    """How often it was begun."""
    due: datetime
    """When it may run (again)."""
    error: str | None
    """Why the last attempt failed."""
    created: datetime
    finished: datetime | None


@route(
    "GET",
    "/jobs",
    permission="job.read",
    summary="List jobs",
    query=JobQuery,
    answers={200: Page[Job]},
    tag="jobs",
)
async def listing(call: Call[None, JobQuery, None]) -> Answer:
    """The newest first. Jobs that went well are gone at once, unless they are kept to be looked at."""
    call.allow("job.read")
    query, after = call.query, call.position(int)
    rows, following = await call.services.store.scan(
        lambda tx: statements.page(tx, query.state, query.kind, call.limit, after)
    )
    shown = tuple(_shown(row) for row in rows)
    return Answer(Page(shown, None if following is None else call.cursor(following)))


@route(
    "GET",
    "/jobs/{id}",
    permission="job.read",
    summary="Show a job",
    path=JobPath,
    answers={200: Job},
    tag="jobs",
)
async def show(call: Call[JobPath, None, None]) -> Answer:
    call.allow("job.read")
    found = await call.services.store.read(lambda tx: statements.get(tx, call.path.id))
    if found is None:
        raise _missing(call.path.id)
    return Answer(_shown(found))


@route(
    "POST",
    "/jobs/{id}/retry",
    permission="job.write",
    summary="Run a failed job again",
    path=JobPath,
    answers={200: Job},
    problems=(CONFLICT,),
    tag="jobs",
)
async def retry(call: Call[JobPath, None, None]) -> Answer:
    """It is due at once, and has all its attempts again."""
    call.allow_shared("job.write")
    id, clock = call.path.id, call.services.clock

    def unit(tx: Tx) -> Answer:
        found = statements.get(tx, id, lock=True)
        if found is None:
            raise _missing(id)
        if found.state != statements.FAILED:
            raise Problem(CONFLICT, f"the job is {found.state}, not failed")
        if found.key is not None and statements.another_waits(tx, found.kind, found.key):
            raise Problem(CONFLICT, "another job for the same waits already")
        statements.run_again(tx, id, clock.now_ms())
        tx.signal(SIGNAL)
        data = {"kind": found.kind, "before": {"state": found.state}, "after": {"state": statements.WAITING}}
        record(tx, clock.now_ms(), "job.retried", f"job:{id}", call.origin, data)
        now = statements.get(tx, id)
        assert now is not None
        return Answer(_shown(now))

    return await call.create(unit)


def _shown(job: SeenJob) -> Job:
    return msgspec.convert(
        {
            "id": job.id,
            "kind": job.kind,
            "key": job.key,
            "state": job.state,
            "attempt": job.attempt,
            "due": at(job.due_ms // 1000),
            "error": job.error,
            "created": at(job.created),
            "finished": at_or_none(job.finished),
        },
        Job,
    )


def _missing(id: int) -> Problem:
    return Problem(NOT_FOUND, f"there is no job {id}; those that went well are not kept")
