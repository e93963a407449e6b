"""What the messages of CMS (RFC 5652) have in common: ContentInfo, who is named in them, and attributes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias, TypeVar

import msgspec

from certloom.pki import ber, der, extensions
from certloom.pki.der import DERError, Reader

DATA = "1.2.840.113549.1.7.1"
SIGNED_DATA = "1.2.840.113549.1.7.2"
ENVELOPED_DATA = "1.2.840.113549.1.7.3"
AUTH_ENVELOPED_DATA = "1.2.840.113549.1.9.16.1.23"


class CMSError(ValueError):
    """This is not the CMS that was expected, or its signature or key does not do. ``code`` is for machines.

    Reading: ``malformed``, ``wrong-content-type``. Verifying: ``no-content``, ``bad-attributes``,
    ``bad-digest``, ``bad-signature``, ``bad-signature-algorithm``, ``unsupported-key``. Encrypting:
    ``unsupported-key``, ``unsupported-cipher``. Decrypting: ``unsupported-cipher``,
    ``unsupported-key-encryption``, ``decryption-failed``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EntityIdentifier(msgspec.Struct, frozen=True):
    """Whose certificate is meant: a SignerIdentifier or a RecipientIdentifier."""

    der: bytes
    """As it stands in the message."""
    issuer: bytes = b""
    """DER Name; empty with ``key_identifier``."""
    serial: bytes = b""
    """Big-endian, without the DER sign octet."""
    key_identifier: bytes | None = None

    def names(self, certificate: bytes) -> bool:
        """Whether this DER certificate is the one; not, if it cannot be read."""
        try:
            parts = parts_of(certificate)
        except CMSError:
            return False
        if self.key_identifier is not None:
            return self.key_identifier == parts.key_identifier
        return self.der == parts.identifier.der


Attributes: TypeAlias = dict[str, tuple[bytes, ...]]
"""By object identifier: the values, each a complete TLV as received."""


_T = TypeVar("_T")


def read(data: bytes, parse: Callable[[bytes], _T]) -> _T:
    """What ``parse`` makes of this if it is DER, or else of its DER if it is BER. Raises ``CMSError``."""
    try:
        return parse(data)
    except DERError as error:
        reason = error
    try:
        rewritten = ber.definite(data)
        if rewritten != data:
            return parse(rewritten)
    except DERError as error:
        reason = error
    raise CMSError("malformed", f"malformed CMS: {reason}")


def open_content_info(data: bytes, *types: str) -> tuple[str, Reader]:
    """The type of a ContentInfo and a reader over its content's fields; the first of the types for a content
    that stands alone, as it does within other CMS and in CMP. Raises ``DERError`` and ``CMSError``."""
    outer = der.whole(data)
    if outer.peek() == der.INTEGER:
        return types[0], outer
    content_type = outer.oid()
    if content_type not in types:
        raise CMSError("wrong-content-type", f"CMS of type {content_type}; expected {' or '.join(types)}")
    wrapped = outer.enter(0xA0)
    outer.finish()
    inner = wrapped.enter()
    wrapped.finish()
    return content_type, inner


def next_tlv(reader: Reader) -> bytes:
    """The next TLV whatever it is, as received; tag numbers above 30 are refused. Raises ``DERError``."""
    tag = reader.peek()
    if tag & 0x1F == 0x1F:
        raise DERError("the data ends too early, or a tag number above 30")
    return reader.raw(tag)


def read_identifier(reader: Reader) -> EntityIdentifier:
    """The next SignerIdentifier or RecipientIdentifier. Raises ``DERError``."""
    if reader.peek() == 0x80:
        raw = reader.raw(0x80)
        return EntityIdentifier(raw, key_identifier=Reader(raw).content(0x80))
    raw = reader.raw(der.SEQUENCE)
    both = der.whole(raw)
    issuer, serial = both.raw(der.SEQUENCE), both.content(der.INTEGER)
    both.finish()
    return EntityIdentifier(raw, issuer, serial.lstrip(b"\x00") or b"\x00")


def read_attributes(reader: Reader) -> Attributes:
    """The attributes in a set. One that is there twice has the values of both. Raises ``DERError``."""
    found: dict[str, list[bytes]] = {}
    while reader.more():
        one = reader.enter()
        received = found.setdefault(one.oid(), [])
        values = one.enter(der.SET)
        one.finish()
        while values.more():
            received.append(next_tlv(values))
    return {oid: tuple(values) for oid, values in found.items()}


class CertificateParts(msgspec.Struct, frozen=True):
    """What CMS needs of a certificate, of which nothing else is looked at."""

    identifier: EntityIdentifier
    """By issuer and serial number."""
    key_identifier: bytes | None
    spki: bytes


_REMEMBERED = 16384
"""Octets of the largest certificate whose parts are remembered, so that nobody fills the memory."""


def parts_of(certificate: bytes) -> CertificateParts:
    """Of a DER certificate. Raises ``CMSError``."""
    return (_parts_of if len(certificate) <= _REMEMBERED else _parts_of.__wrapped__)(certificate)


@lru_cache(maxsize=128)
def _parts_of(certificate: bytes) -> CertificateParts:
    try:
        tbs = der.whole(certificate).enter()
        if tbs.peek() == 0xA0:
            tbs.content(0xA0)
        serial = tbs.raw(der.INTEGER)
        tbs.content(der.SEQUENCE)
        issuer = tbs.raw(der.SEQUENCE)
        tbs.content(der.SEQUENCE)
        tbs.content(der.SEQUENCE)
        spki = tbs.raw(der.SEQUENCE)
        key_identifier = None
        while tbs.more():
            tag, content = tbs.any()
            if tag == 0xA3:
                for extension in extensions.decode_all(der.whole(content)):
                    if extension.oid == extensions.SUBJECT_KEY_IDENTIFIER:
                        key_identifier = der.Reader(extension.value).content(der.OCTET_STRING)
        identifier = read_identifier(Reader(der.sequence(issuer, serial)))
    except DERError as error:
        raise CMSError("malformed", f"not an X.509 certificate in DER: {error}") from None
    return CertificateParts(identifier, key_identifier, spki)


def by_issuer_and_serial(certificate: bytes) -> EntityIdentifier:
    """How to name this DER certificate. Raises ``CMSError``."""
    return parts_of(certificate).identifier


def by_key_identifier(key_identifier: bytes) -> EntityIdentifier:
    """How to name the certificate with this subjectKeyIdentifier."""
    return EntityIdentifier(
        der.context(0, key_identifier, constructed=False), key_identifier=bytes(key_identifier)
    )


def attribute(oid: str, *values: bytes) -> bytes:
    """DER of an Attribute with these values, each a complete TLV."""
    return der.sequence(der.oid(oid), der.set_of(*values))
