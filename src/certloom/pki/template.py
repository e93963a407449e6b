"""What goes into a certificate and who signs it: the data that building and re-checking share."""

from __future__ import annotations

import msgspec

from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier
from certloom.pki.names import Name


class CertificateTemplate(msgspec.Struct, frozen=True):
    """Everything in an end-entity certificate but what comes from its issuer."""

    serial: bytes
    """Big-endian, without the DER sign octet; positive, at most 20 octets when encoded (RFC 5280 section
    4.1.2.2)."""
    spki: bytes
    """DER SubjectPublicKeyInfo."""
    subject: Name
    identifiers: tuple[Identifier, ...]
    not_before: int
    not_after: int
    """Unix seconds, inclusive (RFC 5280 section 4.1.2.5)."""
    key_usage: tuple[str, ...] = ()
    """RFC 5280 names; without any, the extension is left out."""
    extended_key_usage: tuple[str, ...] = ()
    """Dotted OIDs; without any, the extension is left out."""
    extensions: tuple[Extension, ...] = ()
    """More, in this order, after the others. None of those that are made from the fields above and below."""
    crl_url: str | None = None
    """Distribution point of the CRL shard that this certificate belongs to."""
    issuer_url: str | None = None
    """Where the issuer's certificate is (AIA caIssuers)."""
    ocsp_url: str | None = None
    """The OCSP responder (AIA)."""
    delta_url: str | None = None
    """Where the delta CRLs to ``crl_url`` are (freshest CRL, RFC 5280 section 4.2.1.15)."""


class CATemplate(msgspec.Struct, frozen=True):
    """Everything in a CA certificate but what comes from its issuer."""

    serial: bytes
    spki: bytes
    """DER SubjectPublicKeyInfo of the CA's key."""
    subject: Name
    not_before: int
    not_after: int
    """Unix seconds, inclusive."""
    path_length: int | None = None
    key_usage: tuple[str, ...] = ("digitalSignature", "keyCertSign", "cRLSign")
    extensions: tuple[Extension, ...] = ()
    """More, after the others: name constraints, certificate policies, extended key usage ..."""
    crl_url: str | None = None
    issuer_url: str | None = None
    ocsp_url: str | None = None
    delta_url: str | None = None
    """Where the delta CRLs to ``crl_url`` are (freshest CRL, RFC 5280 section 4.2.1.15)."""
    key_identifier: bytes | None = None
    """The subjectKeyIdentifier that other certificates of this CA have; None: derived from the key."""


class IssuerFacts(msgspec.Struct, frozen=True):
    """A CA certificate, with what certificates and CRLs repeat of it."""

    certificate: bytes
    """DER."""
    name: bytes
    """DER of its subject."""
    key_identifier: bytes
    """Its subjectKeyIdentifier."""
    spki: bytes
    """DER SubjectPublicKeyInfo."""
    signature_algorithm: bytes
    """DER AlgorithmIdentifier of what its key signs."""
    authority_key_identifier: bytes
    """DER of the complete AKI extension in what it issues."""
    not_after: int
    """Unix seconds, inclusive."""
