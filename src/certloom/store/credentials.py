"""Credentials: statements."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from certloom.store.base import Row, Tx


class StoredCredential(msgspec.Struct, frozen=True):
    """What a requester proves itself with: by a secret (hashed or sealed), or by a certificate."""

    id: str
    kind: str
    protocol: str | None
    channel: str | None
    """Its name; None means every channel of the protocol."""
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
    label: str = ""
    owner: str | None = None
    """A person's id, or ``service:NAME``: whose what it asks for is."""
    team: str | None = None
    profiles: tuple[str, ...] = ()
    """Profiles it may be used for; none means those of its channel."""
    grants: str = "[]"
    """JSON list of grants, for what acts on the API."""
    created_by: str = ""
    previous_hash: bytes | None = None
    """What was valid before the last rotation, until ``previous_until``."""
    previous_sealed: bytes | None = None
    previous_until: int | None = None
    rotated: int | None = None
    revision: int = 1
    spki_sha256: bytes | None = None
    """For client certificates: whose key it is ..."""
    subject_profile: str | None = None
    """... or the profile and the name of certificates issued here."""
    subject_name: str | None = None

    def __repr__(self) -> str:
        return f"StoredCredential({self.id})"


_FIELDS = StoredCredential.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_SELECT = f"SELECT {_COLUMNS} FROM credentials"
_INSERT = f"INSERT INTO credentials ({_COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))})"
_NAMES = _FIELDS.index("names")
_PROFILES = _FIELDS.index("profiles")
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


def _texts(text: str) -> tuple[str, ...]:
    return _decode(text) if text != "[]" else ()


def _credential(row: Row) -> StoredCredential:
    fields: Row = (
        *row[:_NAMES],
        _texts(row[_NAMES]),
        bool(row[_NAMES + 1]),
        *row[_NAMES + 2 : _PROFILES],
        _texts(row[_PROFILES]),
        *row[_PROFILES + 1 :],
    )
    return StoredCredential(*fields)


def _list(texts: Sequence[str]) -> str:
    return msgspec.json.encode(texts).decode()


def insert(tx: Tx, c: StoredCredential) -> None:
    """Raises ``Conflict`` when the id is taken."""
    values = list(msgspec.structs.astuple(c))
    values[_NAMES] = _list(c.names)
    values[_NAMES + 1] = int(c.preauthorized)
    values[_PROFILES] = _list(c.profiles)
    tx.run(_INSERT, values)


def get(tx: Tx, id: str, *, lock: bool = False) -> StoredCredential | None:
    row = tx.one(f"{_SELECT} WHERE id = ?{tx.for_update if lock else ''}", (id,))
    return _credential(row) if row else None


def by_secret_hash(tx: Tx, secret_hash: bytes) -> StoredCredential | None:
    row = tx.one(f"{_SELECT} WHERE secret_hash = ?", (secret_hash,))
    return _credential(row) if row else None


def by_previous_hash(tx: Tx, secret_hash: bytes, now: int) -> StoredCredential | None:
    """The credential whose secret this was before its rotation, where that is still good."""
    row = tx.one(f"{_SELECT} WHERE previous_hash = ? AND previous_until > ?", (secret_hash, now))
    return _credential(row) if row else None


def by_spki(tx: Tx, spki_sha256: bytes) -> list[StoredCredential]:
    """Client certificate identities of this key, whatever their state."""
    rows = tx.all(f"{_SELECT} WHERE spki_sha256 = ? ORDER BY id LIMIT 10", (spki_sha256,))
    return [_credential(row) for row in rows]


def by_subject(tx: Tx, profile: str, name: str) -> list[StoredCredential]:
    """Client certificate identities of this profile and name, whatever their state."""
    rows = tx.all(
        f"{_SELECT} WHERE subject_name = ? AND subject_profile = ? ORDER BY id LIMIT 10", (name, profile)
    )
    return [_credential(row) for row in rows]


def listing(
    tx: Tx,
    limit: int,
    after: str = "",
    *,
    kind: str | None = None,
    owners: Sequence[str] | None = None,
    teams: Sequence[str] | None = None,
    in_use: bool = False,
) -> list[StoredCredential]:
    """By id, from behind ``after``. ``owners`` and ``teams``, when given, narrow to those of either."""
    where, params = ["id > ?"], [after]
    if kind is not None:
        where.append("kind = ?")
        params.append(kind)
    if owners is not None or teams is not None:
        either = []
        for column, values in (("owner", owners or ()), ("team", teams or ())):
            if values:
                either.append(f"{column} IN ({', '.join('?' * len(values))})")
                params.extend(values)
        where.append(f"({' OR '.join(either)})" if either else "1 = 0")
    if in_use:
        where.append("revoked IS NULL")
    rows = tx.all(f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY id LIMIT ?", (*params, limit))
    return [_credential(row) for row in rows]


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


def seen(tx: Tx, id: str, now: int, before: int) -> None:
    """Note a use that spends nothing, unless one was noted since ``before``."""
    tx.run(
        "UPDATE credentials SET last_used = ? WHERE id = ? AND (last_used IS NULL OR last_used <= ?)",
        (now, id, before),
    )


def revoke(tx: Tx, id: str, now: int) -> bool:
    return (
        tx.run(
            "UPDATE credentials SET revoked = ?, revision = revision + 1 WHERE id = ? AND revoked IS NULL",
            (now, id),
        )
        == 1
    )


def of_owner(tx: Tx, owner: str, kinds: Sequence[str]) -> list[str]:
    """Ids of what this owner has in use, of these kinds."""
    rows = tx.all(
        f"SELECT id FROM credentials WHERE owner = ? AND revoked IS NULL AND kind IN"
        f" ({', '.join('?' * len(kinds))}) ORDER BY id",
        (owner, *kinds),
    )
    return [row[0] for row in rows]


def set_terms(tx: Tx, id: str, names: tuple[str, ...], preauthorized: bool, expires: int | None) -> None:
    """Change what a credential may be used for, and until when."""
    tx.run(
        "UPDATE credentials SET names = ?, preauthorized = ?, expires = ?, revision = revision + 1"
        " WHERE id = ?",
        (_list(names), int(preauthorized), expires, id),
    )


def change(tx: Tx, c: StoredCredential) -> bool:
    """Write all that an edit may change; False when it is not at that revision any more, or revoked."""
    return (
        tx.run(
            "UPDATE credentials SET label = ?, names = ?, preauthorized = ?, uses_left = ?, expires = ?,"
            " profiles = ?, grants = ?, team = ?, revision = revision + 1"
            " WHERE id = ? AND revision = ? AND revoked IS NULL",
            (
                c.label,
                _list(c.names),
                int(c.preauthorized),
                c.uses_left,
                c.expires,
                _list(c.profiles),
                c.grants,
                c.team,
                c.id,
                c.revision,
            ),
        )
        == 1
    )


def rotate(tx: Tx, c: StoredCredential) -> bool:
    """Write new secrets; False when it is not at that revision any more, or revoked."""
    return (
        tx.run(
            "UPDATE credentials SET secret_hash = ?, secret_sealed = ?, previous_hash = ?,"
            " previous_sealed = ?, previous_until = ?, rotated = ?, revision = revision + 1"
            " WHERE id = ? AND revision = ? AND revoked IS NULL",
            (
                c.secret_hash,
                c.secret_sealed,
                c.previous_hash,
                c.previous_sealed,
                c.previous_until,
                c.rotated,
                c.id,
                c.revision,
            ),
        )
        == 1
    )
