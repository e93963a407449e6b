"""Distrusting our own certificates: what was issued is parsed anew and compared with what was decided.

Nothing here uses the writer, the reader or the tables that ``certificates.build_certificate`` is made
of. Parsing is ``cryptography``'s, and the expectations are spelled out a second time.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPublicKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID, SignatureAlgorithmOID

from certloom.pki.identifiers import to_general_name
from certloom.pki.template import CATemplate, CertificateTemplate, IssuerFacts


def recheck(der: bytes, template: CertificateTemplate, issuer: IssuerFacts) -> list[str]:
    """Every difference between this certificate and what was decided, in words; empty when there is none.

    Looked at: version, serial, signature algorithm, issuer, validity, subject, key, each extension with its
    criticality and value, that there is no other extension, and the issuer's signature over the very octets.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        signer = _signer(issuer.certificate)
        return _differences(certificate, der, template, signer, _expected_of(template, signer, certificate))
    except Exception as error:  # whatever a parser finds wrong with it is a difference
        return [f"the certificate cannot be read: {type(error).__name__}: {error}"]


def recheck_ca(der: bytes, template: CATemplate, issuer: IssuerFacts | None) -> list[str]:
    """The same for a CA certificate; without ``issuer`` a self-signed one, signed by its own key."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        signer = _signer(der if issuer is None else issuer.certificate)
        expected = _expected_of_ca(template, signer, certificate)
        return _differences(certificate, der, template, signer, expected)
    except Exception as error:  # whatever a parser finds wrong with it is a difference
        return [f"the certificate cannot be read: {type(error).__name__}: {error}"]


class _Signer(NamedTuple):
    subject: bytes
    key: CertificateIssuerPublicKeyTypes
    algorithm: x509.ObjectIdentifier | None
    """The signature algorithm its certificates bear; None for the algorithms that are the key's own."""
    ecdsa: ec.ECDSA | None
    authority: x509.AuthorityKeyIdentifier


@lru_cache(maxsize=64)
def _signer(certificate: bytes) -> _Signer:
    issuer = x509.load_der_x509_certificate(certificate)
    key = issuer.public_key()
    algorithm: x509.ObjectIdentifier | None = None
    ecdsa: ec.ECDSA | None = None
    if isinstance(key, rsa.RSAPublicKey):
        algorithm = SignatureAlgorithmOID.RSA_WITH_SHA256
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.key_size == 256:
            algorithm, ecdsa = SignatureAlgorithmOID.ECDSA_WITH_SHA256, ec.ECDSA(hashes.SHA256())
        elif key.curve.key_size == 384:
            algorithm, ecdsa = SignatureAlgorithmOID.ECDSA_WITH_SHA384, ec.ECDSA(hashes.SHA384())
        else:
            algorithm, ecdsa = SignatureAlgorithmOID.ECDSA_WITH_SHA512, ec.ECDSA(hashes.SHA512())
    else:
        # Ed25519, Ed448 and ML-DSA: the signature algorithm has the key algorithm's identifier.
        algorithm = issuer.public_key_algorithm_oid
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return _Signer(
        issuer.subject.public_bytes(),
        key,  # type: ignore[arg-type] # X25519 and such, which cannot sign, fail when verifying
        algorithm,
        ecdsa,
        x509.AuthorityKeyIdentifier(identifier, None, None),
    )


def _differences(
    certificate: x509.Certificate,
    der: bytes,
    template: CertificateTemplate | CATemplate,
    signer: _Signer,
    expected: _Expected,
) -> list[str]:
    """``expected`` is used up."""
    key = certificate.public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # Compared as two tuples, and looked at one by one only where those differ: this is on the hot path.
    fields = (
        certificate.version,
        certificate.serial_number,
        certificate.signature_algorithm_oid,
        certificate.issuer.public_bytes(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        _pairs(certificate.subject),
        spki,
    )
    decided = (
        x509.Version.v3,
        int.from_bytes(template.serial, "big"),
        signer.algorithm,
        signer.subject,
        datetime.fromtimestamp(template.not_before, UTC),
        datetime.fromtimestamp(template.not_after, UTC),
        template.subject.attributes,
        template.spki,
    )
    found: list[str] = []
    if fields != decided:
        found += [
            f"{name} is {is_!r}, decided was {was!r}"
            for name, is_, was in zip(_FIELDS, fields, decided, strict=True)
            if is_ != was
        ]

    for extension in certificate.extensions:
        oid = extension.oid.dotted_string
        if oid not in expected:
            found.append(f"extension {oid} was not decided")
            continue
        critical, value = expected.pop(oid)
        if extension.critical is not critical:
            found.append(f"extension {oid} is {'' if extension.critical else 'not '}critical")
        actual = extension.value
        if (actual.public_bytes() if isinstance(value, bytes) else actual) != value:
            found.append(f"extension {oid} is {actual!r}, decided was {value!r}")
    found.extend(f"extension {oid} is missing" for oid in expected)

    # cryptography hands out what it understood: see that it is what is written.
    tbs, signature = certificate.tbs_certificate_bytes, certificate.signature
    if der.find(tbs, 0, len(tbs) + 8) < 0 or not der.endswith(b"\x00" + signature):
        found.append("the octets that were signed are not those of the certificate")
    try:
        _verify(signer, signature, tbs)
    except InvalidSignature:
        found.append("the issuer's signature does not verify")
    return found


def _expected_of(template: CertificateTemplate, signer: _Signer, certificate: x509.Certificate) -> _Expected:
    added = template.extensions
    # Lists of SCTs differ from one certificate to the next, and would fill the cache for nothing.
    lists = [e for e in added if e.oid == _SCT_LIST] if added else []
    expected = _expected_by_profile(
        template.key_usage,
        template.extended_key_usage,
        template.crl_url,
        template.issuer_url,
        template.ocsp_url,
        template.delta_url,
        tuple([(e.oid, e.critical, e.value) for e in added if e.oid != _SCT_LIST]),
        signer.authority,
    ).copy()
    for one in lists:
        expected[one.oid] = (one.critical, one.value)
    expected[_SKI] = (False, _key_identifier(certificate.public_key()))
    if template.identifiers:
        names = x509.SubjectAlternativeName(map(to_general_name, template.identifiers))
        expected[_ALT_NAME] = (not template.subject.attributes, names)
    return expected


def _expected_of_ca(template: CATemplate, signer: _Signer, certificate: x509.Certificate) -> _Expected:
    expected: _Expected = {
        _CONSTRAINTS: (True, x509.BasicConstraints(ca=True, path_length=template.path_length)),
        _KEY_USAGE: (True, _key_usage(template.key_usage)),
        _SKI: (False, _key_identifier(certificate.public_key())),
        _AKI: (False, signer.authority),
    }
    if template.key_identifier is not None:
        expected[_SKI] = (False, x509.SubjectKeyIdentifier(template.key_identifier))
    _add_urls(expected, template.crl_url, template.issuer_url, template.ocsp_url, template.delta_url)
    for extension in template.extensions:
        expected[extension.oid] = (extension.critical, extension.value)
    return expected


_FIELDS = (
    "the version",
    "the serial number",
    "the signature algorithm",
    "the issuer",
    "notBefore",
    "notAfter",
    "the subject",
    "the key",
)


def _verify(signer: _Signer, signature: bytes, tbs: bytes) -> None:
    key = signer.key
    if isinstance(key, ec.EllipticCurvePublicKey) and signer.ecdsa is not None:
        key.verify(signature, tbs, signer.ecdsa)
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, tbs, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey | dsa.DSAPublicKey):
        raise InvalidSignature
    else:
        key.verify(signature, tbs)


def _pairs(name: x509.Name) -> tuple[tuple[str, object], ...]:
    """(OID, value) of every attribute; an RDN of several makes it longer than any name that was decided."""
    pairs = tuple((attribute.oid.dotted_string, attribute.value) for attribute in name)
    return pairs if len(pairs) == len(name.rdns) else (*pairs, ("several attributes in one RDN", ""))


_Expected = dict[str, tuple[bool, x509.ExtensionType | bytes]]
"""By dotted OID: criticality, and the value (or its DER, for what the profile adds)."""


@lru_cache(maxsize=1024)
def _expected_by_profile(
    key_usage: tuple[str, ...],
    extended_key_usage: tuple[str, ...],
    crl_url: str | None,
    issuer_url: str | None,
    ocsp_url: str | None,
    delta_url: str | None,
    extensions: tuple[tuple[str, bool, bytes], ...],
    authority: x509.AuthorityKeyIdentifier,
) -> _Expected:
    """The extensions that do not depend on the key and the names."""
    expected: _Expected = {_AKI: (False, authority), _CONSTRAINTS: (True, _END_ENTITY)}
    if key_usage:
        expected[_KEY_USAGE] = (True, _key_usage(key_usage))
    if extended_key_usage:
        expected[_EXTENDED_KEY_USAGE] = (False, _extended_key_usage(extended_key_usage))
    _add_urls(expected, crl_url, issuer_url, ocsp_url, delta_url)
    for oid, critical, value in extensions:
        expected[oid] = (critical, value)
    return expected


def _add_urls(
    expected: _Expected,
    crl_url: str | None,
    issuer_url: str | None,
    ocsp_url: str | None,
    delta_url: str | None,
) -> None:
    if crl_url is not None:
        expected[_CRL_POINTS] = (False, x509.CRLDistributionPoints([_crl_point(crl_url)]))
    if delta_url is not None:
        expected[_FRESHEST] = (False, x509.FreshestCRL([_crl_point(delta_url)]))
    if issuer_url is not None or ocsp_url is not None:
        expected[_ACCESS] = (False, _access(issuer_url, ocsp_url))


_AKI = ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string
_SKI = ExtensionOID.SUBJECT_KEY_IDENTIFIER.dotted_string
_CONSTRAINTS = ExtensionOID.BASIC_CONSTRAINTS.dotted_string
_KEY_USAGE = ExtensionOID.KEY_USAGE.dotted_string
_EXTENDED_KEY_USAGE = ExtensionOID.EXTENDED_KEY_USAGE.dotted_string
_ALT_NAME = ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string
_CRL_POINTS = ExtensionOID.CRL_DISTRIBUTION_POINTS.dotted_string
_FRESHEST = ExtensionOID.FRESHEST_CRL.dotted_string
_SCT_LIST = ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS.dotted_string
_ACCESS = ExtensionOID.AUTHORITY_INFORMATION_ACCESS.dotted_string
_END_ENTITY = x509.BasicConstraints(ca=False, path_length=None)


def _key_identifier(key: CertificatePublicKeyTypes) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier(hashlib.sha256(_key_octets(key)).digest()[:20])


def _key_octets(key: CertificatePublicKeyTypes) -> bytes:
    """What the BIT STRING of its SubjectPublicKeyInfo holds."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _key_usage(usage: tuple[str, ...]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digitalSignature" in usage,
        content_commitment="nonRepudiation" in usage or "contentCommitment" in usage,
        key_encipherment="keyEncipherment" in usage,
        data_encipherment="dataEncipherment" in usage,
        key_agreement="keyAgreement" in usage,
        key_cert_sign="keyCertSign" in usage,
        crl_sign="cRLSign" in usage,
        encipher_only="encipherOnly" in usage,
        decipher_only="decipherOnly" in usage,
    )


def _extended_key_usage(oids: tuple[str, ...]) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, oids))


def _crl_point(url: str) -> x509.DistributionPoint:
    return x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)


def _access(issuer_url: str | None, ocsp_url: str | None) -> x509.AuthorityInformationAccess:
    places = []
    if ocsp_url is not None:
        place = x509.UniformResourceIdentifier(ocsp_url)
        places.append(x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place))
    if issuer_url is not None:
        place = x509.UniformResourceIdentifier(issuer_url)
        places.append(x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place))
    return x509.AuthorityInformationAccess(places)
