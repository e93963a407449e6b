"""CA certificates: roots and the CAs below them (RFC 5280 sections 4.2.1.3 and 4.2.1.9)."""

from __future__ import annotations

from certloom.pki import der, extensions, names, signatures
from certloom.pki.certificates import (
    TemplateError,
    access_extension,
    distribution_point_extension,
    key_identifier,
    serial_number,
)
from certloom.pki.extensions import Extension
from certloom.pki.keys import PrivateKey, PublicKey, spki_of
from certloom.pki.names import Name
from certloom.pki.template import IssuerFacts

CA_KEY_USAGE = ("digitalSignature", "keyCertSign", "cRLSign")
"""What a CA's key does here: it also signs its own OCSP answers."""


def make_root(
    private_key: PrivateKey,
    *,
    subject: Name,
    serial: bytes,
    not_before: int,
    not_after: int,
    path_length: int | None = None,
    key_usage: tuple[str, ...] = CA_KEY_USAGE,
    more: tuple[Extension, ...] = (),
) -> bytes:
    """DER of a self-signed CA certificate. Times are Unix seconds, inclusive. Raises ``TemplateError``."""
    return _make(
        spki_of(private_key),
        issuer=None,
        issuer_key=private_key,
        subject=subject,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
        key_usage=key_usage,
        more=more,
        urls=(None, None, None),
    )


def make_ca(
    public_key: PublicKey,
    issuer: IssuerFacts,
    issuer_key: PrivateKey,
    *,
    subject: Name,
    serial: bytes,
    not_before: int,
    not_after: int,
    path_length: int | None = 0,
    key_usage: tuple[str, ...] = CA_KEY_USAGE,
    more: tuple[Extension, ...] = (),
    crl_url: str | None = None,
    issuer_url: str | None = None,
    ocsp_url: str | None = None,
) -> bytes:
    """DER of a CA certificate issued by another CA. Times are Unix seconds, inclusive.

    Raises ``TemplateError``.
    """
    return _make(
        spki_of(public_key),
        issuer=issuer,
        issuer_key=issuer_key,
        subject=subject,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
        key_usage=key_usage,
        more=more,
        urls=(crl_url, issuer_url, ocsp_url),
    )


def _make(
    spki: bytes,
    *,
    issuer: IssuerFacts | None,
    issuer_key: PrivateKey,
    subject: Name,
    serial: bytes,
    not_before: int,
    not_after: int,
    path_length: int | None,
    key_usage: tuple[str, ...],
    more: tuple[Extension, ...],
    urls: tuple[str | None, str | None, str | None],
) -> bytes:
    crl_url, issuer_url, ocsp_url = urls
    if not subject:
        raise TemplateError("a CA has a subject (RFC 5280 section 4.1.2.6)")
    if not_after < not_before:
        raise TemplateError("a certificate that ends before it begins")
    if "keyCertSign" not in key_usage:
        raise TemplateError("a CA's key usage has keyCertSign (RFC 5280 section 4.2.1.9)")
    algorithm = signatures.algorithm_for(issuer_key)
    try:
        subject_der = names.encode(subject)
        constraints = der.sequence(der.TRUE, b"" if path_length is None else der.integer(path_length))
        own_identifier = der.octet_string(key_identifier(spki))
        written = [
            b"" if issuer is None else issuer.authority_key_identifier,
            extensions.encode(extensions.SUBJECT_KEY_IDENTIFIER, False, own_identifier),
            extensions.encode(extensions.KEY_USAGE, True, extensions.encode_key_usage(key_usage)),
            extensions.encode(extensions.BASIC_CONSTRAINTS, True, constraints),
            b"" if crl_url is None else distribution_point_extension(crl_url),
            b"" if issuer_url is None and ocsp_url is None else access_extension(ocsp_url, issuer_url),
            *(extensions.encode(e.oid, e.critical, e.value) for e in more),
        ]
        tbs = der.sequence(
            der.context(0, der.integer(2)),
            serial_number(serial),
            algorithm,
            subject_der if issuer is None else issuer.name,
            der.sequence(der.x509_time(not_before), der.x509_time(not_after)),
            subject_der,
            spki,
            der.context(3, der.sequence(*written)),
        )
    except TemplateError:
        raise
    except ValueError as error:
        raise TemplateError(str(error)) from error
    return signatures.assemble(issuer_key, tbs)
