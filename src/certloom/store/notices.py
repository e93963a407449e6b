"""Emails and webhook messages on their way, and what became of them: statements.

A *target* is ``mail`` or ``webhook/NAME``; it is told of one *source* once, which the table's unique index
sees to. A notice is ``waiting`` and ends ``delivered``, ``failed`` (given up) or ``dropped`` (of no use now).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from certloom.store import events
from certloom.store.base import Row, Tx

WAITING = "waiting"
DELIVERED = "delivered"
FAILED = "failed"
DROPPED = "dropped"

MAIL = "mail"
"""The target of every email."""
_PLACE = "notices.place"


def webhook_target(name: str) -> str:
    """The target of what a webhook is told."""
    return f"webhook/{name}"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One email, or one message to one webhook."""

    id: str
    """What the receiver tells repeats by: ``webhook-id``, and the left side of an email's Message-ID."""
    target: str
    source: str
    """What it tells of."""
    kind: str
    """``approval.waiting`` ..."""
    recipient: str
    """For an email the person's id, for a webhook its name."""
    body: str
    """JSON: for a webhook what is posted, for an email the letter."""
    state: str = WAITING
    attempts: int = 0
    due_ms: int
    created: int
    finished: int | None = None
    status: int | None = None
    """The last HTTP or SMTP status that came back."""
    error: str | None = None
    """Why the last attempt failed."""


_COLUMNS = (
    "id, target, source, kind, recipient, body, state, attempts, due_ms, created, finished, status, error"
)


def _notice(row: Row) -> Notice:
    return Notice(
        id=row[0],
        target=row[1],
        source=row[2],
        kind=row[3],
        recipient=row[4],
        body=row[5],
        state=row[6],
        attempts=row[7],
        due_ms=row[8],
        created=row[9],
        finished=row[10],
        status=row[11],
        error=row[12],
    )


def insert(tx: Tx, n: Notice) -> bool:
    """Take a notice on; False when its target has been told of that source already."""
    return (
        tx.run(
            f"INSERT INTO notices ({_COLUMNS}) VALUES ({', '.join('?' * 13)})"
            " ON CONFLICT (target, source) DO NOTHING",
            (
                n.id,
                n.target,
                n.source,
                n.kind,
                n.recipient,
                n.body,
                n.state,
                n.attempts,
                n.due_ms,
                n.created,
                n.finished,
                n.status,
                n.error,
            ),
        )
        == 1
    )


def get(tx: Tx, id: str) -> Notice | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM notices WHERE id = ?", (id,))
    return _notice(row) if row else None


def due(tx: Tx, target: str, now_ms: int, limit: int) -> list[Notice]:
    """What a target is to be told now, longest due first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM notices WHERE target = ? AND state = 'waiting' AND due_ms <= ?"
        " ORDER BY due_ms, id LIMIT ?",
        (target, now_ms, limit),
    )
    return [_notice(row) for row in rows]


def next_due(tx: Tx, target: str) -> int | None:
    """When, in milliseconds, a target is to be told something next; None when nothing waits for it."""
    row = tx.one(
        "SELECT due_ms FROM notices WHERE target = ? AND state = 'waiting' ORDER BY due_ms LIMIT 1", (target,)
    )
    return None if row is None else int(row[0])


def postpone(tx: Tx, id: str, due_ms: int, attempts: int, status: int | None, error: str) -> None:
    """Keep a notice for another attempt."""
    tx.run(
        "UPDATE notices SET due_ms = ?, attempts = ?, status = ?, error = ?"
        " WHERE id = ? AND state = 'waiting'",
        (due_ms, attempts, status, error, id),
    )


def finish(
    tx: Tx, id: str, state: str, now: int, attempts: int, status: int | None = None, error: str | None = None
) -> None:
    """End a notice."""
    tx.run(
        "UPDATE notices SET state = ?, finished = ?, attempts = ?, status = ?, error = ?"
        " WHERE id = ? AND state = 'waiting'",
        (state, now, attempts, status, error, id),
    )


def again(tx: Tx, id: str, due_ms: int) -> bool:
    """Let a notice that was given up be tried anew; False when it is none of those."""
    return (
        tx.run(
            "UPDATE notices SET state = 'waiting', due_ms = ?, attempts = 0, finished = NULL"
            " WHERE id = ? AND state = 'failed'",
            (due_ms, id),
        )
        == 1
    )


def drop_waiting(tx: Tx, target: str, now: int, why: str) -> int:
    """End all that waits for a target; how many there were."""
    return tx.run(
        "UPDATE notices SET state = 'dropped', finished = ?, error = ?"
        " WHERE target = ? AND state = 'waiting'",
        (now, why, target),
    )


def listing(tx: Tx, target: str, limit: int, *, before: str | None = None, since: int = 0) -> list[Notice]:
    """A target's notices, newest first, those with a lower id than ``before``, none made before ``since``."""
    more, params = ("", ()) if before is None else (" AND id < ?", (before,))
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM notices WHERE target = ?{more} AND created >= ? ORDER BY id DESC LIMIT ?",
        (target, *params, since, limit),
    )
    return [_notice(row) for row in rows]


def prune(tx: Tx, finished_before: int, limit: int) -> int:
    """Delete up to ``limit`` notices that ended before a time; how many it was."""
    return tx.run(
        "DELETE FROM notices WHERE id IN"
        " (SELECT id FROM notices WHERE finished < ? ORDER BY finished LIMIT ?)",
        (finished_before, limit),
    )


def happened(tx: Tx, after: int, through: int, kinds: Sequence[str]) -> list[tuple[int, int, str, str]]:
    """(sequence, at_ms, kind, subject) of the audit log's events of these kinds in a span of the chain."""
    marks = ", ".join("?" * len(kinds))
    rows = tx.all(
        "SELECT sequence, at_ms, kind, subject FROM events WHERE sequence > ? AND sequence <= ?"
        f" AND kind IN ({marks}) ORDER BY sequence",
        (after, through, *kinds),
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def end_of_log(tx: Tx) -> int:
    """The sequence number of the last event in the audit log's chain; 0 where there is none."""
    mark = events.mark(tx, events.HEAD)
    return 0 if mark is None else mark.sequence


def place(tx: Tx, *, lock: bool = False) -> int | None:
    """How far in the audit log's chain webhooks have been told; None where they never were.

    With ``lock`` it is held against all other nodes until the unit ends.
    """
    row = tx.one(f"SELECT value FROM facts WHERE key = ?{tx.for_update if lock else ''}", (_PLACE,))
    return None if row is None else int(row[0])


def set_place(tx: Tx, sequence: int) -> None:
    """Record how far webhooks have been told."""
    tx.run(
        "INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_PLACE, str(sequence)),
    )
