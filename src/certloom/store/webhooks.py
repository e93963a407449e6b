"""Webhooks: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Row, Tx


class StoredWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook's row. Times are Unix seconds."""

    name: str
    body: str
    """JSON of what an operator says about it; ``notifications.webhooks`` reads it."""
    secret_sealed: bytes
    previous_sealed: bytes | None = None
    """The secret before the last rotation ..."""
    previous_until: int | None = None
    """... and until when what is sent is signed with it as well."""
    revision: int = 1
    created: int
    updated: int
    last_success: int | None = None
    last_failure: int | None = None
    last_error: str | None = None


_COLUMNS = (
    "name, body, secret_sealed, previous_sealed, previous_until, revision, created, updated, last_success,"
    " last_failure, last_error"
)


def _webhook(row: Row) -> StoredWebhook:
    return StoredWebhook(
        name=row[0],
        body=row[1],
        secret_sealed=row[2],
        previous_sealed=row[3],
        previous_until=row[4],
        revision=row[5],
        created=row[6],
        updated=row[7],
        last_success=row[8],
        last_failure=row[9],
        last_error=row[10],
    )


def insert(tx: Tx, w: StoredWebhook) -> None:
    """Raises ``Conflict`` when the name is taken."""
    tx.run(
        "INSERT INTO webhooks (name, body, secret_sealed, revision, created, updated)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (w.name, w.body, w.secret_sealed, w.revision, w.created, w.updated),
    )


def get(tx: Tx, name: str, *, lock: bool = False) -> StoredWebhook | None:
    """The webhook; with ``lock`` its row is held until the unit ends."""
    row = tx.one(f"SELECT {_COLUMNS} FROM webhooks WHERE name = ?{tx.for_update if lock else ''}", (name,))
    return _webhook(row) if row else None


def every(tx: Tx) -> list[StoredWebhook]:
    """All of them, by name; there are few."""
    return [_webhook(row) for row in tx.all(f"SELECT {_COLUMNS} FROM webhooks ORDER BY name")]


def any_exists(tx: Tx) -> bool:
    """Whether there is one at all."""
    return tx.one("SELECT 1 FROM webhooks LIMIT 1") is not None


def count(tx: Tx) -> int:
    row = tx.one("SELECT count(*) FROM webhooks")
    assert row is not None
    return int(row[0])


def update(tx: Tx, w: StoredWebhook) -> None:
    """Write what an operator may change, and count the revision up."""
    tx.run(
        "UPDATE webhooks SET body = ?, secret_sealed = ?, previous_sealed = ?, previous_until = ?,"
        " updated = ?, revision = revision + 1 WHERE name = ?",
        (w.body, w.secret_sealed, w.previous_sealed, w.previous_until, w.updated, w.name),
    )


def note_success(tx: Tx, name: str, now: int) -> None:
    tx.run("UPDATE webhooks SET last_success = ? WHERE name = ?", (now, name))


def note_failure(tx: Tx, name: str, now: int, error: str) -> None:
    tx.run("UPDATE webhooks SET last_failure = ?, last_error = ? WHERE name = ?", (now, error, name))


def delete(tx: Tx, name: str) -> bool:
    return tx.run("DELETE FROM webhooks WHERE name = ?", (name,)) == 1
