"""Background jobs as people look at them: statements. What runs them has its own, in ``jobs.queue``."""

from __future__ import annotations

import msgspec

from certloom.store import listing
from certloom.store.base import Row, Tx
from certloom.store.listing import Index, Sift

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


class SeenJob(msgspec.Struct, frozen=True):
    """A job's row without its payload."""

    id: int
    kind: str
    key: str | None
    state: str
    attempt: int
    lost: int
    due_ms: int
    error: str | None
    created: int
    finished: int | None


_COLUMNS = "id, kind, key, state, attempt, lost, due_ms, error, created, finished"


def page(
    tx: Tx, state: str | None, kind: str | None, limit: int, after: int | None
) -> tuple[list[SeenJob], int | None]:
    """Jobs, the newest first, and the id to go on after (None at the end)."""
    index = Index(table="jobs", order=("id",), fixed=None if state is None else ("state", state))
    sifts = [] if kind is None else [Sift("kind = ?", (kind,))]
    batch = listing.page(
        tx, index, _COLUMNS, sifts, limit, after=None if after is None else (after,), descending=True
    )
    return [_job(row) for row in batch.rows], None if batch.after is None else batch.after[0]


def get(tx: Tx, id: int, *, lock: bool = False) -> SeenJob | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?{tx.for_update if lock else ''}", (id,))
    return None if row is None else _job(row)


def run_again(tx: Tx, id: int, due_ms: int) -> bool:
    """Let a failed job wait to be run once more; False where it is not failed (any more)."""
    return (
        tx.run(
            "UPDATE jobs SET state = 'waiting', attempt = 0, lost = 0, due_ms = ?, finished = NULL"
            " WHERE id = ? AND state = 'failed'",
            (due_ms, id),
        )
        == 1
    )


def another_waits(tx: Tx, kind: str, key: str) -> bool:
    """Whether a job of that kind and key waits, of which there can be one only."""
    row = tx.one("SELECT 1 FROM jobs WHERE kind = ? AND key = ? AND state = 'waiting'", (kind, key))
    return row is not None


def count(tx: Tx, state: str, most: int) -> int:
    """How many are in a state; counted no further than ``most``."""
    row = tx.one(
        "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = ? LIMIT ?) AS counted", (state, most)
    )
    assert row is not None
    return int(row[0])


def _job(row: Row) -> SeenJob:
    return SeenJob(*row)
