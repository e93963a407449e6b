"""Controls of CRMF (RFC 4211 section 6), which say more about a request than its template.

Object identifiers are dotted, and raw values are complete TLVs unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from certloom.pki import der, names
from certloom.pki.crmf_mac import CRMFError
from certloom.pki.crmf_template import read_serial
from certloom.pki.der import DERError, Reader
from certloom.pki.names import Name

_MAX_ATTRIBUTES = 32
"""Controls, or items of regInfo, that one message may have; and places to publish one certificate."""

_REG_CTRL = "1.3.6.1.5.5.7.5.1"
_REG_TOKEN = f"{_REG_CTRL}.1"
_AUTHENTICATOR = f"{_REG_CTRL}.2"
_PUBLICATION_INFO = f"{_REG_CTRL}.3"
_ARCHIVE_OPTIONS = f"{_REG_CTRL}.4"
_OLD_CERT_ID = f"{_REG_CTRL}.5"
_PROTOCOL_ENCR_KEY = f"{_REG_CTRL}.6"


class AttributeTypeAndValue(msgspec.Struct, frozen=True):
    """A control or an item of regInfo that is not known here."""

    oid: str
    value: bytes


class RegToken(msgspec.Struct, frozen=True):
    """A one-time secret that says who asks (section 6.1)."""

    value: str


class Authenticator(msgspec.Struct, frozen=True):
    """A lasting secret that says who asks (section 6.2)."""

    value: str


class SinglePubInfo(msgspec.Struct, frozen=True):
    """Where a certificate is to be published."""

    method: int
    """0 anywhere, 1 X.500, 2 web, 3 LDAP."""
    location: bytes | None = None
    """GeneralName."""


class PKIPublicationInfo(msgspec.Struct, frozen=True):
    """Whether the certificate is to be published, and where (section 6.3)."""

    please_publish: bool
    places: tuple[SinglePubInfo, ...] = ()


class PKIArchiveOptions(msgspec.Struct, frozen=True):
    """A wish to have the private key archived (section 6.4): noted, and looked into no further."""

    value: bytes


class OldCertID(msgspec.Struct, frozen=True):
    """The certificate that is to be replaced (section 6.5)."""

    issuer: bytes
    """GeneralName."""
    serial: bytes
    """Big-endian, without the DER sign octet."""


class ProtocolEncrKey(msgspec.Struct, frozen=True):
    """The key that answers may be encrypted to (section 6.6)."""

    spki: bytes


Control: TypeAlias = (
    RegToken
    | Authenticator
    | PKIPublicationInfo
    | PKIArchiveOptions
    | OldCertID
    | ProtocolEncrKey
    | AttributeTypeAndValue
)


def read_attributes(reader: Reader) -> tuple[AttributeTypeAndValue, ...]:
    """At least one, and each once."""
    found: dict[str, AttributeTypeAndValue] = {}
    while reader.more():
        pair = reader.enter()
        oid = pair.oid()
        value = _any(pair)
        pair.finish()
        if oid in found:
            raise CRMFError("duplicate-control", f"{oid} is there twice")
        if len(found) == _MAX_ATTRIBUTES:
            raise CRMFError("too-many-controls", f"more than {_MAX_ATTRIBUTES} controls")
        found[oid] = AttributeTypeAndValue(oid, value)
    if not found:
        raise DERError("a list of controls without any")
    return tuple(found.values())


def _any(reader: Reader) -> bytes:
    """The next TLV, whatever it is."""
    begin = reader.offset
    reader.any()
    return reader.data[begin : reader.offset]


def read_control(item: AttributeTypeAndValue) -> Control:
    reader = Reader(item.value)
    control: Control = item
    if item.oid == _REG_TOKEN:
        control = RegToken(_utf8(reader))
    elif item.oid == _AUTHENTICATOR:
        control = Authenticator(_utf8(reader))
    elif item.oid == _PUBLICATION_INFO:
        control = read_publication_info(reader.enter())
    elif item.oid == _ARCHIVE_OPTIONS:
        control = PKIArchiveOptions(item.value)
    elif item.oid == _OLD_CERT_ID:
        both = reader.enter()
        control = OldCertID(read_general_name(both), read_serial(both))
        both.finish()
    elif item.oid == _PROTOCOL_ENCR_KEY:
        control = ProtocolEncrKey(reader.raw(der.SEQUENCE))
    else:
        return item
    if not isinstance(control, PKIArchiveOptions):
        reader.finish()
    return control


def _utf8(reader: Reader) -> str:
    return names.text(der.UTF8_STRING, reader.content(der.UTF8_STRING))


def read_publication_info(fields: Reader) -> PKIPublicationInfo:
    """From a reader over the fields of a PKIPublicationInfo. Raises ``DERError``."""
    action = fields.integer()
    if action not in (0, 1):
        raise DERError("an action on publication that does not exist")
    found: list[SinglePubInfo] = []
    if fields.more():
        if not action:
            raise DERError("places to publish what shall not be published")
        places = fields.enter()
        fields.finish()
        while places.more():
            if len(found) == _MAX_ATTRIBUTES:
                raise DERError("too many places to publish a certificate")
            place = places.enter()
            method = place.integer()
            if not 0 <= method <= 3:
                raise DERError("a method of publication that does not exist")
            found.append(SinglePubInfo(method, read_general_name(place) if place.more() else None))
            place.finish()
        if not found:
            raise DERError("a list of places without any")
    return PKIPublicationInfo(bool(action), tuple(found))


def read_general_name(reader: Reader) -> bytes:
    """The next TLV, which has the tag of a GeneralName (RFC 5280 section 4.2.1.6). Raises ``DERError``."""
    if reader.peek() not in (0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88):
        raise DERError("not a GeneralName")
    return reader.raw(reader.peek())


def general_name(name: Name) -> bytes:
    """GeneralName of the form directoryName."""
    return der.context(4, names.encode(name))


def encode_control(control: Control) -> bytes:
    match control:
        case RegToken(value):
            return _typed(_REG_TOKEN, der.tlv(der.UTF8_STRING, value.encode()))
        case Authenticator(value):
            return _typed(_AUTHENTICATOR, der.tlv(der.UTF8_STRING, value.encode()))
        case PKIPublicationInfo():
            return _typed(_PUBLICATION_INFO, encode_publication_info(control))
        case PKIArchiveOptions(raw):
            return _typed(_ARCHIVE_OPTIONS, raw)
        case OldCertID(issuer, serial):
            return _typed(_OLD_CERT_ID, der.sequence(issuer, der.unsigned(serial)))
        case ProtocolEncrKey(spki):
            return _typed(_PROTOCOL_ENCR_KEY, spki)
        case AttributeTypeAndValue():
            return encode_attribute(control)


def encode_publication_info(info: PKIPublicationInfo) -> bytes:
    """PKIPublicationInfo."""
    places = b"".join(der.sequence(der.integer(p.method), p.location or b"") for p in info.places)
    return der.sequence(der.integer(info.please_publish), der.sequence(places) if places else b"")


def encode_attribute(item: AttributeTypeAndValue) -> bytes:
    return _typed(item.oid, item.value)


def _typed(oid: str, value: bytes) -> bytes:
    return der.sequence(der.oid(oid), value)


def encode_attributes(pairs: Iterable[bytes]) -> bytes:
    joined = b"".join(pairs)
    return der.sequence(joined) if joined else b""
