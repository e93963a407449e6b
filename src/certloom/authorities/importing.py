"""Taking in what was made elsewhere: a CA with its key, a certificate to a CSR, a cross-certificate.

Everything is checked before anything is stored: that key and certificate fit, that it is a CA's, that it is
valid now, and that it leads to a root, by way of the authorities here and of certificates that come with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from certloom.authorities.certifying import HierarchyError
from certloom.authorities.creation import KeyPlace, NewCA, key_type, new_ca, stored_key, usual_shards
from certloom.authorities.generations import CATerms, GenerationBody
from certloom.authorities.local import LocalBody
from certloom.clock import Clock
from certloom.pki.ca_extensions import CERTIFICATE_POLICIES, read_policies
from certloom.pki.certificates import CertificateError, CertificateFacts, issuer_facts, parse_certificate
from certloom.pki.der import DERError
from certloom.pki.keys import (
    KeyRejected,
    facts_of,
    private_from_der,
    private_to_der,
    spki_of,
)
from certloom.pki.name_constraints import NAME_CONSTRAINTS, ConstraintError, NameConstraints, decode
from certloom.pki.paths import PathError, find_path, path_length
from certloom.signing import Signing
from certloom.store import authorities as statements
from certloom.store.authorities import StoredGeneration
from certloom.store.base import Store
from certloom.store.certificates import is_blocked
from certloom.store.ids import new_id

_MOST_CERTIFICATES = 20
MOST_OCTETS = 1 << 20
"""Of one file that comes with an import."""


class Material(msgspec.Struct, frozen=True):
    """A CA certificate as it was given, with what came with it."""

    certificate: bytes
    """DER."""
    others: tuple[bytes, ...] = ()
    """DER of certificates above it, in any order; the root may be among them."""
    pkcs8: bytes | None = None
    """Its private key, unencrypted."""

    def __repr__(self) -> str:
        return "Material(...)"


class Place(msgspec.Struct, frozen=True):
    """Where a CA certificate is in the world."""

    issuer: str | None
    """The authority here that issued it; None for a stranger, and for a root."""
    issuer_generation: int = 1
    above: tuple[bytes, ...] = ()
    """A stranger's certificates above it, without the root."""
    root: bytes | None = None
    """A stranger's root."""


async def read_pem(
    certificates: bytes, key: bytes | None = None, password: str | None = None, more: bytes = b""
) -> Material:
    """A CA certificate in PEM or DER, those above it after it (or in ``more``), and its key.

    Raises ``HierarchyError``.
    """
    found = _certificates(certificates)
    if not found:
        raise HierarchyError("there is no certificate in this")
    above = (*found[1:], *(_certificates(more) if more else ()))
    if len(above) > _MOST_CERTIFICATES:
        raise HierarchyError(f"more than {_MOST_CERTIFICATES} certificates")
    pkcs8 = None if key is None else await asyncio.to_thread(_private_key, key, password)
    return Material(found[0], above, pkcs8)


async def read_pkcs12(data: bytes, password: str | None, more: bytes = b"") -> Material:
    """A CA with its key, and perhaps those above it, out of a PKCS#12 file. Raises ``HierarchyError``."""
    # On a thread: how often the password is hashed is up to who made the file.
    material = await asyncio.to_thread(_pkcs12, data, password)
    return msgspec.structs.replace(
        material, others=(*material.others, *(_certificates(more) if more else ()))
    )


def _pkcs12(data: bytes, password: str | None) -> Material:
    _bounded(data)
    try:
        held = load_pkcs12(data, None if password is None else password.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise HierarchyError(f"this PKCS#12 does not open: {error}") from None
    if held.key is None or held.cert is None:
        raise HierarchyError("this PKCS#12 has no private key with its certificate")
    others = tuple(c.certificate.public_bytes(Encoding.DER) for c in held.additional_certs)
    return Material(held.cert.certificate.public_bytes(Encoding.DER), others, _pkcs8(held.key))


def _private_key(data: bytes, password: str | None) -> bytes:
    _bounded(data)
    load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    try:
        return _pkcs8(load(data, None if password is None else password.encode()))
    except TypeError:
        needs = password is None
        raise HierarchyError(
            "the private key is encrypted: give its password" if needs else "the private key is not encrypted"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HierarchyError(f"the private key cannot be read, or the password is wrong: {error}") from None


def _pkcs8(key: object) -> bytes:
    try:
        return private_to_der(key)  # type: ignore[arg-type] # kinds that are not taken are refused here
    except (AttributeError, KeyRejected, ValueError, TypeError):
        raise HierarchyError("a private key of a kind that is not supported") from None


def _certificates(data: bytes) -> tuple[bytes, ...]:
    _bounded(data)
    try:
        if b"-----BEGIN" not in data:
            parse_certificate(data)
            return (data,)
        found = tuple(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(data))
        for der in found:
            parse_certificate(der)
        return found
    except (CertificateError, ValueError) as error:
        raise HierarchyError(f"not a certificate: {error}") from None


def _bounded(data: bytes) -> None:
    if len(data) > MOST_OCTETS:
        raise HierarchyError(f"a file has at most {MOST_OCTETS} octets here")


def check_ca(der: bytes, now: int) -> CertificateFacts:
    """See that a certificate is one that can be issued under. Raises ``HierarchyError``."""
    try:
        issuer_facts(der)
        facts = parse_certificate(der)
    except CertificateError as error:
        raise HierarchyError(str(error)) from None
    if facts.key_usage and "cRLSign" not in facts.key_usage:
        raise HierarchyError("its key usage does not allow it to sign CRLs, so nothing could be revoked")
    if facts.not_after < now:
        raise HierarchyError("the certificate has expired")
    if facts.not_before > now:
        raise HierarchyError("the certificate is not valid yet")
    key_type(facts.spki)
    return facts


def locate(certificate: bytes, others: Sequence[bytes], here: Iterable[StoredGeneration], now: int) -> Place:
    """Where a CA certificate is: a root, under an authority here, or under strangers up to their root.

    Raises ``HierarchyError``.
    """
    own = {g.certificate: g for g in here if g.certificate is not None and g.certificate != certificate}
    try:
        path = find_path(certificate, (*own, *others), now)
    except PathError as error:
        raise HierarchyError(str(error)) from None
    if path.root is None:
        return Place(None)
    first = path.above[0] if path.above else path.root
    known = own.get(first)
    if known is not None:
        return Place(known.authority, known.generation)
    return Place(None, 1, path.above, path.root)


async def import_ca(
    store: Store,
    signing: Signing,
    clock: Clock,
    *,
    name: str,
    material: Material,
    crl_shards: int | None,
    options: LocalBody,
    place: KeyPlace | None = None,
) -> NewCA:
    """A CA with its key: the one in ``material``, or with ``place`` the one that is in a token.

    Raises ``HierarchyError`` and ``SigningError``.
    """
    now = clock.now()
    facts = check_ca(material.certificate, now)
    if material.pkcs8 is not None:
        _check_key(material.pkcs8, facts.spki)
    elif place is None or not place.token:
        raise HierarchyError("its private key is missing: give it, or say in which token it is")
    if await store.read(lambda tx: is_blocked(tx, facts_of(facts.spki).spki_sha256)):
        raise HierarchyError("this key is blocked: it was compromised", conflict=True)
    here = await store.scan(statements.generations)
    for generation in here:
        known = generation.certificate
        if known is not None and parse_certificate(known).spki == facts.spki:
            raise HierarchyError(
                f"this is the key of authority {generation.authority} already", conflict=True
            )
    where = locate(material.certificate, material.others, here, now)
    id = new_id(clock.now_ms())
    if material.pkcs8 is not None:
        made = await signing.adopt(id, "ca", name, material.pkcs8)
    else:
        assert place is not None
        made = await signing.attach(id, "ca", name, place.token)
        if made.spki != facts.spki:
            raise HierarchyError("the key in the token is not that of the certificate")
    return new_ca(
        name=name,
        key=stored_key(id, name, made, now),
        certificate=material.certificate,
        crl_shards=crl_shards or usual_shards(root=where.issuer is None and not where.above),
        issuer=where.issuer,
        options=options,
        body=GenerationBody(
            algorithm=key_type(facts.spki),
            token=place.token if place else "",
            terms=terms_of(facts),
            above=where.above,
            root=where.root,
            trusted_since=now,
        ),
        now=now,
    )


def terms_of(facts: CertificateFacts) -> CATerms:
    """What a CA certificate says beside names, key and validity, for one that follows it.

    Raises ``HierarchyError``.
    """
    try:
        return _terms_of(facts)
    except (CertificateError, DERError) as error:
        raise HierarchyError(f"an extension that cannot be read: {error}") from None


def _terms_of(facts: CertificateFacts) -> CATerms:
    values = {extension.oid: extension.value for extension in facts.extensions}
    constraints = NameConstraints()
    if NAME_CONSTRAINTS in values:
        try:
            constraints = decode(values[NAME_CONSTRAINTS])
        except ConstraintError as error:
            raise HierarchyError(str(error)) from None
    policies, cps = (
        read_policies(values[CERTIFICATE_POLICIES]) if CERTIFICATE_POLICIES in values else ((), "")
    )
    return CATerms(
        path_length=path_length(facts),
        permitted=constraints.permitted,
        excluded=constraints.excluded,
        policies=policies,
        cps=cps,
        extended_key_usage=facts.extended_key_usage,
    )


def _check_key(pkcs8: bytes, spki: bytes) -> None:
    try:
        fits = spki_of(private_from_der(pkcs8)) == spki
    except KeyRejected as error:
        raise HierarchyError(f"this private key cannot be used: {error}") from None
    if not fits:
        raise HierarchyError("the private key is not that of the certificate")
