"""Answers kept for repeats of a request (Idempotency-Key): statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx


class KeptAnswer(msgspec.Struct, frozen=True):
    """What was answered to the first request that carried the key."""

    fingerprint: bytes
    """SHA-256 over that request."""
    status: int
    answer: bytes
    """Sealed under the data key."""
    created: int


def get(tx: Tx, principal: str, key: str) -> KeptAnswer | None:
    row = tx.one(
        "SELECT fingerprint, status, answer, created FROM idempotency WHERE principal = ? AND key = ?",
        (principal, key),
    )
    return None if row is None else KeptAnswer(*row)


def insert(tx: Tx, principal: str, key: str, kept: KeptAnswer) -> bool:
    """Keep an answer; False where the key is taken."""
    return (
        tx.run(
            "INSERT INTO idempotency (principal, key, fingerprint, status, answer, created)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (principal, key) DO NOTHING",
            (principal, key, *msgspec.structs.astuple(kept)),
        )
        == 1
    )


def delete_older(tx: Tx, principal: str, key: str, before: int) -> None:
    """Forget one answer if it is from before that second."""
    tx.run(
        "DELETE FROM idempotency WHERE principal = ? AND key = ? AND created < ?", (principal, key, before)
    )


def prune(tx: Tx, before: int, limit: int) -> int:
    """Forget up to ``limit`` answers from before that second; how many it was."""
    rows = tx.all(
        "SELECT principal, key FROM idempotency WHERE created < ? ORDER BY created LIMIT ?", (before, limit)
    )
    tx.many("DELETE FROM idempotency WHERE principal = ? AND key = ?", rows)
    return len(rows)
