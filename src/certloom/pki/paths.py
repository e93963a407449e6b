"""CA certificates in a row: which issued which, up to a root (RFC 5280 section 6.1, for CA certificates)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from certloom.pki import der, extensions, signatures
from certloom.pki.certificates import CertificateError, CertificateFacts, parse_certificate
from certloom.pki.keys import KeyRejected, facts_of, public_key

_MOST = 16


class PathError(ValueError):
    """These certificates do not make a path: the message says why."""


class Path(msgspec.Struct, frozen=True):
    """A CA certificate and those above it."""

    above: tuple[bytes, ...]
    """DER, from its issuer up to, but without, the root."""
    root: bytes | None
    """DER of the self-signed certificate at the top; None where the certificate is that itself."""


def path_length(facts: CertificateFacts) -> int | None:
    """pathLenConstraint of a CA certificate; None where there is none. Raises ``CertificateError``."""
    for extension in facts.extensions:
        if extension.oid == extensions.BASIC_CONSTRAINTS:
            try:
                reader = der.whole(extension.value)
                if reader.peek() == der.BOOLEAN:
                    reader.boolean()
                return reader.integer() if reader.more() else None
            except der.DERError as error:
                raise CertificateError(f"basic constraints that cannot be read: {error}") from None
    return None


def is_self_issued(facts: CertificateFacts) -> bool:
    """Whether issuer and subject are one name (RFC 5280 section 3.2)."""
    return facts.issuer_der == facts.subject_der


def check_issued(certificate: bytes, issuer: bytes) -> None:
    """Raise ``PathError`` unless ``issuer``'s key signed ``certificate``, and its name stands in it."""
    try:
        child, parent = parse_certificate(certificate), parse_certificate(issuer)
    except CertificateError as error:
        raise PathError(str(error)) from None
    if child.issuer_der != parent.subject_der:
        raise PathError("the certificate was issued under another name than the issuer's")
    if not parent.is_ca or (parent.key_usage and "keyCertSign" not in parent.key_usage):
        raise PathError("the issuer's certificate is no CA's")
    try:
        _verify(certificate, parent.spki)
    except (KeyRejected, signatures.SignatureError, der.DERError) as error:
        raise PathError(f"the issuer's key did not sign the certificate: {error}") from None


def _verify(certificate: bytes, spki: bytes) -> None:
    whole = der.whole(certificate)
    tbs = whole.raw(der.SEQUENCE)
    algorithm = whole.raw(der.SEQUENCE)
    signatures.verify(public_key(facts_of(spki)), algorithm, whole.bit_string(), tbs)


def is_self_signed(certificate: bytes) -> bool:
    """Whether its own key signed it, under its own name."""
    try:
        check_issued(certificate, certificate)
    except PathError:
        return False
    return True


def find_path(certificate: bytes, among: Sequence[bytes], now: int) -> Path:
    """The way from a CA certificate up to a self-signed one, through certificates of ``among``.

    Checked: names, signatures, CA bits, validity at ``now``, path lengths. Raises ``PathError``.
    """
    above: list[bytes] = []
    at = certificate
    try:
        below = 0  # CA certificates under the one that is looked at, that are not self-issued
        while True:
            facts = parse_certificate(at)
            _check_one(facts, below, now)
            if is_self_signed(at):
                if not above:
                    return Path((), None)
                return Path(tuple(above[:-1]), at)
            if not is_self_issued(facts):
                below += 1
            at = _issuer(at, among)
            if at in above or at == certificate or len(above) >= _MOST:
                raise PathError("the certificates go round in a circle")
            above.append(at)
    except CertificateError as error:
        raise PathError(str(error)) from None


def _check_one(facts: CertificateFacts, below: int, now: int) -> None:
    if not facts.not_before <= now <= facts.not_after:
        raise PathError("a certificate on the way to the root has expired, or is not valid yet")
    if not facts.is_ca:
        raise PathError("a certificate on the way to the root is no CA's")
    limit = path_length(facts)
    if limit is not None and below > limit:
        raise PathError("a CA on the way to the root may not have so many CAs below it (path length)")


def _issuer(certificate: bytes, among: Sequence[bytes]) -> bytes:
    wrong: PathError | None = None
    for candidate in among:
        try:
            check_issued(certificate, candidate)
        except PathError as error:
            wrong = wrong or error
            continue
        return candidate
    raise PathError("its issuer is neither an authority here nor among the certificates that were given")
