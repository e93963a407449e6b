"""GeneralNames (RFC 5280 section 4.2.1.6) in DER, for the name forms that are identifiers here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from certloom.pki import der
from certloom.pki.identifiers import (
    Identifier,
    IdentifierError,
    IdentifierType,
    ip_from_octets,
    parse_dns,
    parse_email,
    parse_uri,
)

_RFC822_NAME = 0x81
_DNS_NAME = 0x82
_URI = 0x86
_IP_ADDRESS = 0x87

_UNSUPPORTED = {
    0xA0: "otherName",
    0xA3: "x400Address",
    0xA4: "directoryName",
    0xA5: "ediPartyName",
    0x88: "registeredID",
}


def encode_name(identifier: Identifier) -> bytes:
    """One GeneralName."""
    value = identifier.value
    match identifier.type:
        case IdentifierType.DNS:
            return der.tlv(_DNS_NAME, value.encode("ascii"))
        case IdentifierType.IP:
            return der.tlv(_IP_ADDRESS, ipaddress.ip_address(value).packed)
        case IdentifierType.URI:
            return der.tlv(_URI, value.encode("ascii"))
        case IdentifierType.EMAIL:
            return der.tlv(_RFC822_NAME, value.encode("ascii"))


def encode(identifiers: Iterable[Identifier]) -> bytes:
    """GeneralNames in the order given: subjectAltName's value."""
    return der.sequence(*map(encode_name, identifiers))


def decode(value: bytes, limit: int) -> tuple[Identifier, ...]:
    """The identifiers of a subjectAltName's value in order, each once.

    Raises ``der.DERError`` when it is not GeneralNames or is empty; ``IdentifierError`` when a name is bad
    or of a form that is no identifier here (``unsupported-name-form``), or when there are more than
    ``limit`` (``too-many-identifiers``).
    """
    reader = der.whole(value)
    names: dict[Identifier, None] = {}
    count = 0
    while reader.more():
        count += 1
        if count > limit:
            raise IdentifierError("too-many-identifiers", f"more than {limit} names")
        names[decode_name(*reader.any())] = None
    if not count:
        raise der.DERError("no name at all")
    return tuple(names)


def decode_name(tag: int, content: bytes) -> Identifier:
    """The identifier in one GeneralName, given its identifier octet and contents.

    Raises ``IdentifierError``; ``der.DERError`` for a tag that no GeneralName has.
    """
    if tag == _DNS_NAME:
        return parse_dns(_text(content))
    if tag == _IP_ADDRESS:
        return ip_from_octets(content)
    if tag == _URI:
        return parse_uri(_text(content))
    if tag == _RFC822_NAME:
        return parse_email(_text(content))
    form = _UNSUPPORTED.get(tag)
    if form is None:
        raise der.DERError(f"tag {tag:#04x} is not a GeneralName")
    raise IdentifierError("unsupported-name-form", f"names of form {form} are not supported")


def _text(content: bytes) -> str:
    # Octets beyond ASCII become characters that every parser refuses in its own words.
    return content.decode("ascii") if content.isascii() else content.decode("utf-8", "replace")
