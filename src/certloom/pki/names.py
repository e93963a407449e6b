"""Distinguished names (RFC 5280 section 4.1.2.4), as ordered attribute pairs.

Text form is that of RFC 4514: the most specific attribute first, so the reverse of the encoding.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec
from cryptography import x509

from certloom.pki import der

MAX_ATTRIBUTES = 64
"""Attributes that a name may have."""

COMMON_NAME = "2.5.4.3"
SERIAL_NUMBER = "2.5.4.5"
COUNTRY = "2.5.4.6"
ORGANIZATION = "2.5.4.10"
ORGANIZATIONAL_UNIT = "2.5.4.11"
DOMAIN_COMPONENT = "0.9.2342.19200300.100.1.25"
EMAIL_ADDRESS = "1.2.840.113549.1.9.1"


class Name(msgspec.Struct, frozen=True):
    """A distinguished name: RDNs of one attribute each, in encoding order, as (dotted OID, text)."""

    attributes: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.attributes)

    def values(self, oid: str) -> tuple[str, ...]:
        """The values of one attribute type, in encoding order."""
        return tuple(value for kind, value in self.attributes if kind == oid)


class BadName(ValueError):
    """Not a distinguished name, or one that RFC 5280 has no encoding for."""


_SHORT_NAMES = {
    "CN": COMMON_NAME,
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "O": ORGANIZATION,
    "OU": ORGANIZATIONAL_UNIT,
    "C": COUNTRY,
    "STREET": "2.5.4.9",
    "DC": DOMAIN_COMPONENT,
    "UID": "0.9.2342.19200300.100.1.1",
    "serialNumber": SERIAL_NUMBER,
    "SN": "2.5.4.4",
    "GN": "2.5.4.42",
    "title": "2.5.4.12",
    "businessCategory": "2.5.4.15",
    "postalCode": "2.5.4.17",
    "initials": "2.5.4.43",
    "generationQualifier": "2.5.4.44",
    "dnQualifier": "2.5.4.46",
    "pseudonym": "2.5.4.65",
    "organizationIdentifier": "2.5.4.97",
    "emailAddress": EMAIL_ADDRESS,
    "unstructuredName": "1.2.840.113549.1.9.2",
    "unstructuredAddress": "1.2.840.113549.1.9.8",
    "jurisdictionC": "1.3.6.1.4.1.311.60.2.1.3",
    "jurisdictionST": "1.3.6.1.4.1.311.60.2.1.2",
    "jurisdictionL": "1.3.6.1.4.1.311.60.2.1.1",
}
_OID_OF = {name.lower(): oid for name, oid in _SHORT_NAMES.items()} | {
    "commonname": COMMON_NAME,
    "email": EMAIL_ADDRESS,
    "e": EMAIL_ADDRESS,
    "surname": "2.5.4.4",
    "givenname": "2.5.4.42",
}
_SHORT_OF = {oid: name for name, oid in _SHORT_NAMES.items()}

_PRINTABLE_ONLY = {COUNTRY, SERIAL_NUMBER, "2.5.4.46", "1.3.6.1.4.1.311.60.2.1.3"}
_IA5_ONLY = {DOMAIN_COMPONENT, EMAIL_ADDRESS}
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*\Z")

# Upper bounds in characters, RFC 5280 appendix A.1 (domainComponent: RFC 1035).
_UPPER_BOUND = {
    COMMON_NAME: 64,
    SERIAL_NUMBER: 64,
    COUNTRY: 2,
    "1.3.6.1.4.1.311.60.2.1.3": 2,
    "2.5.4.7": 128,
    "2.5.4.8": 128,
    ORGANIZATION: 64,
    ORGANIZATIONAL_UNIT: 64,
    "2.5.4.12": 64,
    "2.5.4.65": 128,
    EMAIL_ADDRESS: 255,
    DOMAIN_COMPONENT: 63,
}
_DEFAULT_UPPER_BOUND = 32768

_DECODED_AS = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    der.TELETEX_STRING: "latin-1",  # what senders put there, whatever T.61 says
    der.BMP_STRING: "utf-16-be",
    der.UNIVERSAL_STRING: "utf-32-be",
    0x12: "ascii",  # NumericString
    0x1A: "ascii",  # VisibleString
}


def encode(name: Name) -> bytes:
    """DER of the name: PrintableString or IA5String where RFC 5280 prescribes it, else UTF8String.

    Raises ``BadName`` for an attribute that is empty, longer than its upper bound, or has characters its
    string type lacks.
    """
    return _encode(name.attributes)


@lru_cache(maxsize=1024)
def _encode(attributes: tuple[tuple[str, str], ...]) -> bytes:
    if len(attributes) > MAX_ATTRIBUTES:
        raise BadName(f"a name has at most {MAX_ATTRIBUTES} attributes")
    rdns = []
    for oid, value in attributes:
        label = _SHORT_OF.get(oid, oid)
        bound = _UPPER_BOUND.get(oid, _DEFAULT_UPPER_BOUND)
        if not 1 <= len(value) <= bound:
            raise BadName(f"{label} has 1 to {bound} characters, not {len(value)}")
        if bound == 2 and len(value) != 2:
            raise BadName(f"{label} is a two-letter country code, not {value!r}")
        if oid in _PRINTABLE_ONLY:
            if not _PRINTABLE.match(value):
                raise BadName(f"{label} cannot hold {value!r}: it is a PrintableString")
            text = der.tlv(der.PRINTABLE_STRING, value.encode("ascii"))
        elif oid in _IA5_ONLY:
            if not value.isascii():
                raise BadName(f"{label} cannot hold {value!r}: it is an IA5String")
            text = der.tlv(der.IA5_STRING, value.encode("ascii"))
        else:
            try:
                text = der.tlv(der.UTF8_STRING, value.encode("utf-8"))
            except UnicodeEncodeError:
                raise BadName(f"{label} is not Unicode text") from None
        try:
            rdns.append(der.tlv(der.SET, der.sequence(der.oid(oid), text)))
        except der.DERError as error:
            raise BadName(str(error)) from None
    return der.sequence(*rdns)


def decode(data: bytes) -> Name:
    """The name in this DER ``Name``. An RDN of several attributes is flattened in its encoded order, and a
    value that is no string becomes ``#`` and the hexadecimal of its DER (RFC 4514 section 2.4).

    Raises ``BadName``.
    """
    try:
        return read(der.whole(data))
    except der.DERError as error:
        raise BadName(str(error)) from None


def read(reader: der.Reader) -> Name:
    """As ``decode``, for a reader over a ``Name``'s contents. Raises ``BadName`` and ``der.DERError``."""
    attributes = []
    while reader.more():
        rdn = reader.enter(der.SET)
        if not rdn.more():
            raise BadName("a relative distinguished name without an attribute")
        while rdn.more():
            pair = rdn.enter()
            oid = pair.oid()
            tag, content = pair.any()
            pair.finish()
            value = text(tag, content) if tag in _DECODED_AS else "#" + der.tlv(tag, content).hex()
            attributes.append((oid, value))
            if len(attributes) > MAX_ATTRIBUTES:
                raise BadName(f"a name has at most {MAX_ATTRIBUTES} attributes")
    return Name(tuple(attributes))


def text(tag: int, content: bytes) -> str:
    """The text in an ASN.1 string, given its identifier octet and contents. Raises ``BadName``."""
    codec = _DECODED_AS.get(tag)
    if codec is None:
        raise BadName(f"tag {tag:#04x} is not a string")
    try:
        return content.decode(codec)
    except UnicodeDecodeError:
        raise BadName("a string that is not in its type's encoding") from None


def from_x509(name: x509.Name) -> Name:
    """From ``cryptography``'s. Raises ``BadName``."""
    return decode(name.public_bytes())


def to_x509(name: Name) -> x509.Name:
    """As ``cryptography`` has it. Raises ``BadName``, also for what is too long to it alone: it counts octets
    of UTF-8 where RFC 5280 counts characters."""
    encode(name)
    try:
        return x509.Name(
            [x509.NameAttribute(x509.ObjectIdentifier(o), value) for o, value in name.attributes]
        )
    except ValueError as error:
        raise BadName(str(error)) from None


def format_name(name: Name) -> str:
    """RFC 4514 text, the most specific attribute first: ``CN=a,O=b`` for O=b, CN=a in encoding order."""
    return ",".join(f"{_SHORT_OF.get(oid, oid)}={_escape(value)}" for oid, value in reversed(name.attributes))


def _escape(value: str) -> str:
    """RFC 4514 section 2.4."""
    escaped = re.sub(r'([\\",+;<>=])', r"\\\1", value).replace("\x00", r"\00")
    if value[1:].endswith(" "):
        escaped = escaped[:-1] + "\\ "
    if value[:1] in ("#", " "):
        escaped = "\\" + escaped
    return escaped


_TYPE = re.compile(r" *([A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+) *= *")
_PART = re.compile(r"""\\(?:(?P<hex>[0-9A-Fa-f]{2})|(?P<char>[\\" #+,;<=>]))|(?P<plain>[^\\",+;<>]+)""")


def parse_name(text: str) -> Name:
    """The name in RFC 4514 text: ``CN=a, O=b`` has O=b first in its encoding. Spaces around ``,`` and ``=``
    do not count; ``+`` (several attributes in one RDN) and ``#`` values are refused. Raises ``BadName``."""
    if len(text) > 16384:
        raise BadName("a name of more than 16384 characters")
    attributes: list[tuple[str, str]] = []
    position = 0
    while position < len(text) or attributes:
        match = _TYPE.match(text, position)
        if match is None:
            raise BadName(f"expected an attribute like CN= at {text[position : position + 20]!r}")
        oid = _OID_OF.get(match[1].lower(), match[1])
        if not oid[0].isdigit():
            raise BadName(f"unknown attribute {match[1]!r}; give its object identifier instead")
        value, position = _parse_value(text, match.end())
        attributes.append((oid, value))
        if position == len(text):
            break
        position += 1
    name = Name(tuple(reversed(attributes)))
    encode(name)
    return name


def _parse_value(text: str, position: int) -> tuple[str, int]:
    if text.startswith("#", position):
        raise BadName("values in hexadecimal are not supported")
    out = bytearray()
    kept = 0  # octets that are not trailing spaces
    while position < len(text) and text[position] != ",":
        match = _PART.match(text, position)
        if match is None:
            raise BadName(f"unexpected {text[position : position + 20]!r} in a value")
        position = match.end()
        if match["plain"] is not None:
            out += match["plain"].encode("utf-8", "surrogatepass")
            kept = max(kept, len(out.rstrip(b" ")))
        else:
            out += match["char"].encode() if match["char"] else bytes.fromhex(match["hex"])
            kept = len(out)
    try:
        return out[:kept].decode("utf-8"), position
    except UnicodeDecodeError:
        raise BadName("a value that is not UTF-8") from None
