"""People's sessions: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx


class StoredSession(msgspec.Struct, frozen=True):
    """One login. Times are Unix seconds."""

    secret_hash: bytes
    """SHA-256 of what the browser holds."""
    person_id: str
    created: int
    last_used: int
    expires: int
    """The absolute end; the idle limit is the caller's to check against ``last_used``."""


_COLUMNS = "secret_hash, person_id, created, last_used, expires"


def insert(tx: Tx, session: StoredSession) -> None:
    tx.run(f"INSERT INTO sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", msgspec.structs.astuple(session))


def get(tx: Tx, secret_hash: bytes) -> StoredSession | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM sessions WHERE secret_hash = ?", (secret_hash,))
    return StoredSession(*row) if row else None


def of_person(tx: Tx, person_id: str) -> list[StoredSession]:
    """The newest first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM sessions WHERE person_id = ? ORDER BY created DESC, secret_hash",
        (person_id,),
    )
    return [StoredSession(*row) for row in rows]


def used(tx: Tx, secret_hash: bytes, now: int) -> None:
    """Note a use."""
    tx.run(
        "UPDATE sessions SET last_used = ? WHERE secret_hash = ? AND last_used < ?", (now, secret_hash, now)
    )


def delete(tx: Tx, secret_hash: bytes) -> bool:
    return tx.run("DELETE FROM sessions WHERE secret_hash = ?", (secret_hash,)) == 1


def delete_of_person(tx: Tx, person_id: str, but: bytes = b"") -> int:
    """End all of a person's sessions but one; answer how many."""
    return tx.run("DELETE FROM sessions WHERE person_id = ? AND secret_hash <> ?", (person_id, but))


def prune(tx: Tx, now: int, idle_before: int, limit: int) -> int:
    """Delete sessions that are over, at most ``limit`` of them; answer how many."""
    return tx.run(
        "DELETE FROM sessions WHERE secret_hash IN (SELECT secret_hash FROM sessions"
        " WHERE expires <= ? OR last_used <= ? LIMIT ?)",
        (now, idle_before, limit),
    )
