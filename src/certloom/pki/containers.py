"""Certificates as files that other software takes: PKCS#7 (certs-only) and PKCS#12."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from certloom.pki import der
from certloom.pki.keys import LeafPrivateKey

_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_DATA = der.oid("1.2.840.113549.1.7.1")


def certs_only(certificates: Sequence[bytes]) -> bytes:
    """DER of a CMS SignedData that holds certificates and nothing else (RFC 5652 section 5, RFC 8551
    section 3.8), in the order of a DER SET."""
    signed_data = der.sequence(
        der.integer(1),
        der.tlv(0x31, b""),
        der.sequence(_DATA),
        der.context(0, b"".join(sorted(certificates))),
        der.tlv(0x31, b""),
    )
    return der.sequence(_SIGNED_DATA, der.context(0, signed_data))


def trust_store(certificates: Sequence[bytes], password: str) -> bytes:
    """DER of a PKCS#12 (RFC 7292) without a private key, under a password."""
    loaded = [x509.load_der_x509_certificate(certificate) for certificate in certificates]
    protection = BestAvailableEncryption(password.encode())
    return serialize_key_and_certificates(None, None, None, loaded, protection)


_KEY_BAG = der.oid("1.2.840.113549.1.12.10.1.2")
_CERTIFICATE_BAG = der.oid("1.2.840.113549.1.12.10.1.3")
_X509 = der.oid("1.2.840.113549.1.9.22.1")
_FRIENDLY_NAME = der.oid("1.2.840.113549.1.9.20")
_LOCAL_KEY_ID = der.oid("1.2.840.113549.1.9.21")
_SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.NULL)
_MAC_ROUNDS = 100_000


def key_store(key: LeafPrivateKey, chain: Sequence[bytes], password: str, name: str) -> bytes:
    """DER of a PKCS#12 (RFC 7292) with a private key of any kind and its chain, under a password.

    ``chain`` is DER, the key's own certificate first. The key is encrypted (PBES2), the certificates, which
    are public, are not; a MAC over all of it says whether the password is right.
    """
    encrypted = key.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode())
    )
    own = der.sequence(_LOCAL_KEY_ID, der.set_of(der.octet_string(hashlib.sha256(chain[0]).digest())))
    named = der.sequence(_FRIENDLY_NAME, der.set_of(der.tlv(der.BMP_STRING, name.encode("utf-16-be"))))
    bags = [
        der.sequence(
            _CERTIFICATE_BAG,
            der.context(0, der.sequence(_X509, der.context(0, der.octet_string(certificate)))),
            b"" if i else der.set_of(own, named),
        )
        for i, certificate in enumerate(chain)
    ]
    key_bag = der.sequence(_KEY_BAG, der.context(0, encrypted), der.set_of(own, named))
    safe = der.sequence(_plain(der.sequence(*bags)), _plain(der.sequence(key_bag)))
    salt = os.urandom(16)
    mac = hmac.new(_mac_key(password, salt, _MAC_ROUNDS), safe, "sha256").digest()
    mac_data = der.sequence(
        der.sequence(_SHA256, der.octet_string(mac)), der.octet_string(salt), der.integer(_MAC_ROUNDS)
    )
    return der.sequence(der.integer(3), _plain(safe), mac_data)


def _plain(content: bytes) -> bytes:
    """ContentInfo of type data (RFC 5652 section 4)."""
    return der.sequence(_DATA, der.context(0, der.octet_string(content)))


def _mac_key(password: str, salt: bytes, rounds: int) -> bytes:
    """32 octets by RFC 7292 appendix B.2 with SHA-256, for the purpose of a MAC (ID 3)."""
    block = 64
    text = password.encode("utf-16-be") + bytes(2)

    def filled(data: bytes) -> bytes:
        size = -(-len(data) // block) * block
        return (data * (size // len(data) + 1))[:size]

    key = bytes((3,)) * block + filled(salt) + filled(text)
    for _ in range(rounds):
        key = hashlib.sha256(key).digest()
    return key
