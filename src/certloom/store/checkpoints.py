"""Signed places in the audit log's chain, the key that signs them, and the log's own name: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx

_LOG = "audit.log"
_KEY = "audit.key"
_COLUMNS = "sequence, hash, base, at, key_id, signature"


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """A signed place: the event with this sequence number has this hash."""

    sequence: int
    hash: bytes
    base: int
    """The last event that retention had removed when it was signed; 0 for none."""
    at: int
    """Unix seconds."""
    key_id: str
    signature: bytes


def insert(tx: Tx, made: StoredCheckpoint) -> None:
    """Keep a checkpoint, unless there is one of that place already."""
    tx.run(
        f"INSERT INTO audit_checkpoints ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (sequence) DO NOTHING",
        msgspec.structs.astuple(made),
    )


def at(tx: Tx, sequence: int) -> StoredCheckpoint | None:
    """The checkpoint of one place."""
    row = tx.one(f"SELECT {_COLUMNS} FROM audit_checkpoints WHERE sequence = ?", (sequence,))
    return StoredCheckpoint(*row) if row else None


def newest(tx: Tx, limit: int, before: int | None = None) -> list[StoredCheckpoint]:
    """The last ones, highest place first; those below ``before`` if it is given."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM audit_checkpoints WHERE sequence < ? ORDER BY sequence DESC LIMIT ?",
        (2**63 - 1 if before is None else before, limit),
    )
    return [StoredCheckpoint(*row) for row in rows]


def between(tx: Tx, after: int, through: int) -> list[StoredCheckpoint]:
    """Those behind a place, up to another, in order."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM audit_checkpoints WHERE sequence > ? AND sequence <= ? ORDER BY sequence",
        (after, through),
    )
    return [StoredCheckpoint(*row) for row in rows]


def log_id(tx: Tx) -> str | None:
    """The random name of this installation's log, if it has one yet."""
    return _fact(tx, _LOG)


def key_id(tx: Tx) -> str | None:
    """Which row of ``keys`` signs checkpoints, if there is one yet."""
    return _fact(tx, _KEY)


def settle_log_id(tx: Tx, wanted: str) -> str:
    """Give the log a name, unless it has one; answer the one it has."""
    return _settle(tx, _LOG, wanted)


def settle_key_id(tx: Tx, wanted: str) -> str:
    """Say which key signs, unless that is said already; answer which."""
    return _settle(tx, _KEY, wanted)


def _fact(tx: Tx, key: str) -> str | None:
    row = tx.one("SELECT value FROM facts WHERE key = ?", (key,))
    return None if row is None else str(row[0])


def _settle(tx: Tx, key: str, wanted: str) -> str:
    tx.run("INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (key, wanted))
    found = _fact(tx, key)
    assert found is not None
    return found
