"""Authorities, their keys, serials and CRLs: statements."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from certloom.store.base import Tx


class StoredAuthority(msgspec.Struct, frozen=True):
    """One authority. ``issuer`` is the authority above it, None for a root."""

    name: str
    kind: str
    issuer: str | None
    certificate: bytes
    key_identifier: bytes
    key_id: str | None
    crl_shards: int
    state: str
    """``active`` or ``retired``."""
    body: str
    """JSON of what only its kind reads."""
    created: int


class StoredKey(msgspec.Struct, frozen=True):
    """A private key, sealed under the data key."""

    id: str
    purpose: str
    spki: bytes
    sealed: bytes
    created: int


_COLUMNS = "name, kind, issuer, certificate, key_identifier, key_id, crl_shards, state, body, created"


def insert(tx: Tx, a: StoredAuthority) -> None:
    """Raises ``Conflict`` when the name is taken."""
    tx.run(f"INSERT INTO authorities ({_COLUMNS}) VALUES ({', '.join('?' * 10)})", msgspec.structs.astuple(a))


def every(tx: Tx) -> list[StoredAuthority]:
    return [
        StoredAuthority(*row) for row in tx.all(f"SELECT {_COLUMNS} FROM authorities ORDER BY created, name")
    ]


def get(tx: Tx, name: str) -> StoredAuthority | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM authorities WHERE name = ?", (name,))
    return None if row is None else StoredAuthority(*row)


def after(tx: Tx, name: str, limit: int) -> list[StoredAuthority]:
    """The authorities whose names follow, by name."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM authorities WHERE name > ? ORDER BY name LIMIT ?", (name, limit))
    return [StoredAuthority(*row) for row in rows]


def insert_key(tx: Tx, k: StoredKey) -> None:
    tx.run(
        "INSERT INTO keys (id, purpose, spki, sealed, created) VALUES (?, ?, ?, ?, ?)",
        msgspec.structs.astuple(k),
    )


def key(tx: Tx, id: str) -> StoredKey | None:
    row = tx.one("SELECT id, purpose, spki, sealed, created FROM keys WHERE id = ?", (id,))
    return StoredKey(*row) if row else None


def reserve_serials(tx: Tx, authority: str, serials: Iterable[bytes], node: str, now: int) -> None:
    """Raises ``Conflict`` when one was ever reserved and not recorded; then none is reserved."""
    tx.many(
        "INSERT INTO serials (authority, serial, state, node, reserved) VALUES (?, ?, 'reserved', ?, ?)",
        [(authority, serial, node, now) for serial in serials],
    )


def consume_serial(tx: Tx, authority: str, serial: bytes) -> bool:
    """Take a reservation away, in the unit that records its certificate; False when it is not there."""
    return (
        tx.run(
            "DELETE FROM serials WHERE authority = ? AND serial = ? AND state = 'reserved'",
            (authority, serial),
        )
        == 1
    )


def release_serials(tx: Tx, authority: str, serials: Iterable[bytes]) -> None:
    """Forget reservations under which nothing was ever signed."""
    tx.many(
        "DELETE FROM serials WHERE authority = ? AND serial = ? AND state = 'reserved'",
        [(authority, serial) for serial in serials],
    )


def burn_serial(tx: Tx, authority: str, serial: bytes) -> None:
    """A serial under which something may have been signed that was not recorded."""
    tx.run("UPDATE serials SET state = 'burned' WHERE authority = ? AND serial = ?", (authority, serial))


def burn_reserved(tx: Tx, reserved_before: int) -> int:
    """Burn what was reserved before that time and never recorded; answer how many."""
    return tx.run(
        "UPDATE serials SET state = 'burned' WHERE state = 'reserved' AND reserved < ?", (reserved_before,)
    )


def serial_state(tx: Tx, authority: str, serial: bytes) -> str | None:
    """``reserved``, ``burned`` or ``unknown`` for a serial without a recorded certificate, else None."""
    row = tx.one("SELECT state FROM serials WHERE authority = ? AND serial = ?", (authority, serial))
    return row[0] if row else None
