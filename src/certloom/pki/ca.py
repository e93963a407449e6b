"""CA certificates: roots and the CAs below them (RFC 5280 sections 4.2.1.3 and 4.2.1.9)."""

from __future__ import annotations

from certloom.pki import der, extensions, names, signatures
from certloom.pki.certificates import (
    TemplateError,
    access_extension,
    authority_key_identifier,
    distribution_point_extension,
    freshest_crl_extension,
    key_identifier,
    serial_number,
)
from certloom.pki.extensions import Extension
from certloom.pki.keys import PrivateKey, PublicKey, spki_of
from certloom.pki.names import Name
from certloom.pki.template import CATemplate, IssuerFacts

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
    template = CATemplate(
        serial=serial,
        spki=spki_of(private_key),
        subject=subject,
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
        key_usage=key_usage,
        extensions=more,
    )
    tbs = tbs_ca_certificate(template, None, signatures.algorithm_for(private_key))
    return signatures.assemble(private_key, tbs)


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
    template = CATemplate(
        serial=serial,
        spki=spki_of(public_key),
        subject=subject,
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
        key_usage=key_usage,
        extensions=more,
        crl_url=crl_url,
        issuer_url=issuer_url,
        ocsp_url=ocsp_url,
    )
    tbs = tbs_ca_certificate(template, issuer, signatures.algorithm_for(issuer_key))
    return signatures.assemble(issuer_key, tbs)


def tbs_ca_certificate(template: CATemplate, issuer: IssuerFacts | None, algorithm: bytes) -> bytes:
    """DER of the TBSCertificate; without ``issuer`` of a self-signed one.

    ``algorithm`` is the DER AlgorithmIdentifier of what signs it. Raises ``TemplateError``.
    """
    if not template.subject:
        raise TemplateError("a CA has a subject (RFC 5280 section 4.1.2.6)")
    if template.not_after < template.not_before:
        raise TemplateError("a certificate that ends before it begins")
    if "keyCertSign" not in template.key_usage:
        raise TemplateError("a CA's key usage has keyCertSign (RFC 5280 section 4.2.1.9)")
    length = template.path_length
    crl_url, issuer_url, ocsp_url = template.crl_url, template.issuer_url, template.ocsp_url
    try:
        subject = names.encode(template.subject)
        constraints = der.sequence(der.TRUE, b"" if length is None else der.integer(length))
        own = template.key_identifier or key_identifier(template.spki)
        usage = extensions.encode_key_usage(template.key_usage)
        written = [
            # A self-signed one may leave it out (RFC 5280 section 4.2.1.1); the TLS Baseline Requirements
            # want it there (section 7.1.2.1.3).
            authority_key_identifier(own) if issuer is None else issuer.authority_key_identifier,
            extensions.encode(extensions.SUBJECT_KEY_IDENTIFIER, False, der.octet_string(own)),
            extensions.encode(extensions.KEY_USAGE, True, usage),
            extensions.encode(extensions.BASIC_CONSTRAINTS, True, constraints),
            b"" if crl_url is None else distribution_point_extension(crl_url),
            b"" if template.delta_url is None else freshest_crl_extension(template.delta_url),
            b"" if issuer_url is None and ocsp_url is None else access_extension(ocsp_url, issuer_url),
            *(extensions.encode(e.oid, e.critical, e.value) for e in template.extensions),
        ]
        return der.sequence(
            der.context(0, der.integer(2)),
            serial_number(template.serial),
            algorithm,
            subject if issuer is None else issuer.name,
            der.sequence(der.x509_time(template.not_before), der.x509_time(template.not_after)),
            subject,
            template.spki,
            der.context(3, der.sequence(*written)),
        )
    except TemplateError:
        raise
    except ValueError as error:
        raise TemplateError(str(error)) from error
