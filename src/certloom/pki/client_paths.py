"""Whether a client's certificate leads to a trust anchor, a stranger's perhaps (RFC 5280 section 6.1).

TLS has proved that its holder has the key; that a TLS library found some path to some anchor says nothing yet
of the anchors that count at one place, nor of what it was told to pass over. So it is looked at here again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from certloom.pki import der, extensions, name_constraints, signatures
from certloom.pki.certificates import CertificateError, CertificateFacts, parse_certificate
from certloom.pki.keys import KeyRejected, facts_of, public_key
from certloom.pki.name_constraints import NameConstraints
from certloom.pki.paths import PathError, is_self_issued, path_length

_MOST_BETWEEN = 6
_ANY_PURPOSE = "2.5.29.37.0"
_NAME_CONSTRAINTS = "2.5.29.30"

# Extensions that are either heeded here, or restrict nothing about a client.
_UNDERSTOOD = frozenset(
    {
        extensions.SUBJECT_KEY_IDENTIFIER,
        extensions.KEY_USAGE,
        extensions.SUBJECT_ALT_NAME,
        extensions.BASIC_CONSTRAINTS,
        extensions.CRL_DISTRIBUTION_POINTS,
        extensions.AUTHORITY_KEY_IDENTIFIER,
        extensions.EXTENDED_KEY_USAGE,
        _NAME_CONSTRAINTS,
        "2.5.29.32",  # certificatePolicies: no policy is asked for
    }
)


class ClientPath(msgspec.Struct, frozen=True):
    """How a certificate leads to an anchor."""

    anchor: bytes
    """DER."""
    between: tuple[bytes, ...]
    """DER, from the certificate's issuer up to, but without, the anchor."""


def find_client_path(
    certificate: bytes,
    sent: Sequence[bytes],
    anchors: Sequence[bytes],
    now: int,
    *,
    purpose: str = extensions.CLIENT_AUTH,
    grace: int = 0,
) -> ClientPath:
    """A way from a client's certificate to one of ``anchors``, through certificates that it ``sent``.

    ``grace``: seconds for which the certificate itself may have expired. Its extended key usage, if it has
    one, must name ``purpose`` or any. Anchors need not be self-signed, and their own times do not count (RFC
    5280 section 6.1.1 d takes of an anchor its name and key only). Raises ``PathError``.
    """
    try:
        leaf = parse_certificate(certificate)
        _check_leaf(leaf, now, purpose, grace)
        for path in _ways(certificate, tuple(sent[:_MOST_BETWEEN]), tuple(anchors), ()):
            _check_way(leaf, path, now)
            return path
    except CertificateError as error:
        raise PathError(str(error)) from None
    raise PathError("the certificate does not come from an issuer that is trusted here")


def _check_leaf(leaf: CertificateFacts, now: int, purpose: str, grace: int) -> None:
    if now < leaf.not_before:
        raise PathError("the certificate is not valid yet")
    if now > leaf.not_after + grace:
        raise PathError("the certificate has expired")
    if leaf.is_ca:
        raise PathError("the certificate is a CA's, and no client's")
    if leaf.key_usage and "digitalSignature" not in leaf.key_usage:
        raise PathError("the certificate's key is not for signatures (key usage)")
    if leaf.extended_key_usage and not {purpose, _ANY_PURPOSE} & set(leaf.extended_key_usage):
        raise PathError("the certificate is not for this purpose (extended key usage)")
    _check_critical(leaf)


def _check_critical(facts: CertificateFacts) -> None:
    for extension in facts.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise PathError(f"the certificate has a critical extension that is not known: {extension.oid}")


def _ways(
    certificate: bytes, sent: tuple[bytes, ...], anchors: tuple[bytes, ...], above: tuple[bytes, ...]
) -> list[ClientPath]:
    """The first way up, if there is one: names and signatures are right all along it."""
    for anchor in anchors:
        if _signed(certificate, anchor):
            return [ClientPath(anchor, above)]
    if len(above) < _MOST_BETWEEN:
        for candidate in sent:
            if candidate not in above and candidate != certificate and _signed(certificate, candidate):
                found = _ways(candidate, sent, anchors, (*above, candidate))
                if found:
                    return found
    return []


@lru_cache(maxsize=4096)
def _signed(certificate: bytes, issuer: bytes) -> bool:
    """Whether a CA's key signed it, under the CA's name. Remembered: a device asks again and again."""
    try:
        child, parent = parse_certificate(certificate), parse_certificate(issuer)
    except CertificateError:
        return False  # what was sent along may be anything
    if child.issuer_der != parent.subject_der:
        return False
    wanted = child.authority_key_identifier
    if wanted is not None and parent.key_identifier is not None and wanted != parent.key_identifier:
        return False
    if not parent.is_ca or (parent.key_usage and "keyCertSign" not in parent.key_usage):
        return False
    whole = der.whole(certificate)
    tbs = whole.raw(der.SEQUENCE)
    algorithm = whole.raw(der.SEQUENCE)
    try:
        signatures.verify(public_key(facts_of(parent.spki)), algorithm, whole.bit_string(), tbs)
    except (KeyRejected, signatures.SignatureError, der.DERError):
        return False
    return True


def _check_way(leaf: CertificateFacts, path: ClientPath, now: int) -> None:
    below = 0  # CA certificates under the one that is looked at, that are not self-issued
    for certificate in (*path.between, path.anchor):
        facts = parse_certificate(certificate)
        if certificate != path.anchor:
            if not facts.not_before <= now <= facts.not_after:
                raise PathError("a certificate between the client's and the anchor has expired")
            _check_critical(facts)
        limit = path_length(facts)
        if limit is not None and below > limit:
            raise PathError("a CA on the way to the anchor may not have so many CAs below it (path length)")
        for constraints in _constraints(facts):
            if name_constraints.violations(constraints, leaf.subject, leaf.identifiers):
                raise PathError("a CA on the way to the anchor may not certify such names (name constraints)")
        if not is_self_issued(facts):
            below += 1


def _constraints(facts: CertificateFacts) -> list[NameConstraints]:
    try:
        return [
            name_constraints.decode(extension.value)
            for extension in facts.extensions
            if extension.oid == _NAME_CONSTRAINTS
        ]
    except (der.DERError, name_constraints.ConstraintError) as error:
        raise PathError(f"name constraints that cannot be read: {error}") from None
