"""What has been finished for so long that it may go: statements. Everything in chunks, oldest first."""

from __future__ import annotations

from collections.abc import Sequence

from certloom.store.base import Tx


def first_id_at(at_ms: int) -> str:
    """An id that sorts before every id made from that time on (``store.ids.new_id`` begins with the time)."""
    return max(0, at_ms).to_bytes(6, "big").hex()


def finished_orders(tx: Tx, expired_before: int, limit: int) -> list[str]:
    """Ids of orders that expired before then, but not those whose enrolment request is still open."""
    rows = tx.all(
        # What expired before then was made before then, and ids begin with the time: no index is needed.
        "SELECT o.id FROM acme_orders o WHERE o.id < ? AND o.expires < ? AND NOT EXISTS"
        " (SELECT 1 FROM enrolment_requests r WHERE r.id = o.request_id"
        " AND r.state IN ('received', 'awaiting_approval', 'approved', 'issuing'))"
        " ORDER BY o.id LIMIT ?",
        (first_id_at(expired_before * 1000), expired_before, limit),
    )
    return [row[0] for row in rows]


def delete_orders(tx: Tx, ids: Sequence[str]) -> None:
    tx.many("DELETE FROM acme_orders WHERE id = ?", [(id,) for id in ids])


def finished_authorizations(
    tx: Tx, made_before_id: str, expired_before: int, after: str, limit: int
) -> list[tuple[str, bool]]:
    """(id, whether it expired before then) of authorizations made before an id, by id, after ``after``."""
    return [
        (row[0], row[1] < expired_before)
        for row in tx.all(
            "SELECT id, expires FROM acme_authorizations WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
            (after, made_before_id, limit),
        )
    ]


def delete_authorizations(tx: Tx, ids: Sequence[str], expired_before: int) -> None:
    """Delete those that still are as they were when they were looked at."""
    tx.many(
        "DELETE FROM acme_authorizations WHERE id = ? AND expires < ?", [(id, expired_before) for id in ids]
    )
