"""Certificate revocation lists (RFC 5280 section 5), version 2: complete ones and delta CRLs.

A list may have a million entries, so these are encoded apart (``encode_entries``, well under a microsecond
each) and put into the list as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from certloom.pki import der, extensions, signatures
from certloom.pki.certificates import distribution_point_name, freshest_crl_extension, serial_number
from certloom.pki.keys import KeyRejected, PrivateKey, facts_of, public_key
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
    encoded: bytes = b""
    """More entries, as ``encode_entries`` makes them."""
    former_urls: tuple[str, ...] = ()
    """Further URLs that certificates may carry instead of ``distribution_point_url``."""

    def __repr__(self) -> str:
        return f"CRLTemplate(number={self.number}, octets={len(self.encoded)})"


REMOVED = 8
"""removeFromCRL: the certificate is on hold no more, or has expired. In delta CRLs only."""
REASONS = frozenset({0, 1, 2, 3, 4, 5, 6, 9, 10})
"""CRLReasons of a complete CRL: 7 does not exist, removeFromCRL (8) is for delta CRLs."""

_VERSION_2 = der.integer(1)
_DELTA_CRL_INDICATOR = "2.5.29.27"
_MOST_NUMBER_BITS = 159
_SERIAL_OCTETS = 16
_REVOKED = der.SEQUENCE


def build_crl(template: CRLTemplate, issuer: IssuerFacts, private_key: PrivateKey) -> bytes:
    """DER of the signed CRL. ``private_key`` is the issuer's. Raises ``CRLError``."""
    return signatures.assemble(private_key, tbs_crl(template, issuer))


def tbs_crl(template: CRLTemplate, issuer: IssuerFacts) -> bytes:
    """DER of the TBSCertList (RFC 5280 section 5.1.2).

    Raises ``CRLError`` for a number that is negative or beyond 20 octets, times out of order, and what
    entries cannot say.
    """
    number, base = template.number, template.base_number
    if number < 0 or number.bit_length() > _MOST_NUMBER_BITS:
        raise CRLError("a CRL number is not negative and has at most 20 octets (RFC 5280 section 5.2.3)")
    if base is not None and not 0 <= base < number:
        raise CRLError("a delta CRL whose base is not an earlier CRL (RFC 5280 section 5.2.4)")
    if base is not None and template.delta_url is not None:
        raise CRLError("freshest CRL in a delta CRL (RFC 5280 section 5.2.6)")
    if template.next_update <= template.this_update:
        raise CRLError("a CRL whose next update is not after this one")
    rows = ((e.serial, e.revoked_at, e.reason) for e in template.entries)
    revoked = encode_entries(rows, delta=base is not None) + template.encoded
    try:
        times = der.x509_time(template.this_update) + der.x509_time(template.next_update)
        written = [
            issuer.authority_key_identifier,
            extensions.encode(extensions.CRL_NUMBER, False, der.integer(number)),
        ]
        if base is not None:
            written.append(extensions.encode(_DELTA_CRL_INDICATOR, True, der.integer(base)))
        if template.distribution_point_url is not None:
            point = der.sequence(
                distribution_point_name(template.distribution_point_url, *template.former_urls)
            )
            written.append(extensions.encode(extensions.ISSUING_DISTRIBUTION_POINT, True, point))
        if template.delta_url is not None:
            written.append(freshest_crl_extension(template.delta_url))
    except ValueError as error:
        raise CRLError(str(error)) from error
    return der.sequence(
        _VERSION_2,
        issuer.signature_algorithm,
        issuer.name,
        times,
        # Absent, not empty, when nothing is revoked: RFC 5280 section 5.1.2.6.
        der.tlv(_REVOKED, revoked) if revoked else b"",
        der.context(0, der.sequence(*written)),
    )


def encode_entries(rows: Iterable[tuple[bytes, int, int]], *, delta: bool = False) -> bytes:
    """DER of revokedCertificates' elements, one after another, from (serial, Unix seconds, reason).

    ``removeFromCRL`` goes into delta CRLs only. Raises ``CRLError``.
    """
    # Most serials have our own length, and times and reasons repeat: then an entry is three pieces joined.
    pieces: dict[tuple[int, int], tuple[bytes, bytes, bytes]] = {}
    found: list[bytes] = []
    append = found.append
    try:
        for serial, revoked_at, reason in rows:
            key = (revoked_at, reason)
            known = pieces.get(key)
            if known is None:
                tail = der.x509_time(revoked_at) + _entry_extensions(reason, delta)
                low = len(tail) + 2 + _SERIAL_OCTETS
                known = pieces[key] = (
                    bytes((_REVOKED, low, der.INTEGER, _SERIAL_OCTETS)),
                    bytes((_REVOKED, low + 1, der.INTEGER, _SERIAL_OCTETS + 1, 0)),
                    tail,
                )
            if len(serial) == _SERIAL_OCTETS and serial[0]:
                append(known[serial[0] >> 7])
                append(serial)
                append(known[2])
            else:
                append(der.sequence(serial_number(serial), known[2]))
    except CRLError:
        raise
    except ValueError as error:
        raise CRLError(str(error)) from error
    return b"".join(found)


@lru_cache(maxsize=32)
def _entry_extensions(reason: int, delta: bool) -> bytes:
    if reason not in REASONS and not (delta and reason == REMOVED):
        kind = "delta" if delta else "complete"
        raise CRLError(f"{reason} is no reason that a {kind} CRL can give (RFC 5280 section 5.3.1)")
    if reason == 0:
        return b""
    value = der.tlv(0x0A, bytes((reason,)))
    return der.sequence(extensions.encode(extensions.CRL_REASON, False, value))


def recheck_crl(data: bytes, template: CRLTemplate, issuer: IssuerFacts) -> list[str]:
    """How a CRL differs from what was to be said, or that its signature is not the issuer's; empty if not
    at all.

    It is read by what reads other people's, at a cost that hardly depends on its length.
    """
    try:
        return list(_differences(data, template, issuer))
    except (der.DERError, KeyRejected, UnsupportedAlgorithm, ValueError) as error:
        return [f"it cannot be read: {error}"]


def _differences(data: bytes, template: CRLTemplate, issuer: IssuerFacts) -> Iterable[str]:
    crl = der.whole(data)
    signed = crl.raw(der.SEQUENCE)
    algorithm = crl.raw(der.SEQUENCE)
    signature = crl.bit_string()
    crl.finish()
    tbs = der.whole(signed)
    if tbs.integer() != 1:
        yield "version"
    if tbs.raw(der.SEQUENCE) != algorithm or algorithm != issuer.signature_algorithm:
        yield "signature algorithm"
    if tbs.raw(der.SEQUENCE) != issuer.name:
        yield "issuer"
    if (tbs.time(), tbs.time()) != (template.this_update, template.next_update):
        yield "times"
    revoked = tbs.content(der.SEQUENCE) if tbs.peek() == der.SEQUENCE else b""
    wrapped = tbs.enter(0xA0)
    found = {e.oid: e for e in extensions.decode_all(wrapped.enter())}
    tbs.finish()
    rows = [(e.serial, e.revoked_at, e.reason) for e in template.entries]
    if revoked != encode_entries(rows, delta=template.base_number is not None) + template.encoded:
        yield "entries"
    number = found.pop(extensions.CRL_NUMBER, None)
    if number is None or number.critical or der.Reader(number.value).integer() != template.number:
        yield "number"
    key = found.pop(extensions.AUTHORITY_KEY_IDENTIFIER, None)
    if key is None or issuer.key_identifier not in key.value:
        yield "authority key identifier"
    base = found.pop(_DELTA_CRL_INDICATOR, None)
    if (None if base is None else der.Reader(base.value).integer()) != template.base_number or (
        base is not None and not base.critical
    ):
        yield "base"
    point, delta = template.distribution_point_url, template.delta_url
    for oid, urls, critical, what in (
        (
            extensions.ISSUING_DISTRIBUTION_POINT,
            () if point is None else (point, *template.former_urls),
            True,
            "distribution point",
        ),
        (extensions.FRESHEST_CRL, () if delta is None else (delta,), False, "freshest CRL"),
    ):
        extension = found.pop(oid, None)
        if (extension is None) != (not urls):
            yield what
        elif extension is not None:
            written = b"".join(der.tlv(0x86, url.encode("ascii")) for url in urls)
            if extension.critical != critical or not extension.value.endswith(written):
                yield what
    if found:
        yield f"extensions {', '.join(found)}"
    public = public_key(facts_of(issuer.spki))
    try:
        signatures.verify(public, algorithm, signature, signed)
    except signatures.SignatureError:
        yield "signature"
