"""Which addresses this process lets itself be talked into contacting.

Whoever asks for a certificate or configures a webhook makes this server open connections, so the server could
be used to reach what only it can reach. The guard is asked about the very address a socket is about to be
connected to, never about a name, so that an answer that changes in between (DNS rebinding) gains nothing.

Private ranges are allowed: an internal CA lives among them. Denied by default is what belongs to this
host alone (loopback, unspecified), to its link (link-local, and with it cloud metadata), and what is no
single host (multicast, broadcast, reserved). An IPv6 address that carries an IPv4 address is judged by both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_DENIED: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved or broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
    # Cloud metadata services outside link-local: they hand out credentials to whoever asks from this host.
    ("100.100.100.200/32", "cloud metadata"),
    ("168.63.129.16/32", "cloud metadata"),
    ("192.0.0.192/32", "cloud metadata"),
    ("fd00:ec2::254/128", "cloud metadata"),
    ("fd20:ce::254/128", "cloud metadata"),
)

_LOW_32 = 0xFFFF_FFFF


class AddressDenied(Exception):
    """The address must not be contacted. ``kind`` says what it is: loopback, link-local, ..."""

    def __init__(self, address: str, kind: str) -> None:
        super().__init__(f"{address} is not contacted: {kind} address")
        self.address = address
        self.kind = kind


class AddressGuard:
    """Judges addresses. Of the configured ranges the most specific that holds the address decides, and at
    equal length ``deny``; where none does, the default denials do."""

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """``allow`` and ``deny`` are CIDR ranges or addresses. Raises ``ValueError`` naming a bad one."""
        rules = [(network, "") for network in _networks(allow)]
        rules += [(network, "denied by configuration") for network in _networks(deny)]
        # Longest prefix first, and denials before allowances of the same length.
        rules.sort(key=lambda rule: (-rule[0].prefixlen, rule[1] == ""))
        self._configured = _compile(rules)
        self._default = _compile([(ipaddress.ip_network(text), kind) for text, kind in _DENIED])

    def check(self, address: str) -> None:
        """Return if ``address`` (an IP literal) may be contacted.

        Raises ``AddressDenied``; also for what is no address at all, or has a zone.
        """
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise AddressDenied(address, "not an IP") from None
        if "%" in address:
            raise AddressDenied(address, "scoped")
        kind = self._judge(parsed)
        if kind:
            raise AddressDenied(address, kind)

    def permits(self, address: str) -> bool:
        """Whether ``check`` would return."""
        try:
            self.check(address)
        except AddressDenied:
            return False
        return True

    def _judge(self, address: _Address) -> str:
        """Why the address is denied, or an empty string."""
        version, number = address.version, int(address)
        for rule_version, first, last, kind in self._configured:
            if version == rule_version and first <= number <= last:
                return kind
        for rule_version, first, last, kind in self._default:
            if version == rule_version and first <= number <= last:
                return kind
        if isinstance(address, ipaddress.IPv6Address):
            for embedded in _embedded(number):
                kind = self._judge(ipaddress.IPv4Address(embedded))
                if kind:
                    return kind
        return ""


def _networks(texts: Iterable[str]) -> Iterator[_Network]:
    for text in texts:
        try:
            yield ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"not an address range: {error}") from None


def _compile(rules: Iterable[tuple[_Network, str]]) -> tuple[tuple[int, int, int, str], ...]:
    return tuple(
        (network.version, int(network.network_address), int(network.broadcast_address), kind)
        for network, kind in rules
    )


def _embedded(number: int) -> Iterator[int]:
    """The IPv4 addresses that an IPv6 address carries, by each mechanism that would route it there."""
    if number >> 32 in (0, 0xFFFF, 0xFFFF_0000):
        # IPv4-compatible (RFC 4291 section 2.5.5.1), IPv4-mapped, IPv4-translated (RFC 2765 section 2.1)
        yield number & _LOW_32
    elif number >> 112 == 0x2002:  # 6to4, RFC 3056 section 2
        yield number >> 80 & _LOW_32
    elif number >> 32 == 0x0064_FF9B << 64:  # NAT64, RFC 6052 section 2.1
        yield number & _LOW_32
    elif number >> 80 == 0x0064_FF9B_0001:  # NAT64 with a local prefix, RFC 8215
        yield number & _LOW_32
        if number & 0xFF_FFFF == 0:  # its place depends on the prefix's length, RFC 6052 section 2.2
            yield (number >> 64 & 0xFFFF) << 16 | (number >> 40 & 0xFFFF)
            yield (number >> 64 & 0xFF) << 24 | (number >> 32 & 0xFF_FFFF)
            yield number >> 24 & _LOW_32
    elif number >> 96 == 0x2001_0000:  # Teredo, RFC 4380 section 4: server, and client obscured
        yield number >> 64 & _LOW_32
        yield ~number & _LOW_32
    if number >> 32 & 0xFCFF_FFFF == 0x0000_5EFE:  # ISATAP, RFC 5214 section 6.1
        yield number & _LOW_32
