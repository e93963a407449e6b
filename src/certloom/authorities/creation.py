"""Making a root and an issuing CA of our own: rows for the store, and keys sealed under the data key."""

from __future__ import annotations

import msgspec

from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.authorities.serials import new_serial
from certloom.pki.ca import make_ca, make_root
from certloom.pki.certificates import issuer_facts, key_identifier
from certloom.pki.keys import PrivateKey, generate, private_from_der, private_to_der, spki_of
from certloom.pki.names import Name
from certloom.secrets import DataKey
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority, StoredKey
from certloom.store.base import Tx
from certloom.store.ids import new_id

_COMMON_NAME = "2.5.4.3"
_BACKDATE = 3600
"""Seconds, so that a client whose clock is a little behind trusts a CA made just now."""
_YEAR = 365 * 86_400


class NewAuthority(msgspec.Struct, frozen=True):
    """A CA made here, not yet stored."""

    row: StoredAuthority
    key: StoredKey
    private_key: PrivateKey

    def __repr__(self) -> str:
        return f"NewAuthority({self.row.name})"


def key_purpose(key_id: str) -> str:
    """What an authority's private key is sealed for."""
    return f"authority-key:{key_id}"


def open_private_key(data_key: DataKey, stored: StoredKey) -> PrivateKey:
    """The private key of a stored, sealed key. Raises ``SealError``."""
    return private_from_der(data_key.open(key_purpose(stored.id), stored.sealed))


def create_root(
    data_key: DataKey, name: str, subject: str, now: int, *, key_type: str = "P-256", years: int = 20
) -> NewAuthority:
    """A self-signed CA; ``subject`` is its common name."""
    private_key = generate(key_type)
    certificate = make_root(
        private_key,
        subject=Name(((_COMMON_NAME, subject),)),
        serial=new_serial(),
        not_before=now - _BACKDATE,
        not_after=now + years * _YEAR,
    )
    return _sealed(data_key, name, None, certificate, private_key, key_type, 1, now)


def create_issuing(
    data_key: DataKey,
    name: str,
    subject: str,
    root: NewAuthority,
    urls: URLs,
    now: int,
    *,
    key_type: str = "P-256",
    years: int = 10,
    crl_shards: int = 16,
) -> NewAuthority:
    """A CA below ``root`` that issues end-entity certificates only (path length 0)."""
    private_key = generate(key_type)
    certificate = make_ca(
        private_key.public_key(),
        issuer_facts(root.row.certificate),
        root.private_key,
        subject=Name(((_COMMON_NAME, subject),)),
        serial=new_serial(),
        not_before=now - _BACKDATE,
        not_after=now + years * _YEAR,
        crl_url=urls.crl(root.row.name, 0),
        issuer_url=urls.issuer(root.row.name),
    )
    return _sealed(data_key, name, root.row.name, certificate, private_key, key_type, crl_shards, now)


def _sealed(
    data_key: DataKey,
    name: str,
    issuer: str | None,
    certificate: bytes,
    private_key: PrivateKey,
    key_type: str,
    crl_shards: int,
    now: int,
) -> NewAuthority:
    spki = spki_of(private_key)
    key_id = new_id(now * 1000)
    sealed = data_key.seal(key_purpose(key_id), private_to_der(private_key))
    return NewAuthority(
        StoredAuthority(
            name=name,
            kind=KIND,
            issuer=issuer,
            certificate=certificate,
            key_identifier=key_identifier(spki),
            key_id=key_id,
            crl_shards=crl_shards,
            state="active",
            body=msgspec.json.encode(LocalBody(generate_as=key_type)).decode(),
            created=now,
        ),
        StoredKey(key_id, "authority", spki, sealed, now),
        private_key,
    )


def store(tx: Tx, authority: NewAuthority) -> None:
    """Store a CA made here, with its key. Raises ``Conflict`` when the name is taken."""
    statements.insert_key(tx, authority.key)
    statements.insert(tx, authority.row)
