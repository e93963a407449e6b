"""What OCSP answers from: statements. Delegated responders; the status of certificates by serial number."""

from __future__ import annotations

import msgspec

from certloom.store.authorities import StoredKey
from certloom.store.base import Tx


class StoredResponder(msgspec.Struct, frozen=True):
    """A delegated responder of one generation of an authority. Times are Unix seconds."""

    authority: str
    generation: int
    key_id: str
    certificate: bytes
    """DER."""
    not_after: int
    created: int


_COLUMNS = "authority, generation, key_id, certificate, not_after, created"


def newest(tx: Tx, authority: str, generation: int) -> tuple[StoredResponder, StoredKey] | None:
    """The responder that counts, with its key."""
    row = tx.one(
        "SELECT r.authority, r.generation, r.key_id, r.certificate, r.not_after, r.created,"
        " k.purpose, k.spki, k.sealed, k.created FROM ocsp_responders r JOIN keys k ON k.id = r.key_id"
        " WHERE r.authority = ? AND r.generation = ? ORDER BY r.created DESC, r.key_id DESC LIMIT 1",
        (authority, generation),
    )
    if row is None:
        return None
    return StoredResponder(*row[:6]), StoredKey(row[2], *row[6:])


def lock_generation(tx: Tx, authority: str, generation: int) -> bool:
    """Hold a generation against others that would give it a responder; False when it is there no more, or
    retired."""
    row = tx.one(
        f"SELECT state FROM authority_generations WHERE authority = ? AND generation = ?{tx.for_update}",
        (authority, generation),
    )
    return row is not None and row[0] != "retired"


def put(tx: Tx, r: StoredResponder) -> None:
    """A new responder, or a new certificate for the same key."""
    tx.run(
        f"INSERT INTO ocsp_responders ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (authority, generation, key_id) DO UPDATE SET certificate = excluded.certificate,"
        " not_after = excluded.not_after, created = excluded.created",
        msgspec.structs.astuple(r),
    )


def expired(tx: Tx, before: int, limit: int) -> list[StoredResponder]:
    """Responders whose certificates ended before then."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM ocsp_responders WHERE not_after < ? ORDER BY not_after LIMIT ?",
        (before, limit),
    )
    return [StoredResponder(*row) for row in rows]


def delete(tx: Tx, r: StoredResponder) -> bool:
    """Forget a responder and its key; False when it was renewed or is gone."""
    gone = tx.run(
        "DELETE FROM ocsp_responders WHERE authority = ? AND generation = ? AND key_id = ? AND not_after = ?",
        (r.authority, r.generation, r.key_id, r.not_after),
    )
    if gone:
        tx.run("DELETE FROM keys WHERE id = ?", (r.key_id,))
    return gone == 1


class Standing(msgspec.Struct, frozen=True):
    """One recorded certificate."""

    generation: int
    revoked: int | None
    """When, in Unix seconds."""
    reason: int | None


def standing(tx: Tx, authority: str, serial: bytes) -> Standing | None:
    """How the certificate with this serial stands, if it is on record."""
    row = tx.one(
        "SELECT generation, revoked, revocation_reason FROM certificates WHERE authority = ? AND serial = ?",
        (authority, serial),
    )
    return Standing(row[0], row[1], row[2]) if row else None


def reservation(tx: Tx, authority: str, serial: bytes) -> tuple[str, int] | None:
    """State (``reserved``, ``burned``, ``unknown``) and time of a serial that was reserved, not recorded."""
    row = tx.one(
        "SELECT state, reserved FROM serials WHERE authority = ? AND serial = ?", (authority, serial)
    )
    return (row[0], row[1]) if row else None


def changed_since(
    tx: Tx, since: int, limit: int
) -> list[tuple[str, int, bytes, int, int | None, int | None]]:
    """(authority, generation, serial, when, revoked, reason) of certificates whose status changed then or
    later, the latest first."""
    return [
        (r[0], r[1], r[2], r[3], r[4], r[5])
        for r in tx.all(
            "SELECT authority, generation, serial, status_changed, revoked, revocation_reason"
            " FROM certificates WHERE status_changed >= ? ORDER BY status_changed DESC LIMIT ?",
            (since, limit),
        )
    ]


def soonest(tx: Tx) -> list[tuple[str, int, int]]:
    """(authority, generation, not_after) of the responder that counts, of every generation not retired."""
    return [
        (r[0], r[1], r[2])
        for r in tx.all(
            "SELECT r.authority, r.generation, max(r.not_after) FROM ocsp_responders r"
            " JOIN authority_generations g ON g.authority = r.authority AND g.generation = r.generation"
            " WHERE g.state <> 'retired' GROUP BY r.authority, r.generation"
            " ORDER BY r.authority, r.generation"
        )
    ]
