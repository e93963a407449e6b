"""How things stand, for metrics and health: counts that are read from indexes alone."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from certloom.store import delegates, events, forwarding
from certloom.store.base import Tx

DAY = 86_400
HORIZONS = (DAY, 7 * DAY, 30 * DAY)
"""Seconds ahead within which certificates that expire are counted."""
LOOKED_BACK = 30 * DAY
"""Seconds that an expired certificate without a successor is counted for."""
_MOST_UNLINKED = 100_000


class CRLs(msgspec.Struct, frozen=True):
    """The CRLs of one authority: the worst over its shards."""

    authority: str
    oldest: int
    """The earliest thisUpdate."""
    soonest: int
    """The earliest nextUpdate."""


class Standing(msgspec.Struct, frozen=True):
    """One moment of the database."""

    now: int
    approvals_waiting: int
    jobs: dict[str, int]
    """How many by state."""
    oldest_due_ms: int | None
    """When the job that has waited longest was due."""
    expiring: tuple[int, ...]
    """Certificates neither revoked nor replaced that expire within each of ``HORIZONS``."""
    expired: int
    """Such that have expired, in the last 30 days."""
    crls: tuple[CRLs, ...]
    responders: tuple[tuple[str, int, int], ...]
    """(authority, generation, notAfter) of each OCSP responder that counts."""
    head: int
    """The last linked event."""
    head_at_ms: int
    """When that was written; 0 without one."""
    unlinked: int
    """Events not in the chain yet, at most 100,000."""
    forwarded: int | None
    """The last event that syslog has; None where nothing was ever sent."""


def read(tx: Tx, now: int) -> Standing:
    """How things stand. Index reads, but some of them long: for a reader thread."""
    counts = [_current(tx, since, until) for since, until in _spans(now)]
    head = events.mark(tx, events.HEAD)
    sequence = head.sequence if head else 0
    oldest = tx.one("SELECT due_ms FROM jobs WHERE state = 'waiting' ORDER BY due_ms LIMIT 1")
    return Standing(
        now=now,
        approvals_waiting=_count(tx, "SELECT count(*) FROM approvals WHERE state = 'waiting'"),
        jobs={row[0]: row[1] for row in tx.all("SELECT state, count(*) FROM jobs GROUP BY state")},
        oldest_due_ms=None if oldest is None else int(oldest[0]),
        expiring=tuple(sum(counts[1 : end + 2]) for end in range(len(HORIZONS))),
        expired=counts[0],
        crls=tuple(
            CRLs(*row)
            for row in tx.all(
                "SELECT authority, min(this_update), min(next_update) FROM crls GROUP BY authority"
            )
        ),
        responders=tuple(delegates.soonest(tx, "ocsp")),
        head=sequence,
        head_at_ms=events.at_of(tx, sequence) or 0,
        unlinked=_count(
            tx,
            "SELECT count(*) FROM (SELECT 1 FROM events WHERE id > ? AND sequence IS NULL LIMIT ?) AS found",
            events.id_of(tx, sequence) if not tx.for_update else 0,
            _MOST_UNLINKED,
        ),
        forwarded=forwarding.sent(tx),
    )


def _spans(now: int) -> list[tuple[int, int]]:
    edges = (now - LOOKED_BACK, now, *(now + ahead for ahead in HORIZONS))
    return list(pairwise(edges))


def _current(tx: Tx, since: int, until: int) -> int:
    return _count(
        tx,
        "SELECT count(*) FROM certificates"
        " WHERE revoked IS NULL AND replaced_by IS NULL AND not_after > ? AND not_after <= ?",
        since,
        until,
    )


def _count(tx: Tx, sql: str, *params: int) -> int:
    row = tx.one(sql, params)
    return int(row[0]) if row else 0
