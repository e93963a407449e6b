"""Keys that were made here for a requester, sealed, until their time is up: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx


class StoredRequestKey(msgspec.Struct, frozen=True):
    """A private key, sealed under the data key for ``request-key:REQUEST``. Times are Unix seconds."""

    request_id: str
    certificate_id: int | None
    sealed: bytes
    created: int
    expires: int
    """When it is wiped, if it was made at ``created``; issuing starts that time anew."""

    def __repr__(self) -> str:
        return f"StoredRequestKey({self.request_id})"


_COLUMNS = "request_id, certificate_id, sealed, created, expires"


def insert(tx: Tx, key: StoredRequestKey) -> None:
    """Raises ``Conflict`` when the request has one."""
    tx.run(f"INSERT INTO request_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", msgspec.structs.astuple(key))


def get(tx: Tx, request_id: str) -> StoredRequestKey | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM request_keys WHERE request_id = ?", (request_id,))
    return StoredRequestKey(*row) if row else None


def by_certificate(tx: Tx, certificate_id: int) -> StoredRequestKey | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM request_keys WHERE certificate_id = ?", (certificate_id,))
    return StoredRequestKey(*row) if row else None


def set_certificate(tx: Tx, request_id: str, certificate_id: int | None, now: int) -> None:
    """Its certificate is there: from now on it is kept for as long as it was meant to be."""
    tx.run(
        "UPDATE request_keys SET certificate_id = ?, expires = ? + expires - created, created = ?"
        " WHERE request_id = ?",
        (certificate_id, now, now, request_id),
    )


def delete(tx: Tx, request_id: str) -> bool:
    return tx.run("DELETE FROM request_keys WHERE request_id = ?", (request_id,)) == 1


def expired(tx: Tx, now: int, limit: int) -> list[str]:
    """Requests whose keys have been kept for long enough."""
    return [
        row[0]
        for row in tx.all(
            # One that still waits for people has not begun to be kept.
            "SELECT k.request_id FROM request_keys k WHERE k.expires <= ? AND NOT EXISTS"
            " (SELECT 1 FROM enrolment_requests r WHERE r.id = k.request_id"
            " AND r.state IN ('received', 'awaiting_approval', 'approved', 'issuing'))"
            " ORDER BY k.expires LIMIT ?",
            (now, limit),
        )
    ]
