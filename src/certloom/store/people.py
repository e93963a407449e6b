"""People: statements. Teams and grants are JSON texts here; ``identity`` reads them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from certloom.store.base import Row, Tx

ACTIVE = "active"
DISABLED = "disabled"


class StoredPerson(msgspec.Struct, frozen=True, kw_only=True):
    """One account. Times are Unix seconds."""

    id: str
    name: str
    """What they log in with; lower case, unique."""
    display: str
    email: str
    state: str
    """``active`` or ``disabled``."""
    password_hash: str | None = None
    """argon2id in PHC form."""
    oidc_issuer: str | None = None
    oidc_subject: str | None = None
    teams: str = "[]"
    """JSON list of names."""
    grants: str = "[]"
    """JSON list of grants."""
    oidc_teams: str = "[]"
    """What the identity provider's groups gave at the last login."""
    oidc_grants: str = "[]"
    setup_hash: bytes | None = None
    """SHA-256 of the one-time code with which a password may be set."""
    setup_expires: int | None = None
    revision: int = 1
    created: int
    updated: int
    last_login: int | None = None

    def __repr__(self) -> str:
        return f"StoredPerson({self.id})"


_FIELDS = StoredPerson.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_SELECT = f"SELECT {_COLUMNS} FROM people"
_INSERT = f"INSERT INTO people ({_COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))})"
# Everything but the id and the revision, which only ``update`` itself counts up.
_CHANGING = tuple(field for field in _FIELDS if field not in ("id", "revision", "created"))
_UPDATE = (
    f"UPDATE people SET {', '.join(f'{field} = ?' for field in _CHANGING)}, revision = revision + 1"
    " WHERE id = ? AND revision = ?"
)


def _person(row: Row) -> StoredPerson:
    return StoredPerson(**dict(zip(_FIELDS, row, strict=True)))


def insert(tx: Tx, person: StoredPerson) -> None:
    """Raises ``Conflict`` when the name, or the identity at the provider, is taken."""
    tx.run(_INSERT, msgspec.structs.astuple(person))


def get(tx: Tx, id: str, *, lock: bool = False) -> StoredPerson | None:
    row = tx.one(f"{_SELECT} WHERE id = ?{tx.for_update if lock else ''}", (id,))
    return _person(row) if row else None


def by_name(tx: Tx, name: str) -> StoredPerson | None:
    row = tx.one(f"{_SELECT} WHERE name = ?", (name,))
    return _person(row) if row else None


def by_oidc(tx: Tx, issuer: str, subject: str) -> StoredPerson | None:
    row = tx.one(f"{_SELECT} WHERE oidc_issuer = ? AND oidc_subject = ?", (issuer, subject))
    return _person(row) if row else None


def by_setup_hash(tx: Tx, setup_hash: bytes) -> StoredPerson | None:
    row = tx.one(f"{_SELECT} WHERE setup_hash = ?", (setup_hash,))
    return _person(row) if row else None


def listing(tx: Tx, limit: int, after: str = "") -> list[StoredPerson]:
    """By name, from behind ``after``."""
    return [_person(row) for row in tx.all(f"{_SELECT} WHERE name > ? ORDER BY name LIMIT ?", (after, limit))]


def some(tx: Tx, ids: Sequence[str]) -> list[StoredPerson]:
    """Those of these ids that there are."""
    return [person for id in ids if (person := get(tx, id)) is not None]


def update(tx: Tx, person: StoredPerson) -> bool:
    """Write a changed row; False when it was changed since the revision that ``person`` carries was read."""
    values = [getattr(person, field) for field in _CHANGING]
    return tx.run(_UPDATE, (*values, person.id, person.revision)) == 1


def logged_in(tx: Tx, id: str, now: int) -> None:
    """Note a login; that is no edit, so the revision stays."""
    tx.run("UPDATE people SET last_login = ? WHERE id = ?", (now, id))
