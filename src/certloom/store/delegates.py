"""Who signs in an authority's name without being it: statements."""

from __future__ import annotations

import msgspec

from certloom.store.authorities import StoredKey
from certloom.store.base import Tx


class StoredDelegate(msgspec.Struct, frozen=True):
    """A key that one generation of an authority has certified for a purpose. Times are Unix seconds."""

    authority: str
    generation: int
    purpose: str
    """``ocsp``, ``est`` ..."""
    key_id: str
    certificate: bytes
    """DER."""
    not_after: int
    created: int


_COLUMNS = "authority, generation, purpose, key_id, certificate, not_after, created"


def newest(tx: Tx, authority: str, generation: int, purpose: str) -> tuple[StoredDelegate, StoredKey] | None:
    """The delegate that counts, with its key."""
    row = tx.one(
        "SELECT d.authority, d.generation, d.purpose, d.key_id, d.certificate, d.not_after, d.created,"
        " k.purpose, k.spki, k.sealed, k.created FROM delegates d JOIN keys k ON k.id = d.key_id"
        " WHERE d.authority = ? AND d.generation = ? AND d.purpose = ?"
        " ORDER BY d.created DESC, d.key_id DESC LIMIT 1",
        (authority, generation, purpose),
    )
    if row is None:
        return None
    return StoredDelegate(*row[:7]), StoredKey(row[3], *row[7:])


def lock_generation(tx: Tx, authority: str, generation: int) -> bool:
    """Hold a generation against others that would give it a delegate; False when it is there no more, or
    retired."""
    row = tx.one(
        f"SELECT state FROM authority_generations WHERE authority = ? AND generation = ?{tx.for_update}",
        (authority, generation),
    )
    return row is not None and row[0] != "retired"


def put(tx: Tx, d: StoredDelegate) -> None:
    """A new delegate, or a new certificate for the same key."""
    tx.run(
        f"INSERT INTO delegates ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (authority, generation, key_id) DO UPDATE SET certificate = excluded.certificate,"
        " not_after = excluded.not_after, created = excluded.created",
        msgspec.structs.astuple(d),
    )


def expired(tx: Tx, purpose: str, before: int, limit: int) -> list[StoredDelegate]:
    """Delegates whose certificates ended before then."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM delegates WHERE purpose = ? AND not_after < ? ORDER BY not_after LIMIT ?",
        (purpose, before, limit),
    )
    return [StoredDelegate(*row) for row in rows]


def delete(tx: Tx, d: StoredDelegate) -> bool:
    """Forget a delegate and its key; False when it was renewed or is gone."""
    gone = tx.run(
        "DELETE FROM delegates WHERE authority = ? AND generation = ? AND key_id = ? AND not_after = ?",
        (d.authority, d.generation, d.key_id, d.not_after),
    )
    if gone:
        tx.run("DELETE FROM keys WHERE id = ?", (d.key_id,))
    return gone == 1


def soonest(tx: Tx, purpose: str) -> list[tuple[str, int, int]]:
    """(authority, generation, not_after) of the delegate that counts, of every generation not retired."""
    return [
        (r[0], r[1], r[2])
        for r in tx.all(
            "SELECT d.authority, d.generation, max(d.not_after) FROM delegates d"
            " JOIN authority_generations g ON g.authority = d.authority AND g.generation = d.generation"
            " WHERE d.purpose = ? AND g.state <> 'retired' GROUP BY d.authority, d.generation"
            " ORDER BY d.authority, d.generation",
            (purpose,),
        )
    ]
