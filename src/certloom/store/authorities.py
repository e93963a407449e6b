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
    """``active``, ``retired`` (it issues no more), or ``pending``: its certificate, which is empty then, has
    not come yet."""
    body: str
    """JSON of what only its kind reads."""
    created: int
    generation: int = 1
    """The one that is issued from; certificate, key identifier and key are its."""


class StoredGeneration(msgspec.Struct, frozen=True):
    """One generation of an authority: a key, and the CA certificate for it."""

    authority: str
    generation: int
    state: str
    """``next``, ``current``, ``past`` or ``retired``."""
    issuer: str | None
    """The authority above it, None for a root or where it is a stranger."""
    certificate: bytes | None
    """None while its CSR waits for one."""
    key_identifier: bytes | None
    key_id: str | None
    csr: bytes | None
    body: str
    """JSON of what only the authority's kind reads."""
    created: int
    activated: int | None = None
    ended: int | None = None


class StoredKey(msgspec.Struct, frozen=True):
    """A private key, sealed: those of authorities by the signer, others under the data key."""

    id: str
    purpose: str
    spki: bytes
    sealed: bytes
    created: int

    def __repr__(self) -> str:
        return f"StoredKey({self.purpose})"


_COLUMNS = (
    "name, kind, issuer, certificate, key_identifier, key_id, crl_shards, state, body, created, generation"
)
_GENERATION_COLUMNS = (
    "authority, generation, state, issuer, certificate, key_identifier, key_id, csr, body, created,"
    " activated, ended"
)


def insert(tx: Tx, a: StoredAuthority, first: StoredGeneration | None = None) -> None:
    """With its first generation. Raises ``Conflict`` when the name is taken."""
    tx.run(f"INSERT INTO authorities ({_COLUMNS}) VALUES ({', '.join('?' * 11)})", msgspec.structs.astuple(a))
    insert_generation(
        tx,
        first
        or StoredGeneration(
            a.name,
            a.generation,
            "current",
            a.issuer,
            a.certificate,
            a.key_identifier,
            a.key_id,
            None,
            "{}",
            a.created,
            a.created,
        ),
    )


def insert_generation(tx: Tx, g: StoredGeneration) -> None:
    """Raises ``Conflict`` when there is one of that number."""
    tx.run(
        f"INSERT INTO authority_generations ({_GENERATION_COLUMNS}) VALUES ({', '.join('?' * 12)})",
        msgspec.structs.astuple(g),
    )


def update(tx: Tx, a: StoredAuthority) -> None:
    """Everything of it but its name, kind and when it was made."""
    tx.run(
        "UPDATE authorities SET issuer = ?, certificate = ?, key_identifier = ?, key_id = ?, crl_shards = ?,"
        " state = ?, body = ?, generation = ? WHERE name = ?",
        (
            a.issuer,
            a.certificate,
            a.key_identifier,
            a.key_id,
            a.crl_shards,
            a.state,
            a.body,
            a.generation,
            a.name,
        ),
    )


def update_generation(tx: Tx, g: StoredGeneration) -> None:
    """Everything of it but its number and when it was made."""
    tx.run(
        "UPDATE authority_generations SET state = ?, issuer = ?, certificate = ?, key_identifier = ?,"
        " key_id = ?, csr = ?, body = ?, activated = ?, ended = ? WHERE authority = ? AND generation = ?",
        (
            g.state,
            g.issuer,
            g.certificate,
            g.key_identifier,
            g.key_id,
            g.csr,
            g.body,
            g.activated,
            g.ended,
            g.authority,
            g.generation,
        ),
    )


def generations(tx: Tx, authority: str | None = None) -> list[StoredGeneration]:
    """Those of one authority, or of all; by authority, oldest first."""
    where, params = ("", ()) if authority is None else (" WHERE authority = ?", (authority,))
    rows = tx.all(
        f"SELECT {_GENERATION_COLUMNS} FROM authority_generations{where} ORDER BY authority, generation",
        params,
    )
    return [StoredGeneration(*row) for row in rows]


def every(tx: Tx) -> list[StoredAuthority]:
    """All that have a certificate."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM authorities WHERE state <> 'pending' ORDER BY created, name")
    return [StoredAuthority(*row) for row in rows]


def names(tx: Tx) -> set[str]:
    """Of all, those that wait for a certificate included."""
    return {row[0] for row in tx.all("SELECT name FROM authorities")}


def get(tx: Tx, name: str, *, lock: bool = False) -> StoredAuthority | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM authorities WHERE name = ?{tx.for_update if lock else ''}", (name,))
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


def keys_of(tx: Tx, purpose: str) -> list[StoredKey]:
    """Those whose purpose begins like that, which ends in a colon."""
    rows = tx.all(
        "SELECT id, purpose, spki, sealed, created FROM keys WHERE purpose >= ? AND purpose < ? ORDER BY id",
        (purpose, purpose.removesuffix(":") + ";"),
    )
    return [StoredKey(*row) for row in rows]


def replace_key(tx: Tx, k: StoredKey) -> None:
    """The same key, sealed anew."""
    tx.run("UPDATE keys SET sealed = ? WHERE id = ?", (k.sealed, k.id))


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
