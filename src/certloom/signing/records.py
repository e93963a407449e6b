"""Keys at rest: what the signer writes about a key, sealed so that only it can read or change it."""

from __future__ import annotations

import msgspec

from certloom.pki.keys import PrivateKey, facts_of, private_from_der, private_to_der, spki_of
from certloom.secrets import DataKey, SecretError
from certloom.signing.base import Purpose, SigningRefused


class KeyRecord(msgspec.Struct, frozen=True):
    """A key, whose it is and what it is for. Exactly one of ``pkcs8`` and ``token`` is set."""

    purpose: Purpose
    authority: str
    """The authority whose key it is: limits are by this name."""
    spki: bytes
    """DER SubjectPublicKeyInfo."""
    created: int
    """Unix seconds."""
    born: bool = False
    """Whether it was made here, and so never was anywhere else."""
    pkcs8: bytes = b""
    """The private key as an unencrypted PrivateKeyInfo."""
    token: str = ""
    """PKCS#11 URI (RFC 7512) of the key in its token."""

    @property
    def algorithm(self) -> str:
        """As ``pki.keys.generate`` calls it."""
        return facts_of(self.spki).key_type

    def __repr__(self) -> str:
        return f"KeyRecord({self.purpose} of {self.authority})"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KeyRecord).decode


def seal(key: DataKey, id: str, record: KeyRecord) -> bytes:
    """The record as it is kept."""
    return key.seal(_purpose(id), _encode(record))


def unseal(key: DataKey, id: str, sealed: bytes) -> KeyRecord:
    """Raises ``SigningRefused`` for what was not sealed under this key for this id."""
    try:
        return _decode(key.open(_purpose(id), sealed))
    except (SecretError, msgspec.DecodeError) as error:
        raise SigningRefused("unknown-key", f"the record of key {id} does not open: {error}") from None


def of_software(
    purpose: Purpose, authority: str, private_key: PrivateKey, now: int, *, born: bool
) -> KeyRecord:
    """The record of a key that is no token's."""
    return KeyRecord(purpose, authority, spki_of(private_key), now, born, pkcs8=private_to_der(private_key))


def private_key(record: KeyRecord) -> PrivateKey:
    """The key of a record that has no token."""
    return private_from_der(record.pkcs8)


def _purpose(id: str) -> str:
    return f"signer-key:{id}"
