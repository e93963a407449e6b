"""Certificates and the names in them: statements."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.store.base import Row, Tx
from certloom.store.name_keys import key_of


class StoredCertificate(msgspec.Struct, frozen=True):
    """One row of the inventory. Times are Unix seconds."""

    id: int
    authority: str
    serial: bytes
    """Big-endian, without the DER sign octet."""
    der: bytes
    spki_sha256: bytes
    not_before: int
    not_after: int
    profile: str
    profile_version: int
    requester: str
    request_id: str
    crl_shard: int
    issued: int
    revoked: int | None = None
    """When it was revoked or put on hold."""
    revocation_reason: int | None = None
    """RFC 5280 section 5.3.1 CRLReason."""
    replace_since: int | None = None
    """When it was marked for replacement."""
    replace_why: str | None = None
    replaced_by: int | None = None
    """The id of its successor."""
    names: tuple[str, ...] = ()
    """Each as ``type:value``."""
    key_type: str = ""
    """``P-256``, ``rsa-2048``, ``ed25519`` ..."""
    fingerprint: bytes = b""
    """SHA-256 of the DER."""
    owner: str | None = None
    """Id of the person or service on whose behalf it was asked for."""
    team: str | None = None
    channel: str = ""
    """The one it was asked for on: ``protocol/name``."""
    generation: int = 1
    """Of its authority's keys, the one that signed it."""

    @property
    def identifiers(self) -> tuple[Identifier, ...]:
        """Its names."""
        return tuple(as_identifier(name) for name in self.names)


HOLD = 6
"""The CRLReason of what may be released again: certificateHold."""
STATUS_CHANGED = "certificate-status"
"""Signalled by every unit that revokes, holds or releases, or gives another reason (``Store.listen``)."""

_FIELDS = (
    "authority, serial, der, spki_sha256, not_before, not_after, profile, profile_version, requester,"
    " request_id, crl_shard, issued"
)
_LATER_FIELDS = "names, key_type, fingerprint, owner, team, channel, generation"
_COLUMNS = (
    f"id, {_FIELDS}, revoked, revocation_reason, replace_since, replace_why, replaced_by, {_LATER_FIELDS}"
)
_INSERT = f"INSERT INTO certificates ({_FIELDS}, {_LATER_FIELDS}) VALUES ({', '.join('?' * 19)}) RETURNING id"
_INSERT_NAME = "INSERT INTO certificate_names (key, certificate_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
_encode = msgspec.json.Encoder().encode
_texts = msgspec.json.Decoder(tuple[str, ...]).decode


def as_identifier(text: str) -> Identifier:
    """A name as rows have it, ``type:value``."""
    type, _, value = text.partition(":")
    return Identifier(IdentifierType(type), value)


def _certificate(row: Row) -> StoredCertificate:
    return StoredCertificate(*(*row[:18], _texts(row[18]), *row[19:]))


def insert(tx: Tx, c: StoredCertificate, identifiers: Sequence[Identifier]) -> int:
    """Record a certificate and its names; answer its id. Its ``id``, ``names`` and ``fingerprint`` are
    ignored: they follow from the rest.

    Raises ``Conflict`` when the authority has that serial already.
    """
    row = tx.one(
        _INSERT,
        (
            c.authority,
            c.serial,
            c.der,
            c.spki_sha256,
            c.not_before,
            c.not_after,
            c.profile,
            c.profile_version,
            c.requester,
            c.request_id,
            c.crl_shard,
            c.issued,
            _encode([str(identifier) for identifier in identifiers]).decode(),
            c.key_type,
            hashlib.sha256(c.der).digest(),
            c.owner,
            c.team,
            c.channel,
            c.generation,
        ),
    )
    assert row is not None
    id = int(row[0])
    for identifier in identifiers:
        tx.run(_INSERT_NAME, (key_of(identifier), id))
    return id


def get(tx: Tx, id: int, *, lock: bool = False) -> StoredCertificate | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM certificates WHERE id = ?{tx.for_update if lock else ''}", (id,))
    return _certificate(row) if row else None


def by_serial(tx: Tx, authority: str, serial: bytes) -> StoredCertificate | None:
    row = tx.one(
        f"SELECT {_COLUMNS} FROM certificates WHERE authority = ? AND serial = ?", (authority, serial)
    )
    return _certificate(row) if row else None


def by_fingerprint(tx: Tx, fingerprint: bytes) -> StoredCertificate | None:
    """The certificate with this SHA-256 of its DER."""
    row = tx.one(f"SELECT {_COLUMNS} FROM certificates WHERE fingerprint = ?", (fingerprint,))
    return _certificate(row) if row else None


def of_requester(tx: Tx, requester: str, limit: int) -> list[StoredCertificate]:
    """The newest certificates that were issued to a requester (``kind:id``), newest first."""
    return [
        _certificate(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM certificates WHERE requester = ? ORDER BY issued DESC, id DESC LIMIT ?",
            (requester, limit),
        )
    ]


def by_name(tx: Tx, name: Identifier, limit: int = 100) -> list[StoredCertificate]:
    """The newest certificates with this name, newest first."""
    columns = ", ".join(f"c.{c.strip()}" for c in _COLUMNS.split(","))
    return [
        _certificate(row)
        for row in tx.all(
            f"SELECT {columns} FROM certificate_names n JOIN certificates c ON c.id = n.certificate_id"
            " WHERE n.key = ? ORDER BY n.certificate_id DESC LIMIT ?",
            (key_of(name), limit),
        )
    ]


def by_key(tx: Tx, spki_sha256: bytes, limit: int = 1000) -> list[StoredCertificate]:
    """Certificates with this public key."""
    return [
        _certificate(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM certificates WHERE spki_sha256 = ? ORDER BY id LIMIT ?",
            (spki_sha256, limit),
        )
    ]


def chunk(tx: Tx, after: int, limit: int) -> list[StoredCertificate]:
    """Certificates by id, from the one after ``after``: for walking the whole inventory with ``scan``."""
    return [
        _certificate(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM certificates WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
    ]


def set_revoked(tx: Tx, id: int, at: int, reason: int) -> bool:
    """Mark as revoked; False when it was already."""
    tx.signal(STATUS_CHANGED)
    return (
        tx.run(
            "UPDATE certificates SET revoked = ?, revocation_reason = ?, status_changed = ?"
            " WHERE id = ? AND revoked IS NULL",
            (at, reason, at, id),
        )
        == 1
    )


def set_reason(tx: Tx, id: int, was: int, reason: int, at: int) -> bool:
    """Give a revoked certificate another reason; False when it was not revoked for ``was``."""
    tx.signal(STATUS_CHANGED)
    return (
        tx.run(
            "UPDATE certificates SET revocation_reason = ?, status_changed = ?"
            " WHERE id = ? AND revocation_reason = ?",
            (reason, at, id, was),
        )
        == 1
    )


def set_released(tx: Tx, id: int, at: int) -> bool:
    """Take a certificate's hold away; False when it was not held."""
    tx.signal(STATUS_CHANGED)
    return (
        tx.run(
            "UPDATE certificates SET revoked = NULL, revocation_reason = NULL, status_changed = ?"
            f" WHERE id = ? AND revocation_reason = {HOLD}",
            (at, id),
        )
        == 1
    )


def set_replace(tx: Tx, id: int, since: int | None, why: str | None) -> bool:
    """Mark for replacement, or with None take the mark away."""
    return (
        tx.run("UPDATE certificates SET replace_since = ?, replace_why = ? WHERE id = ?", (since, why, id))
        == 1
    )


def set_replaced_by(tx: Tx, id: int, successor: int) -> bool:
    """Link a certificate to its successor; False when it has one already."""
    return (
        tx.run(
            "UPDATE certificates SET replaced_by = ? WHERE id = ? AND replaced_by IS NULL", (successor, id)
        )
        == 1
    )


def to_revoke(
    tx: Tx, spki_sha256: bytes, now: int, reason: int, limit: int, *, only: str = "", but: str = ""
) -> list[int]:
    """Ids of unexpired certificates with this key that are not revoked for ``reason`` or for good.

    For keyCompromise (1) also those that were revoked for another reason. ``only`` those of one profile, or
    all ``but`` those.
    """
    for_good = "TRUE" if reason == 1 else f"(revoked IS NULL OR revocation_reason = {HOLD})"
    return [
        row[0]
        for row in tx.all(
            "SELECT id FROM certificates WHERE spki_sha256 = ? AND not_after >= ?"
            f" AND (revocation_reason IS NULL OR revocation_reason <> ?) AND {for_good}"
            f" AND profile {'= ?' if only else '<> ?'} ORDER BY id LIMIT ?",
            (spki_sha256, now, reason, only or but, limit),
        )
    ]


def blocked_keys(tx: Tx, after: bytes, limit: int) -> list[tuple[bytes, str, int]]:
    """Blocked keys by the SHA-256 of their SPKI, from the one after ``after``: it, why, and since when."""
    return [
        (row[0], row[1], row[2])
        for row in tx.all(
            "SELECT spki_sha256, why, created FROM blocked_keys WHERE spki_sha256 > ?"
            " ORDER BY spki_sha256 LIMIT ?",
            (after, limit),
        )
    ]


def is_blocked(tx: Tx, spki_sha256: bytes) -> bool:
    """Whether a public key is on the blocklist."""
    return tx.one("SELECT 1 FROM blocked_keys WHERE spki_sha256 = ?", (spki_sha256,)) is not None


def blocked_key(tx: Tx, spki_sha256: bytes) -> tuple[str, int] | None:
    """Why and since when a key is on the blocklist."""
    row = tx.one("SELECT why, created FROM blocked_keys WHERE spki_sha256 = ?", (spki_sha256,))
    return None if row is None else (row[0], row[1])


def block_key(tx: Tx, spki_sha256: bytes, why: str, at: int) -> bool:
    """Put a public key on the blocklist; False when it was there."""
    return (
        tx.run(
            "INSERT INTO blocked_keys (spki_sha256, why, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (spki_sha256, why, at),
        )
        == 1
    )
