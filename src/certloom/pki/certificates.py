"""Certificates (RFC 5280 section 4): building them, and reading what any certificate says.

Building writes the DER directly: what depends on the issuer alone, or repeats from one certificate to
the next, is encoded once. ``recheck`` then looks at the outcome with other eyes.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec

from certloom.pki import der, extensions, general_names, names, signatures
from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier, IdentifierError
from certloom.pki.keys import KeyRejected, PrivateKey, PublicKeyFacts, facts_of, public_key
from certloom.pki.names import BadName, Name
from certloom.pki.recheck import recheck
from certloom.pki.template import CertificateTemplate, IssuerFacts

__all__ = [
    "CertificateError",
    "CertificateFacts",
    "CertificateTemplate",
    "IssuerFacts",
    "TemplateError",
    "access_extension",
    "authority_key_identifier",
    "build_certificate",
    "distribution_point_extension",
    "distribution_point_name",
    "freshest_crl_extension",
    "issuer_facts",
    "key_identifier",
    "parse_certificate",
    "recheck",
    "serial_number",
    "tbs_certificate",
]


class TemplateError(ValueError):
    """There is no certificate like that: the message says why."""


class CertificateError(ValueError):
    """Not a certificate in DER, or not one that can be used for this."""


_VERSION_3 = der.context(0, der.integer(2))
_NOT_A_CA = extensions.encode(extensions.BASIC_CONSTRAINTS, True, der.sequence())
_MADE_HERE = frozenset(
    {
        extensions.SUBJECT_KEY_IDENTIFIER,
        extensions.KEY_USAGE,
        extensions.SUBJECT_ALT_NAME,
        extensions.BASIC_CONSTRAINTS,
        extensions.CRL_DISTRIBUTION_POINTS,
        extensions.FRESHEST_CRL,
        extensions.AUTHORITY_KEY_IDENTIFIER,
        extensions.EXTENDED_KEY_USAGE,
        extensions.AUTHORITY_INFORMATION_ACCESS,
    }
)


def build_certificate(template: CertificateTemplate, issuer: IssuerFacts, private_key: PrivateKey) -> bytes:
    """DER of the signed certificate. ``private_key`` is the issuer's.

    Raises ``TemplateError`` for a template that would not give a valid certificate.
    """
    return signatures.assemble(private_key, tbs_certificate(template, issuer))


def tbs_certificate(template: CertificateTemplate, issuer: IssuerFacts) -> bytes:
    """DER of the TBSCertificate (RFC 5280 section 4.1.2). Raises ``TemplateError``."""
    try:
        subject = names.encode(template.subject)
        validity = der.sequence(der.x509_time(template.not_before), der.x509_time(template.not_after))
        written = [
            issuer.authority_key_identifier,
            _subject_key_identifier(template.spki),
            _usage(template.key_usage, template.extended_key_usage),
        ]
        if template.identifiers:
            # Critical if and only if the subject is empty: RFC 5280 section 4.2.1.6.
            alt_names = general_names.encode(template.identifiers)
            written.append(extensions.encode(extensions.SUBJECT_ALT_NAME, not template.subject, alt_names))
        if template.crl_url is not None:
            written.append(distribution_point_extension(template.crl_url))
        if template.delta_url is not None:
            written.append(freshest_crl_extension(template.delta_url))
        if template.issuer_url is not None or template.ocsp_url is not None:
            written.append(access_extension(template.ocsp_url, template.issuer_url))
        if template.extensions:
            written.append(_others(template.extensions))
    except TemplateError:
        raise
    except ValueError as error:
        raise TemplateError(str(error)) from error
    if template.not_after < template.not_before:
        raise TemplateError("a certificate that ends before it begins")
    if not template.subject and not template.identifiers:
        raise TemplateError("a certificate that names nobody")
    return der.sequence(
        _VERSION_3,
        serial_number(template.serial),
        issuer.signature_algorithm,
        issuer.name,
        validity,
        subject,
        template.spki,
        der.context(3, der.sequence(*written)),
    )


def serial_number(serial: bytes) -> bytes:
    """DER of a serial given big-endian. Raises ``TemplateError`` unless positive and at most 20 octets."""
    encoded = der.unsigned(serial)
    if encoded == b"\x02\x01\x00" or len(encoded) > 22:
        raise TemplateError("a serial number has 1 to 20 octets and is positive (RFC 5280 4.1.2.2)")
    return encoded


def key_identifier(spki: bytes) -> bytes:
    """The leftmost 160 bits of SHA-256 over the key's BIT STRING contents (RFC 7093 section 2, method 1)."""
    reader = der.whole(spki)
    reader.enter()
    return hashlib.sha256(reader.bit_string()).digest()[:20]


def _subject_key_identifier(spki: bytes) -> bytes:
    return extensions.encode(extensions.SUBJECT_KEY_IDENTIFIER, False, der.octet_string(key_identifier(spki)))


@lru_cache(maxsize=256)
def _usage(key_usage: tuple[str, ...], extended_key_usage: tuple[str, ...]) -> bytes:
    """keyUsage, extendedKeyUsage and basicConstraints (CA:FALSE) of an end entity."""
    written = _NOT_A_CA
    if extended_key_usage:
        value = extensions.encode_extended_key_usage(extended_key_usage)
        written = extensions.encode(extensions.EXTENDED_KEY_USAGE, False, value) + written
    if key_usage:
        if "keyCertSign" in key_usage:
            raise TemplateError("keyCertSign in a certificate that is not a CA's (RFC 5280 section 4.2.1.9)")
        value = extensions.encode_key_usage(key_usage)
        written = extensions.encode(extensions.KEY_USAGE, True, value) + written
    return written


def _uri(url: str) -> bytes:
    try:
        return der.tlv(0x86, url.encode("ascii"))
    except UnicodeEncodeError:
        raise TemplateError(f"a URL is written in ASCII: {url!r}") from None


@lru_cache(maxsize=1024)
def distribution_point_name(*urls: str) -> bytes:
    """DER of a ``[0] DistributionPointName`` with these URLs: in the certificate's CRL distribution point
    and in the CRL's issuing distribution point, which must have one in common (RFC 5280 section 6.3.3)."""
    return der.context(0, der.context(0, b"".join(map(_uri, urls))))


@lru_cache(maxsize=1024)
def distribution_point_extension(url: str) -> bytes:
    """DER of the cRLDistributionPoints extension with this one URL. Raises ``TemplateError``."""
    value = der.sequence(der.sequence(distribution_point_name(url)))
    return extensions.encode(extensions.CRL_DISTRIBUTION_POINTS, False, value)


@lru_cache(maxsize=1024)
def freshest_crl_extension(url: str) -> bytes:
    """DER of the freshestCRL extension with this one URL (RFC 5280 sections 4.2.1.15 and 5.2.6), for
    certificates and complete CRLs. Raises ``TemplateError``."""
    value = der.sequence(der.sequence(distribution_point_name(url)))
    return extensions.encode(extensions.FRESHEST_CRL, False, value)


@lru_cache(maxsize=256)
def access_extension(ocsp_url: str | None, issuer_url: str | None) -> bytes:
    """DER of the authorityInfoAccess extension, given at least one of the two. Raises ``TemplateError``."""
    written = [
        der.sequence(der.oid(method), _uri(url))
        for method, url in ((extensions.AD_OCSP, ocsp_url), (extensions.AD_CA_ISSUERS, issuer_url))
        if url is not None
    ]
    return extensions.encode(extensions.AUTHORITY_INFORMATION_ACCESS, False, der.sequence(*written))


@lru_cache(maxsize=256)
def _others(more: tuple[Extension, ...]) -> bytes:
    oids = [extension.oid for extension in more]
    if len(set(oids)) != len(oids):
        raise TemplateError("the same extension twice")
    for oid in oids:
        if oid in _MADE_HERE:
            raise TemplateError(f"extension {oid} is made from the template's other fields")
    return b"".join(extensions.encode(e.oid, e.critical, e.value) for e in more)


# --- reading ---------------------------------------------------------------------------------


class CertificateFacts(msgspec.Struct, frozen=True):
    """What a certificate says, whoever issued it."""

    der: bytes
    sha256: bytes
    """Fingerprint: SHA-256 of the DER."""
    serial: bytes
    """Big-endian, without the DER sign octet."""
    issuer_der: bytes
    subject_der: bytes
    subject: Name
    not_before: int
    not_after: int
    """Unix seconds, inclusive."""
    spki: bytes
    key: PublicKeyFacts | None
    """None for a key of a kind that is not certified here."""
    signature_algorithm: bytes
    """DER AlgorithmIdentifier."""
    key_identifier: bytes | None
    authority_key_identifier: bytes | None
    identifiers: tuple[Identifier, ...]
    """From subjectAltName, canonical; names that cannot be represented are left out, see ``other_names``."""
    other_names: int
    """How many names of subjectAltName are not among ``identifiers``."""
    is_ca: bool
    key_usage: tuple[str, ...]
    extended_key_usage: tuple[str, ...]
    crl_urls: tuple[str, ...]
    extensions: tuple[Extension, ...]
    """All, in order."""


def parse_certificate(data: bytes) -> CertificateFacts:
    """What this DER certificate says. Its signature is not looked at. Raises ``CertificateError``."""
    try:
        return _parse(data)
    except (der.DERError, BadName) as error:
        raise CertificateError(f"not an X.509 certificate in DER: {error}") from None


def _parse(data: bytes) -> CertificateFacts:
    certificate = der.whole(data)
    tbs = certificate.enter()
    algorithm = certificate.raw(der.SEQUENCE)
    certificate.bit_string()
    certificate.finish()

    if tbs.peek() == 0xA0:
        version = tbs.enter(0xA0)
        version.integer()
        version.finish()
    serial = tbs.content(der.INTEGER)
    if tbs.raw(der.SEQUENCE) != algorithm:
        raise der.DERError("two signature algorithms that differ (RFC 5280 section 4.1.1.2)")
    issuer_der = tbs.raw(der.SEQUENCE)
    validity = tbs.enter()
    not_before, not_after = validity.time(), validity.time()
    subject_der = tbs.raw(der.SEQUENCE)
    spki = tbs.raw(der.SEQUENCE)
    for unique_identifier in (0x81, 0x82):
        if tbs.peek() == unique_identifier:
            tbs.content(unique_identifier)
    found: tuple[Extension, ...] = ()
    if tbs.more():
        wrapped = tbs.enter(0xA3)
        found = extensions.decode_all(wrapped.enter())
        wrapped.finish()
    tbs.finish()

    values = {extension.oid: extension.value for extension in found}
    if len(values) != len(found):
        raise der.DERError("the same extension twice (RFC 5280 section 4.2)")
    try:
        key = facts_of(spki)
    except KeyRejected:
        key = None
    identifiers, other_names = _alt_names(values.get(extensions.SUBJECT_ALT_NAME))
    key_id = values.get(extensions.SUBJECT_KEY_IDENTIFIER)
    usage = values.get(extensions.KEY_USAGE)
    extended = values.get(extensions.EXTENDED_KEY_USAGE)
    return CertificateFacts(
        der=data,
        sha256=hashlib.sha256(data).digest(),
        serial=serial.lstrip(b"\x00") or b"\x00",
        issuer_der=issuer_der,
        subject_der=subject_der,
        subject=names.decode(subject_der),
        not_before=not_before,
        not_after=not_after,
        spki=spki,
        key=key,
        signature_algorithm=algorithm,
        key_identifier=None if key_id is None else der.Reader(key_id).content(der.OCTET_STRING),
        authority_key_identifier=_authority_key_identifier(values.get(extensions.AUTHORITY_KEY_IDENTIFIER)),
        identifiers=identifiers,
        other_names=other_names,
        is_ca=_is_ca(values.get(extensions.BASIC_CONSTRAINTS)),
        key_usage=() if usage is None else extensions.decode_key_usage(usage),
        extended_key_usage=() if extended is None else extensions.decode_extended_key_usage(extended),
        crl_urls=_crl_urls(values.get(extensions.CRL_DISTRIBUTION_POINTS)),
        extensions=found,
    )


def _alt_names(value: bytes | None) -> tuple[tuple[Identifier, ...], int]:
    identifiers: dict[Identifier, None] = {}
    others = 0
    if value is not None:
        reader = der.whole(value)
        while reader.more():
            try:
                identifiers[general_names.decode_name(*reader.any())] = None
            except IdentifierError:
                others += 1
    return tuple(identifiers), others


def _authority_key_identifier(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    reader = der.whole(value)
    return reader.content(0x80) if reader.peek() == 0x80 else None


def _is_ca(value: bytes | None) -> bool:
    if value is None:
        return False
    reader = der.whole(value)
    return reader.peek() == der.BOOLEAN and reader.boolean()


def _crl_urls(value: bytes | None) -> tuple[str, ...]:
    urls = []
    if value is not None:
        points = der.whole(value)
        while points.more():
            point = points.enter()
            if point.peek() != 0xA0:
                continue
            name = point.enter(0xA0)
            if name.peek() != 0xA0:
                continue
            full = name.enter(0xA0)
            while full.more():
                tag, content = full.any()
                if tag == 0x86:
                    urls.append(content.decode("ascii", "replace"))
    return tuple(urls)


@lru_cache(maxsize=64)
def issuer_facts(certificate: bytes) -> IssuerFacts:
    """What certificates and CRLs repeat of their issuer, from its DER certificate.

    Raises ``CertificateError`` when it is no CA certificate, lacks a subject or a subjectKeyIdentifier, or
    has a key that cannot sign here.
    """
    facts = parse_certificate(certificate)
    if not facts.is_ca or (facts.key_usage and "keyCertSign" not in facts.key_usage):
        raise CertificateError("not a CA certificate")
    if facts.key_identifier is None or not facts.subject:
        raise CertificateError("a CA certificate without a subject or a subjectKeyIdentifier")
    if facts.key is None:
        raise CertificateError("a CA certificate with a key of a kind that is not supported")
    try:
        algorithm = signatures.algorithm_for(public_key(facts.key))
    except KeyRejected as error:
        raise CertificateError(str(error)) from None
    return IssuerFacts(
        certificate=certificate,
        name=facts.subject_der,
        key_identifier=facts.key_identifier,
        spki=facts.spki,
        signature_algorithm=algorithm,
        authority_key_identifier=authority_key_identifier(facts.key_identifier),
        not_after=facts.not_after,
    )


def authority_key_identifier(issuer_key_identifier: bytes) -> bytes:
    """DER of the AKI extension that names the issuer's key by its subjectKeyIdentifier."""
    value = der.sequence(der.context(0, issuer_key_identifier, constructed=False))
    return extensions.encode(extensions.AUTHORITY_KEY_IDENTIFIER, False, value)
