"""Patterns over names, and the two questions asked of them.

A wildcard DNS name stands for many names, so ``allow`` and ``deny`` ask different things. A list of what is
allowed must *cover* a name: everything it stands for matches. A list of what is denied must not *touch* it:
nothing it stands for may match. ``*.example.com`` is covered by ``*.example.com`` or ``**.com``, and touched
by ``secret.example.com``.

==================== =============================================================================
DNS pattern          matches
==================== =============================================================================
``example.com``      that name
``*.example.com``    names with exactly one label more
``**.example.com``   names with one label more or several
``*``                single-label names
``**``               every name
==================== =============================================================================

IP patterns are addresses or CIDR ranges. Email patterns are DNS patterns over the mailbox's domain. URI
patterns are prefixes that end where a part of the URI ends: ``spiffe://prod/ns`` matches itself and
``spiffe://prod/ns/a``, not ``spiffe://prod/nsa``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Protocol

from certloom.pki.identifiers import Identifier, IdentifierType

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_DOT_SEGMENT = re.compile(r"(?i)/(?:\.|%2e){1,2}(?=[/?#]|$)")
_ESCAPED_UNRESERVED = re.compile(r"(?i)%(?:2[de]|3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9ae])")


class PatternError(ValueError):
    """This is not a pattern."""


class Patterns(Protocol):
    """A compiled list of patterns for names of one type."""

    def cover(self, value: str) -> bool:
        """Whether everything that the name stands for matches."""
        ...

    def touch(self, value: str) -> bool:
        """Whether anything that the name stands for matches."""
        ...


class DNSPatterns:
    """Matches DNS names in canonical form, in time proportional to their labels."""

    __slots__ = ("_any", "_deep", "_exact", "_one", "_parents")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ``PatternError``."""
        self._any = False
        self._exact: set[str] = set()
        self._one: set[str] = set()
        self._deep: set[str] = set()
        for pattern in patterns:
            if pattern == "**":
                self._any = True
            elif pattern == "*":
                self._one.add("")
            elif pattern.startswith("**."):
                self._deep.add(_host(pattern[3:], pattern))
            elif pattern.startswith("*."):
                self._one.add(_host(pattern[2:], pattern))
            else:
                self._exact.add(_host(pattern, pattern))
        self._parents = {name.partition(".")[2] for name in self._exact}

    def cover(self, value: str) -> bool:
        if self._any or value in self._exact:
            return True
        parent = value.partition(".")[2]
        if parent in self._one:
            return True
        if self._deep:
            while parent:
                if parent in self._deep:
                    return True
                parent = parent.partition(".")[2]
        return False

    def touch(self, value: str) -> bool:
        # A wildcard's set meets a pattern's set exactly where it is covered by it, but for exact names.
        if value.startswith("*.") and value[2:] in self._parents:
            return True
        return self.cover(value)


class AddressPatterns:
    """Matches IP addresses in RFC 5952 form."""

    __slots__ = ("_ranges",)

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ``PatternError``."""
        self._ranges = tuple(_network(pattern) for pattern in patterns)

    def cover(self, value: str) -> bool:
        address = ipaddress.ip_address(value)
        return any(address in network for network in self._ranges)

    def touch(self, value: str) -> bool:
        if self.cover(value):
            return True
        address = ipaddress.ip_address(value)
        # An IPv4-mapped address (RFC 4291 section 2.5.5.2) reaches the IPv4 host that it holds.
        inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return inner is not None and any(inner in network for network in self._ranges)


class EmailPatterns:
    """Matches mailboxes by their domain."""

    __slots__ = ("_domains",)

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ``PatternError``."""
        self._domains = DNSPatterns(patterns)

    def cover(self, value: str) -> bool:
        return self._domains.cover(value.rpartition("@")[2])

    def touch(self, value: str) -> bool:
        return self.cover(value)


class URIPatterns:
    """Matches URIs by prefix.

    A URI that could mean the same in another spelling (dot segments, escaped letters; RFC 3986 section 6.2.2)
    is covered by nothing and touched by everything, since a prefix cannot judge it.
    """

    __slots__ = ("_any", "_prefixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ``PatternError``."""
        prefixes = []
        self._any = False
        for pattern in patterns:
            if pattern == "**":
                self._any = True
                continue
            scheme, colon, rest = pattern.partition(":")
            if not colon or not rest or not _SCHEME.fullmatch(scheme) or not pattern.isascii():
                raise PatternError(f"{pattern!r} is not a URI prefix with a lower-case scheme")
            if _ambiguous(pattern):
                raise PatternError(f"{pattern!r} has dot segments or needless escapes")
            prefixes.append(pattern)
        self._prefixes = tuple(prefixes)

    def cover(self, value: str) -> bool:
        return self._any or (not _ambiguous(value) and self._match(value))

    def touch(self, value: str) -> bool:
        return self._any or bool(self._prefixes and (_ambiguous(value) or self._match(value)))

    def _match(self, value: str) -> bool:
        for prefix in self._prefixes:
            if value.startswith(prefix):
                if len(value) == len(prefix) or prefix[-1] in "/:?#":
                    return True
                if value[len(prefix)] in "/?#":
                    return True
        return False


def compile_patterns(type: IdentifierType, patterns: Iterable[str]) -> Patterns:
    """Compile patterns for names of this type. Raises ``PatternError``."""
    return _PATTERNS[type](patterns)


_PATTERNS: dict[IdentifierType, Callable[[Iterable[str]], Patterns]] = {
    IdentifierType.DNS: DNSPatterns,
    IdentifierType.IP: AddressPatterns,
    IdentifierType.URI: URIPatterns,
    IdentifierType.EMAIL: EmailPatterns,
}


def matches(pattern: str, identifier: Identifier) -> bool:
    """Whether a pattern of any type covers this identifier; ``**`` covers every identifier of every type.

    What the pattern is about shows in its form: an address or CIDR range; ``user@domain`` or ``@domain``
    (where the domain may be a pattern) for mailboxes; ``scheme:`` first for URIs; else a DNS pattern.
    Raises ``PatternError``.
    """
    if pattern == "**":
        return True
    type, patterns = _any_type(pattern)
    return identifier.type is type and patterns.cover(identifier.value)


def touches(pattern: str, identifier: Identifier) -> bool:
    """Whether a pattern of any type touches this identifier. Raises ``PatternError``."""
    if pattern == "**":
        return True
    type, patterns = _any_type(pattern)
    return identifier.type is type and patterns.touch(identifier.value)


def check_pattern(pattern: str) -> None:
    """Raises ``PatternError`` unless ``matches`` takes this pattern: for whoever stores one."""
    if pattern != "**":
        _any_type(pattern)


class _Mailbox:
    """Matches one mailbox."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def cover(self, value: str) -> bool:
        return value == self._value

    touch = cover


@lru_cache(maxsize=4096)
def _any_type(pattern: str) -> tuple[IdentifierType, Patterns]:
    if "@" in pattern and "/" not in pattern:
        local, _, domain = pattern.rpartition("@")
        if not local:
            return IdentifierType.EMAIL, EmailPatterns((domain,))
        return IdentifierType.EMAIL, _Mailbox(f"{local}@{_host(domain, pattern)}")
    try:
        return IdentifierType.IP, AddressPatterns((pattern,))
    except PatternError:
        if ":" in pattern:
            return IdentifierType.URI, URIPatterns((pattern,))
        return IdentifierType.DNS, DNSPatterns((pattern,))


def _host(text: str, pattern: str) -> str:
    if not text.isascii():
        raise PatternError(f"{pattern!r} has letters outside ASCII: write it in A-labels (xn--...)")
    if text != text.lower():
        raise PatternError(f"{pattern!r} has upper-case letters")
    if len(text) > 253 or not _HOST.fullmatch(text):
        raise PatternError(f"{pattern!r} is not a DNS name, *.suffix or **.suffix")
    return text


def _network(pattern: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(pattern)
    except ValueError as error:
        raise PatternError(f"{pattern!r} is not an IP address or CIDR range: {error}") from None


def _ambiguous(uri: str) -> bool:
    return bool(_DOT_SEGMENT.search(uri) or _ESCAPED_UNRESERVED.search(uri))
