"""Credentials: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Row, Tx


class StoredCredential(msgspec.Struct, frozen=True):
    """What a requester proves itself with. Exactly one of ``secret_hash`` and ``secret_sealed`` is set."""

    id: str
    kind: str
    protocol: str | None
    channel: str | None
    secret_hash: bytes | None
    """SHA-256 of a random secret."""
    secret_sealed: bytes | None
    """For what a MAC needs: sealed under the data key."""
    names: tuple[str, ...]
    """Name patterns it may be used for; none means the profile alone decides."""
    preauthorized: bool
    """Whether its names need no further proof of control."""
    uses_left: int | None
    expires: int | None
    created: int
    last_used: int | None = None
    revoked: int | None = None


_COLUMNS = (
    "id, kind, protocol, channel, secret_hash, secret_sealed, names, preauthorized, uses_left, expires,"
    " created, last_used, revoked"
)
_names = msgspec.json.Decoder(tuple[str, ...]).decode


def _credential(row: Row) -> StoredCredential:
    return StoredCredential(*(*row[:6], _names(row[6]), bool(row[7]), *row[8:]))


def insert(tx: Tx, c: StoredCredential) -> None:
    """Raises ``Conflict`` when the id is taken."""
    tx.run(
        f"INSERT INTO credentials ({_COLUMNS}) VALUES ({', '.join('?' * 13)})",
        (
            *msgspec.structs.astuple(c)[:6],
            msgspec.json.encode(c.names).decode(),
            int(c.preauthorized),
            c.uses_left,
            c.expires,
            c.created,
            c.last_used,
            c.revoked,
        ),
    )


def get(tx: Tx, id: str) -> StoredCredential | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM credentials WHERE id = ?", (id,))
    return _credential(row) if row else None


def by_secret_hash(tx: Tx, secret_hash: bytes) -> StoredCredential | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM credentials WHERE secret_hash = ?", (secret_hash,))
    return _credential(row) if row else None


def listing(tx: Tx, limit: int, after: str = "") -> list[StoredCredential]:
    return [
        _credential(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM credentials WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
    ]


def use(tx: Tx, id: str, now: int) -> bool:
    """Spend one use; False when it is revoked, expired or spent. The one statement is what makes it safe."""
    return (
        tx.run(
            "UPDATE credentials SET uses_left = uses_left - 1, last_used = ? WHERE id = ? AND revoked IS NULL"
            " AND (expires IS NULL OR expires > ?) AND (uses_left IS NULL OR uses_left > 0)",
            (now, id, now),
        )
        == 1
    )


def revoke(tx: Tx, id: str, now: int) -> bool:
    return tx.run("UPDATE credentials SET revoked = ? WHERE id = ? AND revoked IS NULL", (now, id)) == 1


def set_terms(tx: Tx, id: str, names: tuple[str, ...], preauthorized: bool, expires: int | None) -> None:
    """Change what a credential may be used for, and until when."""
    tx.run(
        "UPDATE credentials SET names = ?, preauthorized = ?, expires = ? WHERE id = ?",
        (msgspec.json.encode(names).decode(), int(preauthorized), expires, id),
    )
