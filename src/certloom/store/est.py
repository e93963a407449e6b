"""What EST clients asked for and may ask for again: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx


class StoredTransaction(msgspec.Struct, frozen=True):
    """The last request that was made of one ask."""

    key: bytes
    request_id: str
    created: int
    """Unix seconds."""


def get(tx: Tx, key: bytes) -> StoredTransaction | None:
    row = tx.one("SELECT key, request_id, created FROM est_transactions WHERE key = ?", (key,))
    return StoredTransaction(*row) if row else None


def put(tx: Tx, transaction: StoredTransaction) -> None:
    """Make it, or let it point to a later request."""
    tx.run(
        "INSERT INTO est_transactions (key, request_id, created) VALUES (?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET request_id = excluded.request_id, created = excluded.created",
        msgspec.structs.astuple(transaction),
    )


def prune(tx: Tx, before: int, limit: int) -> int:
    """Delete some of those from before then whose requests are not open; how many."""
    rows = tx.all(
        "SELECT t.key FROM est_transactions t WHERE t.created < ? AND NOT EXISTS"
        " (SELECT 1 FROM enrolment_requests r WHERE r.id = t.request_id"
        " AND r.state IN ('received', 'awaiting_approval', 'approved', 'issuing'))"
        " ORDER BY t.created LIMIT ?",
        (before, limit),
    )
    tx.many("DELETE FROM est_transactions WHERE key = ?", rows)
    return len(rows)
