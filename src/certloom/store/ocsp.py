"""What OCSP answers from: statements on the status of certificates by serial number."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx


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
