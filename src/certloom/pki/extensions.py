"""X.509 v3 extensions: the triple itself, the OIDs used here, and the two usage extensions' values."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from certloom.pki import der

SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
KEY_USAGE = "2.5.29.15"
SUBJECT_ALT_NAME = "2.5.29.17"
BASIC_CONSTRAINTS = "2.5.29.19"
CRL_NUMBER = "2.5.29.20"
CRL_REASON = "2.5.29.21"
ISSUING_DISTRIBUTION_POINT = "2.5.29.28"
CRL_DISTRIBUTION_POINTS = "2.5.29.31"
AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
EXTENDED_KEY_USAGE = "2.5.29.37"
FRESHEST_CRL = "2.5.29.46"
AUTHORITY_INFORMATION_ACCESS = "1.3.6.1.5.5.7.1.1"
TLS_FEATURE = "1.3.6.1.5.5.7.1.24"

AD_OCSP = "1.3.6.1.5.5.7.48.1"
AD_CA_ISSUERS = "1.3.6.1.5.5.7.48.2"

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"

KEY_USAGE_BITS = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)
"""The bits of KeyUsage (RFC 5280 section 4.2.1.3) in order; ``contentCommitment`` is the second, too."""

_BIT = {name: 1 << (8 - i) for i, name in enumerate(KEY_USAGE_BITS)} | {"contentCommitment": 1 << 7}


class Extension(msgspec.Struct, frozen=True):
    """A certificate extension as it stands in a certificate or a request."""

    oid: str
    critical: bool
    value: bytes
    """DER of the extension's value (inside the OCTET STRING)."""


def encode(oid: str, critical: bool, value: bytes) -> bytes:
    """DER of one ``Extension`` (RFC 5280 section 4.1); critical FALSE is left out, being the default."""
    return der.sequence(der.oid(oid), der.TRUE if critical else b"", der.octet_string(value))


def decode_all(reader: der.Reader) -> tuple[Extension, ...]:
    """What an ``Extensions`` SEQUENCE holds; duplicates are for the caller. Raises ``der.DERError``."""
    found = []
    while reader.more():
        item = reader.enter()
        oid = item.oid()
        critical = item.peek() == der.BOOLEAN and item.boolean()
        value = item.content(der.OCTET_STRING)
        item.finish()
        found.append(Extension(oid, critical, value))
    return tuple(found)


def encode_key_usage(names: Iterable[str]) -> bytes:
    """KeyUsage's value. Raises ``ValueError`` for a name that is not one of its bits."""
    bits = 0
    for name in names:
        try:
            bits |= _BIT[name]
        except KeyError:
            raise ValueError(f"{name!r} is not a key usage of RFC 5280 section 4.2.1.3") from None
    return der.named_bits(bits, 9)


def decode_key_usage(value: bytes) -> tuple[str, ...]:
    """KeyUsage's names in bit order. Raises ``der.DERError``."""
    reader = der.Reader(value)
    bits = reader.named_bits(9)
    reader.finish()
    return tuple(name for i, name in enumerate(KEY_USAGE_BITS) if bits >> (8 - i) & 1)


def encode_extended_key_usage(oids: Iterable[str]) -> bytes:
    """ExtKeyUsageSyntax's value. Raises ``der.DERError`` for what is not an OID."""
    return der.sequence(*map(der.oid, oids))


def decode_extended_key_usage(value: bytes) -> tuple[str, ...]:
    """ExtKeyUsageSyntax's OIDs in order. Raises ``der.DERError``, also when there is none."""
    reader = der.whole(value)
    oids = []
    while reader.more():
        oids.append(reader.oid())
    if not oids:
        raise der.DERError("an extended key usage without a purpose")
    return tuple(oids)
