"""What a restored database must be told before it is used again: statements."""

from __future__ import annotations

from certloom.store.base import Tx


def mark_restored(tx: Tx, backed_up: int, now: int) -> int:
    """Account for what happened between a backup and its restoring; answer how many serials are unknown.

    Serials that were reserved at the backup may have been issued since. CRLs signed since are lost, so every
    CRL is due to be signed again, under a number above any that can have been given out: numbers are at
    least the Unix time. Leases belong to processes that are gone.
    """
    unknown = tx.run("UPDATE serials SET state = 'unknown' WHERE state = 'reserved'")
    tx.run("INSERT INTO lost_spans (since, until) VALUES (?, ?)", (backed_up, max(now, backed_up)))
    tx.run("UPDATE crls SET next_update = 0")
    tx.run("UPDATE jobs SET lease_until_ms = 0 WHERE state = 'running'")
    return unknown


def lost_spans(tx: Tx) -> list[tuple[int, int]]:
    """(since, until) of every span of time whose issuances a restore lost, Unix seconds."""
    return [(row[0], row[1]) for row in tx.all("SELECT since, until FROM lost_spans ORDER BY id")]
