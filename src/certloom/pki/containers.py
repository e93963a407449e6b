"""Certificates as files that other software takes: PKCS#7 (certs-only) and PKCS#12."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from certloom.pki import der

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
