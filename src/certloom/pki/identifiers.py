"""What a certificate can name: DNS names, IP addresses, URIs and mailboxes.

An ``Identifier`` is always in canonical form (``parse_*`` makes it so): DNS names are lower-case
A-labels without a trailing dot, IP addresses are RFC 5952 text. Two identifiers that mean the
same are therefore equal and hash alike.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache

import idna
import msgspec
from cryptography import x509


class IdentifierType(StrEnum):
    """Identifier types, named as in the ACME registry (RFC 8555 section 9.7.7) where it has them."""

    DNS = "dns"
    IP = "ip"
    URI = "uri"
    EMAIL = "email"


class Identifier(msgspec.Struct, frozen=True, order=True):
    """One name in canonical form. A wildcard DNS name keeps its ``*.``."""

    type: IdentifierType
    value: str

    @property
    def is_wildcard(self) -> bool:
        """Whether this is a DNS wildcard name (RFC 8555 section 7.1.3)."""
        return self.type is IdentifierType.DNS and self.value.startswith("*.")

    def __str__(self) -> str:
        return f"{self.type.value}:{self.value}"


class IdentifierError(ValueError):
    """This is not a name that a certificate can carry.

    ``code`` is ``bad-dns-name``, ``dns-name-not-ascii``, ``wildcard-not-allowed``, ``bad-ip-address``,
    ``bad-uri``, ``bad-email-address``, ``unsupported-identifier-type``, ``unsupported-name-form`` or
    ``too-many-identifiers``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


MAX_DNS_LENGTH = 253
"""Characters of a DNS name in text form (RFC 1035 section 2.3.4: 255 octets on the wire)."""
MAX_URI_LENGTH = 2048
MAX_EMAIL_LENGTH = 254

# Lower-case letter-digit-hyphen labels (RFC 5890 section 2.3.1), none of them with "--" at its third and
# fourth place: those are checked one by one. The last label is not a number, decimal or hexadecimal, so
# that no name can be read as an IP address.
_LDH = r"(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN_NAME = re.compile(rf"(?:{_LDH}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\Z){_LDH}\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")

_URI = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):"
    r"(?://(?P<authority>[^/?#]*+))?+"
    r"(?P<rest>(?:[A-Za-z0-9._~!$&'()*+,;=:@/?#-]|%[0-9A-Fa-f]{2})*+)\Z"
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?\Z")
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")


def parse_dns(text: str, *, wildcard: bool = True) -> Identifier:
    """A DNS name: lower-cased, in A-labels, without a trailing dot; ``*.`` in front if ``wildcard``.

    Refused: U-labels (the sender converts them, RFC 5280 section 7.2), A-labels that IDNA 2008 does not
    allow, a trailing dot, underscores, reserved ``??--`` labels, a last label that is a number (an IP
    address in disguise), ``*`` anywhere but as the whole first label. Raises ``IdentifierError``.
    """
    if len(text) > MAX_DNS_LENGTH:
        raise IdentifierError("bad-dns-name", "a DNS name has at most 253 characters")
    if not wildcard and text.startswith("*."):
        raise IdentifierError("wildcard-not-allowed", f"a wildcard name is not allowed here: {text!r}")
    return _parse_dns(text)


@lru_cache(maxsize=4096)
def _parse_dns(text: str) -> Identifier:
    name = text.lower() if text.isascii() else ""
    if not name:
        if text:
            raise IdentifierError(
                "dns-name-not-ascii", f"a DNS name must be given as A-labels (xn--…), not as {text!r}"
            )
        raise IdentifierError("bad-dns-name", "an empty DNS name")
    base = name[2:] if name.startswith("*.") else name
    if not _PLAIN_NAME.match(base):
        _check_labels(text, base)
    return Identifier(IdentifierType.DNS, name)


def _check_labels(text: str, base: str) -> None:
    """Say what is wrong with a name that is not plain, or find that its A-labels are valid."""

    def bad(why: str) -> IdentifierError:
        return IdentifierError("bad-dns-name", f"{why}: {text!r}")

    labels = base.split(".")
    if labels[-1] == "":
        raise bad("a DNS name ends without a dot")
    for label in labels:
        if not label:
            raise bad("a DNS name has no empty label")
        if "*" in label:
            raise bad("a wildcard is one whole label at the very left")
        if len(label) > 63:
            raise bad("a DNS label has at most 63 characters")
        if not _LABEL.match(label):
            raise bad("a DNS label is made of letters, digits and inner hyphens")
        if label[2:4] != "--":
            continue
        if not label.startswith("xn--"):
            raise bad("a label with hyphens at its third and fourth place is reserved")
        try:
            again = idna.alabel(idna.ulabel(label)).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise bad(f"an invalid A-label ({error})") from None
        if again != label:
            raise bad("an A-label that does not encode what it decodes to")
    if _NUMBER.match(labels[-1]):
        raise bad("an IP address is not a DNS name")


def parse_ip(text: str) -> Identifier:
    """An IP address, made RFC 5952 text. Zones and prefix lengths are refused. Raises ``IdentifierError``."""
    if len(text) > 45 or "%" in text or not text.isascii():
        raise IdentifierError("bad-ip-address", "not an IP address")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise IdentifierError("bad-ip-address", f"not an IP address: {text!r}") from None
    return _from_address(address)


def ip_from_octets(octets: bytes) -> Identifier:
    """An IP address from 4 or 16 octets (RFC 5280 section 4.2.1.6). Raises ``IdentifierError``."""
    if len(octets) not in (4, 16):
        raise IdentifierError("bad-ip-address", "an IP address has 4 or 16 octets")
    return _from_address(ipaddress.ip_address(octets))


def _from_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Identifier:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        # RFC 5952 section 5; str() of these differs between versions of Python.
        return Identifier(IdentifierType.IP, f"::ffff:{address.ipv4_mapped}")
    return Identifier(IdentifierType.IP, str(address))


def parse_uri(text: str) -> Identifier:
    """An absolute URI (RFC 5280 section 4.2.1.6), scheme and host lower-cased, the rest untouched.

    An authority, where there is one, is a host and perhaps a port, without user information; underscores
    are taken in it (SPIFFE trust domains). Raises ``IdentifierError``.
    """

    def bad(why: str) -> IdentifierError:
        return IdentifierError("bad-uri", f"{why}: {text[:100]!r}")

    if len(text) > MAX_URI_LENGTH:
        raise bad(f"a URI has at most {MAX_URI_LENGTH} characters")
    match = _URI.match(text)
    if match is None:
        raise bad("not an absolute URI")
    scheme, authority, rest = match.group("scheme", "authority", "rest")
    if authority is None:
        if not rest:
            raise bad("a URI with nothing after its scheme")
        return Identifier(IdentifierType.URI, f"{scheme.lower()}:{rest}")
    parts = _AUTHORITY.match(authority)
    if parts is None:
        raise bad("the authority of a URI is a host name or address, perhaps with a port")
    host = parts["host"].lower()
    if host.startswith("["):
        try:
            host = f"[{_from_address(ipaddress.IPv6Address(host[1:-1])).value}]"
        except ValueError:
            raise bad("a bracketed host is an IPv6 address") from None
    port = f":{parts['port']}" if parts["port"] else ""
    return Identifier(IdentifierType.URI, f"{scheme.lower()}://{host}{port}{rest}")


def parse_email(text: str) -> Identifier:
    """A mailbox ``local-part@domain`` (RFC 5280 section 4.2.1.6, ASCII, no quoted local part), its domain
    lower-cased. Raises ``IdentifierError``."""
    local, at, domain = text.rpartition("@")
    if not at or len(text) > MAX_EMAIL_LENGTH or len(local) > 64 or not _LOCAL_PART.match(local):
        raise IdentifierError("bad-email-address", f"not a mailbox: {text[:100]!r}")
    try:
        host = parse_dns(domain, wildcard=False).value
    except IdentifierError as error:
        raise IdentifierError("bad-email-address", f"not a mailbox: {error}") from None
    return Identifier(IdentifierType.EMAIL, f"{local}@{host}")


_PARSERS: dict[str, Callable[[str], Identifier]] = {
    "dns": parse_dns,
    "ip": parse_ip,
    "uri": parse_uri,
    "email": parse_email,
}


def parse(type: str, text: str) -> Identifier:
    """An identifier of the named type: ``dns``, ``ip``, ``uri`` or ``email``. Raises ``IdentifierError``."""
    parser = _PARSERS.get(type)
    if parser is None:
        raise IdentifierError(
            "unsupported-identifier-type", f"identifiers of type {type[:50]!r} are not supported"
        )
    return parser(text)


def to_general_name(identifier: Identifier) -> x509.GeneralName:
    """As ``cryptography`` has it."""
    value = identifier.value
    match identifier.type:
        case IdentifierType.DNS:
            return x509.DNSName(value)
        case IdentifierType.IP:
            return x509.IPAddress(ipaddress.ip_address(value))
        case IdentifierType.URI:
            return x509.UniformResourceIdentifier(value)
        case IdentifierType.EMAIL:
            return x509.RFC822Name(value)


def from_general_name(name: x509.GeneralName) -> Identifier:
    """From ``cryptography``'s. Raises ``IdentifierError``; ``unsupported-name-form`` for other forms."""
    if isinstance(name, x509.DNSName):
        return parse_dns(name.value)
    if isinstance(name, x509.IPAddress) and isinstance(
        name.value, ipaddress.IPv4Address | ipaddress.IPv6Address
    ):
        return _from_address(name.value)
    if isinstance(name, x509.UniformResourceIdentifier):
        return parse_uri(name.value)
    if isinstance(name, x509.RFC822Name):
        return parse_email(name.value)
    raise IdentifierError("unsupported-name-form", f"names of form {type(name).__name__} are not supported")
