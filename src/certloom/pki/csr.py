"""PKCS#10 certificate requests (RFC 2986), with proof that the sender holds the private key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from certloom.pki import der, extensions, general_names, names, signatures
from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier, IdentifierError
from certloom.pki.keys import KeyRejected, PublicKeyFacts, facts_of, public_key
from certloom.pki.names import BadName, Name

MAX_SIZE = 64 * 1024
"""Octets of a request."""
MAX_IDENTIFIERS = 1000
"""Names in a request's subjectAltName."""

# RFC 2985 section 5.4.2, and the object identifier that old Windows senders use for the same.
_EXTENSION_REQUESTS = ("1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14")
_CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105 - an object identifier

_STATUS_REQUEST = 5
"""The TLS extension that OCSP must-staple asks for (RFC 7633 section 4.2.3.1)."""


_T = TypeVar("_T")


class CSRError(ValueError):
    """This certificate request cannot be used.

    ``code`` is ``csr-too-large``, ``malformed-csr``, ``bad-signature``, ``bad-signature-algorithm``,
    ``bad-subject``, ``duplicate-attribute``, ``duplicate-extension``, ``bad-extension``,
    ``bad-subject-alt-name``, one of ``IdentifierError``'s codes for a bad name in it, or one of
    ``KeyRejected``'s for a key of an unsupported kind.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CertificateRequest(msgspec.Struct, frozen=True):
    """A request whose signature has been verified with the key inside it."""

    der: bytes
    key: PublicKeyFacts
    """What the key is; whether it is fit is for ``keys.check_fit`` to say."""
    subject: Name
    identifiers: tuple[Identifier, ...]
    """From subjectAltName only, each once, in order."""
    common_name: str | None = None
    """The subject's last common name, as sent: it need not be an identifier."""
    key_usage: tuple[str, ...] = ()
    """RFC 5280 names, as asked for."""
    extended_key_usage: tuple[str, ...] = ()
    """Dotted OIDs, as asked for."""
    extensions: tuple[Extension, ...] = ()
    """All that were asked for, those above included."""
    challenge_password: str | None = None
    must_staple: bool = False
    """Whether the TLS feature extension asks for status_request (RFC 7633)."""
    attributes: tuple[tuple[str, bytes], ...] = ()
    """Others, in order: dotted OID, and the contents of the SET of its values in DER."""

    def attribute(self, oid: str) -> bytes | None:
        """The contents of an attribute's SET of values. Raises ``CSRError`` where it is there twice."""
        found = [values for other, values in self.attributes if other == oid]
        if len(found) > 1:
            raise CSRError("duplicate-attribute", f"the attribute {oid} is there twice")
        return found[0] if found else None


def parse_csr(data: bytes, *, verify: bool = True) -> CertificateRequest:
    """The request in these bytes of DER, its proof of possession verified over the bytes as received.

    Without ``verify`` the signature is not looked at: where the key is not the one to be certified. Raises
    ``CSRError``.
    """
    if len(data) > MAX_SIZE:
        raise CSRError("csr-too-large", f"a certificate request has at most {MAX_SIZE} octets")
    if data[:5] == b"-----":
        raise CSRError("malformed-csr", "this is PEM, where a PKCS #10 request in DER is wanted")
    try:
        return _parse(bytes(data), verify=verify)
    except der.DERError as error:
        raise CSRError("malformed-csr", f"not a PKCS #10 request in DER: {error}") from None
    except KeyRejected as error:
        raise CSRError(error.code, str(error)) from error
    except signatures.SignatureError as error:
        raise CSRError(error.code, f"no proof of possession: {error}") from None


def _parse(data: bytes, *, verify: bool) -> CertificateRequest:
    request = der.whole(data)
    begin = request.offset
    info = request.enter()
    signed = data[begin : request.offset]
    algorithm = request.raw(der.SEQUENCE)
    signature = request.bit_string()
    request.finish()

    if info.integer() != 0:
        raise CSRError("malformed-csr", "a PKCS #10 request has version 1 (RFC 2986 section 4.1)")
    try:
        subject = names.read(info.enter())
    except BadName as error:
        raise CSRError("bad-subject", f"the subject is not a name: {error}") from None
    key = facts_of(info.raw(der.SEQUENCE))
    # RFC 2986 wants the attributes even when there are none; some senders leave them out.
    asked, challenge_password, others = _attributes(info.enter(0xA0)) if info.more() else ((), None, ())
    info.finish()

    # Cheap refusals come before the signature.
    found = _by_oid(asked)
    common_names = subject.values(names.COMMON_NAME)
    csr = CertificateRequest(
        der=data,
        key=key,
        subject=subject,
        identifiers=_identifiers(found.get(extensions.SUBJECT_ALT_NAME)),
        common_name=common_names[-1] if common_names else None,
        key_usage=_decoded(extensions.decode_key_usage, found.get(extensions.KEY_USAGE)),
        extended_key_usage=_decoded(
            extensions.decode_extended_key_usage, found.get(extensions.EXTENDED_KEY_USAGE)
        ),
        extensions=asked,
        challenge_password=challenge_password,
        must_staple=_STATUS_REQUEST in _decoded(_tls_features, found.get(extensions.TLS_FEATURE)),
        attributes=others,
    )
    if verify:
        signatures.verify(public_key(key), algorithm, signature, signed)
    return csr


def _attributes(
    reader: der.Reader,
) -> tuple[tuple[Extension, ...], str | None, tuple[tuple[str, bytes], ...]]:
    """The extensions asked for, the challenge password, and other attributes as they are."""
    asked: tuple[Extension, ...] | None = None
    password: str | None = None
    others: list[tuple[str, bytes]] = []
    while reader.more():
        attribute = reader.enter()
        oid = attribute.oid()
        values = attribute.enter(der.SET)
        attribute.finish()
        if oid in _EXTENSION_REQUESTS:
            if asked is not None:
                raise CSRError("duplicate-attribute", "two attributes that ask for extensions")
            asked = extensions.decode_all(values.enter())
            values.finish()
        elif oid == _CHALLENGE_PASSWORD:
            if password is not None:
                raise CSRError("duplicate-attribute", "two challenge passwords")
            password = _password(*values.any())
            values.finish()
        else:
            others.append((oid, values.data[values.offset : values.end]))
    return asked or (), password, tuple(others)


def _password(tag: int, content: bytes) -> str:
    try:
        return names.text(tag, content)
    except BadName:
        raise CSRError(
            "malformed-csr", "the challenge password is not a string (RFC 2985 section 5.4.1)"
        ) from None


def _by_oid(asked: tuple[Extension, ...]) -> dict[str, Extension]:
    found = {extension.oid: extension for extension in asked}
    if len(found) != len(asked):
        raise CSRError("duplicate-extension", "an extension is asked for twice (RFC 5280 section 4.2)")
    return found


def _identifiers(extension: Extension | None) -> tuple[Identifier, ...]:
    if extension is None:
        return ()
    try:
        return general_names.decode(extension.value, MAX_IDENTIFIERS)
    except IdentifierError as error:
        raise CSRError(error.code, f"subjectAltName: {error}") from None
    except der.DERError as error:
        raise CSRError("bad-subject-alt-name", f"subjectAltName: {error}") from None


def _decoded(decode: Callable[[bytes], tuple[_T, ...]], extension: Extension | None) -> tuple[_T, ...]:
    if extension is None:
        return ()
    try:
        return decode(extension.value)
    except der.DERError as error:
        raise CSRError("bad-extension", f"extension {extension.oid}: {error}") from None


def _tls_features(value: bytes) -> tuple[int, ...]:
    reader = der.whole(value)
    features = []
    while reader.more():
        features.append(reader.integer())
    return tuple(features)


def tbs_csr(subject: Name, spki: bytes, *, ca: bool) -> bytes:
    """DER of a CertificationRequestInfo (RFC 2986 section 4.1) that asks, with ``ca``, for a CA
    certificate."""
    attributes = b""
    if ca:
        usage = extensions.encode_key_usage(("digitalSignature", "keyCertSign", "cRLSign"))
        asked = der.sequence(
            extensions.encode(extensions.BASIC_CONSTRAINTS, True, der.sequence(der.TRUE)),
            extensions.encode(extensions.KEY_USAGE, True, usage),
        )
        attributes = der.sequence(der.oid(_EXTENSION_REQUESTS[0]), der.set_of(asked))
    return der.sequence(der.integer(0), names.encode(subject), spki, der.context(0, attributes))
