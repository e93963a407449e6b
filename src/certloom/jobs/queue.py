"""The table of jobs: every change a job can make to its row.

Theory of operation. A job is ``waiting`` until its due time, then ``running`` under a lease, and ends
deleted, ``done`` or ``failed``. A lease is a token that no other lease ever had, a time at which it runs out,
and the number of the attempt; whatever a worker writes about its job names token and attempt, and is refused
(``LeaseLost``) when the row no longer carries them. A worker that died simply stops renewing: its lease runs
out and the job is claimed again. A worker that only seemed dead finds itself fenced off, and as a job's
effect is committed in the transaction that completes it, its effect is never there twice.

    waiting --claim--> running --complete--> (deleted or done)
       ^                 |  |  \\--lease runs out--> running (claimed again, attempt + 1, lost + 1)
       \\---postpone------/  \\--fail--> failed

Of the jobs of one kind with the same key at most one waits: enqueueing another brings that one up to date.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from certloom.store.base import Tx

SIGNAL = "jobs"
"""What a unit signals when it has made a job due."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class LeaseLost(Exception):
    """The job is no longer this worker's: its lease ran out and another took it over, or finished it."""


class Job(msgspec.Struct, frozen=True):
    """One piece of work as its handler sees it."""

    id: int
    kind: str
    payload: dict[str, Any]
    attempt: int
    """1 for the first run; a run whose worker died counts."""
    lease: str = ""
    """This worker's token; empty when the job waits for anybody."""
    key: str | None = None
    lost: int = 0
    """Attempts that ended with the death of their worker."""


def enqueue(
    tx: Tx,
    now_ms: int,
    kind: str,
    payload: dict[str, Any],
    *,
    due_ms: int | None = None,
    key: str | None = None,
) -> None:
    """Make a job in the transaction of the change that calls for it; it runs when that has committed.

    Due at ``due_ms``, or at once. When a job of this kind and ``key`` waits already, that one stays: it takes
    over this payload, and the earlier of the two due times.
    """
    tx.run(
        "INSERT INTO jobs (kind, key, payload, state, attempt, due_ms, created)"
        " VALUES (?, ?, ?, 'waiting', 0, ?, ?)"
        " ON CONFLICT (kind, key) WHERE key IS NOT NULL AND state = 'waiting' DO UPDATE SET"
        " payload = excluded.payload,"
        " due_ms = CASE WHEN excluded.due_ms < jobs.due_ms THEN excluded.due_ms ELSE jobs.due_ms END",
        (kind, key, _encode(payload).decode(), now_ms if due_ms is None else due_ms, now_ms // 1000),
    )
    tx.signal(SIGNAL)


def insert_leased(
    tx: Tx, now_ms: int, kind: str, payload: dict[str, Any], lease: str, lease_until_ms: int
) -> Job:
    """Make a job that is running from the start, so that its worker need not claim it."""
    row = tx.one(
        "INSERT INTO jobs (kind, payload, state, attempt, due_ms, lease_node, lease_until_ms, created)"
        " VALUES (?, ?, 'running', 1, ?, ?, ?, ?) RETURNING id",
        (kind, _encode(payload).decode(), now_ms, lease, lease_until_ms, now_ms // 1000),
    )
    assert row is not None
    return Job(row[0], kind, payload, 1, lease)


def earliest(tx: Tx, kinds: Collection[str]) -> int | None:
    """When, in milliseconds, the next job of these kinds is due or the next lease on one runs out."""
    marks = ", ".join("?" * len(kinds))
    due = tx.one(
        f"SELECT due_ms FROM jobs WHERE state = 'waiting' AND kind IN ({marks}) ORDER BY due_ms LIMIT 1",
        tuple(kinds),
    )
    expiry = tx.one(
        "SELECT lease_until_ms FROM jobs WHERE state = 'running'"
        f" AND kind IN ({marks}) ORDER BY lease_until_ms LIMIT 1",
        tuple(kinds),
    )
    times = [row[0] for row in (due, expiry) if row is not None]
    return min(times) if times else None


def claim(
    tx: Tx,
    now_ms: int,
    kinds: Collection[str],
    limit: int,
    lease: str,
    lease_until_ms: int,
    held: Collection[int] = (),
) -> list[Job]:
    """Lease up to ``limit`` jobs: first those whose worker died, then those due, longest due first.

    Jobs with an id in ``held`` are left alone: this worker runs them, however late its clock says it is.
    """
    marks = ", ".join("?" * len(kinds))
    lock = tx.for_update and f"{tx.for_update} SKIP LOCKED"
    columns = "SELECT id, kind, payload, attempt, key, lost FROM jobs"
    orphans = tx.all(
        f"{columns} WHERE state = 'running' AND lease_until_ms <= ? AND kind IN ({marks})"
        f" ORDER BY lease_until_ms LIMIT ?{lock}",
        (now_ms, *kinds, limit + len(held)),
    )
    orphans = [row for row in orphans if row[0] not in held][:limit]
    due = (
        tx.all(
            f"{columns} WHERE state = 'waiting' AND due_ms <= ? AND kind IN ({marks})"
            f" ORDER BY due_ms, id LIMIT ?{lock}",
            (now_ms, *kinds, limit - len(orphans)),
        )
        if len(orphans) < limit
        else []
    )
    jobs = [
        Job(id_, kind, _decode(payload), attempt + 1, lease, key, lost + dead)
        for rows, dead in ((orphans, 1), (due, 0))
        for id_, kind, payload, attempt, key, lost in rows
    ]
    tx.many(
        "UPDATE jobs SET state = 'running', attempt = ?, lost = ?, lease_node = ?, lease_until_ms = ?"
        " WHERE id = ?",
        [(job.attempt, job.lost, lease, lease_until_ms, job.id) for job in jobs],
    )
    return jobs


def older_one_runs(tx: Tx, job: Job, now_ms: int) -> bool:
    """Whether a job of the same kind and key that was made before this one is being run."""
    row = tx.one(
        "SELECT 1 FROM jobs WHERE state = 'running' AND kind = ? AND key = ? AND id < ?"
        " AND lease_until_ms > ?",
        (job.kind, job.key, job.id, now_ms),
    )
    return row is not None


def renew(tx: Tx, job: Job, lease_until_ms: int) -> bool:
    """Keep a job for longer; False when it has been lost."""
    return bool(
        tx.run(
            "UPDATE jobs SET lease_until_ms = ? WHERE id = ? AND lease_node = ? AND attempt = ?",
            (lease_until_ms, job.id, job.lease, job.attempt),
        )
    )


def complete(tx: Tx, job: Job, *, keep_at: int | None = None) -> None:
    """End a job that went well: delete it, or keep it as done at ``keep_at``. Raises ``LeaseLost``."""
    if keep_at is None:
        found = tx.run(
            "DELETE FROM jobs WHERE id = ? AND lease_node = ? AND attempt = ?",
            (job.id, job.lease, job.attempt),
        )
    else:
        found = _end(tx, job, "done", keep_at, None)
    if not found:
        raise LeaseLost(job.id)


def fail(tx: Tx, job: Job, now: int, error: str) -> None:
    """End a job for which there is no further try; it is kept, for a person to see. Raises ``LeaseLost``."""
    if not _end(tx, job, "failed", now, error):
        raise LeaseLost(job.id)


def _end(tx: Tx, job: Job, state: str, now: int, error: str | None) -> int:
    return tx.run(
        "UPDATE jobs SET state = ?, finished = ?, error = ?, lease_node = NULL, lease_until_ms = NULL"
        " WHERE id = ? AND lease_node = ? AND attempt = ?",
        (state, now, error, job.id, job.lease, job.attempt),
    )


def postpone(tx: Tx, job: Job, due_ms: int, error: str | None) -> None:
    """Let a job wait for its next try. Raises ``LeaseLost``.

    If another job of its kind and key has come to wait meanwhile, that one will do the work and this
    one is deleted.
    """
    if job.key is not None and tx.one(
        "SELECT 1 FROM jobs WHERE kind = ? AND key = ? AND state = 'waiting'", (job.kind, job.key)
    ):
        complete(tx, job)
        return
    if not tx.run(
        "UPDATE jobs SET state = 'waiting', due_ms = ?, error = ?, lease_node = NULL, lease_until_ms = NULL"
        " WHERE id = ? AND lease_node = ? AND attempt = ?",
        (due_ms, error, job.id, job.lease, job.attempt),
    ):
        raise LeaseLost(job.id)
    tx.signal(SIGNAL)


def expire_leases(tx: Tx) -> int:
    """End every lease at once: for a process that knows it is the only one. Returns how many there were."""
    return tx.run("UPDATE jobs SET lease_until_ms = 0 WHERE state = 'running'")


def prune(tx: Tx, finished_before: int, limit: int = 1000) -> int:
    """Delete up to ``limit`` jobs that ended before a time; returns how many (``limit``: ask again)."""
    return tx.run(
        "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE finished < ? ORDER BY id LIMIT ?)",
        (finished_before, limit),
    )
