"""Certificate revocation lists (RFC 5280 section 5), version 2, complete for their distribution point."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from certloom.pki import der, extensions, signatures
from certloom.pki.certificates import distribution_point_name, serial_number
from certloom.pki.keys import PrivateKey
from certloom.pki.template import IssuerFacts


class CRLError(ValueError):
    """There is no CRL like that: the message says why."""


class CRLEntry(msgspec.Struct, frozen=True):
    """One revoked certificate."""

    serial: bytes
    """Big-endian, without the DER sign octet."""
    revoked_at: int
    """Unix seconds."""
    reason: int = 0
    """CRLReason (RFC 5280 section 5.3.1); 0, unspecified, is never encoded."""


class CRLTemplate(msgspec.Struct, frozen=True):
    """Everything in a CRL but what comes from its issuer."""

    entries: tuple[CRLEntry, ...]
    number: int
    this_update: int
    next_update: int
    """Unix seconds."""
    distribution_point_url: str | None = None
    """The list is for the certificates that carry this URL; None: for all of the issuer's."""
    base_number: int | None = None
    """Set in a delta CRL: the number of the complete CRL that it adds to (RFC 5280 section 5.2.4)."""
    delta_url: str | None = None
    """In a complete CRL: where its delta CRLs are (freshest CRL, RFC 5280 section 5.2.6)."""


REASONS = frozenset({0, 1, 2, 3, 4, 5, 6, 9, 10})
"""CRLReasons of a complete CRL: 7 does not exist, removeFromCRL (8) is for delta CRLs."""

_VERSION_2 = der.integer(1)


def build_crl(template: CRLTemplate, issuer: IssuerFacts, private_key: PrivateKey) -> bytes:
    """DER of the signed CRL. ``private_key`` is the issuer's. Raises ``CRLError``."""
    return signatures.assemble(private_key, tbs_crl(template, issuer))


def tbs_crl(template: CRLTemplate, issuer: IssuerFacts) -> bytes:
    """DER of the TBSCertList (RFC 5280 section 5.1.2).

    Raises ``CRLError`` for a number that is negative or beyond 20 octets, times out of order, and what
    entries cannot say.
    """
    number = template.number
    if number < 0 or number.bit_length() > 159:
        raise CRLError("a CRL number is not negative and has at most 20 octets (RFC 5280 section 5.2.3)")
    if template.next_update <= template.this_update:
        raise CRLError("a CRL whose next update is not after this one")
    try:
        times = der.x509_time(template.this_update) + der.x509_time(template.next_update)
        revoked = b"".join(
            der.sequence(serial_number(e.serial), der.x509_time(e.revoked_at), _entry_extensions(e.reason))
            for e in template.entries
        )
        written = [
            issuer.authority_key_identifier,
            extensions.encode(extensions.CRL_NUMBER, False, der.integer(number)),
        ]
        if template.distribution_point_url is not None:
            point = der.sequence(distribution_point_name(template.distribution_point_url))
            written.append(extensions.encode(extensions.ISSUING_DISTRIBUTION_POINT, True, point))
    except CRLError:
        raise
    except ValueError as error:
        raise CRLError(str(error)) from error
    return der.sequence(
        _VERSION_2,
        issuer.signature_algorithm,
        issuer.name,
        times,
        # Absent, not empty, when nothing is revoked: RFC 5280 section 5.1.2.6.
        der.tlv(der.SEQUENCE, revoked) if revoked else b"",
        der.context(0, der.sequence(*written)),
    )


@lru_cache(maxsize=16)
def _entry_extensions(reason: int) -> bytes:
    if reason not in REASONS:
        raise CRLError(f"{reason} is no reason that a complete CRL can give (RFC 5280 section 5.3.1)")
    if reason == 0:
        return b""
    value = der.tlv(0x0A, bytes((reason,)))
    return der.sequence(extensions.encode(extensions.CRL_REASON, False, value))
