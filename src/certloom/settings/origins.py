"""Addresses to listen on, and the origins (RFC 6454) that clients see: both derived from settings."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import msgspec

from certloom.settings.schema import Settings


class Address(msgspec.Struct, frozen=True):
    """A host and a port to listen on. Port 0 lets the system pick a free one, for tests."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_unspecified(self) -> bool:
        """Whether it means every address of this machine."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    @property
    def answers_localhost(self) -> bool:
        """Whether who connects to ``localhost`` gets here."""
        return self.is_unspecified or self.host in {"localhost", "127.0.0.1", "::1"}

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``host:port`` or ``[IPv6]:port``. Raises ``ValueError`` saying what is wrong with it."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port:
        raise ValueError("expected host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv6 address") from None
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, [::1]:8443")
    elif not all(c.isalnum() or c in "-." for c in host) or not host.isascii():
        raise ValueError(f"{host!r} is not a host name or IP address")
    elif host.rpartition(".")[2].isdigit():
        # No host name ends in a number, so an IPv4 address is meant.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv4 address") from None
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{port!r} is not a port")
    return Address(host, int(port))


def check_origin(text: str, *schemes: str) -> None:
    """Check that ``text`` is ``scheme://host[:port]`` and nothing more. Raises ``ValueError``."""
    parts = urlsplit(text)
    if parts.scheme not in schemes:
        raise ValueError(f"expected {' or '.join(schemes)}://host[:port]")
    if not parts.hostname or parts.username is not None or "\\" in text:
        raise ValueError("has no plain host name")
    if parts.path or parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ValueError("an origin has no path, not even a final slash")
    if parts.port == 0:
        raise ValueError("0 is not a port")


class Origins(msgspec.Struct, frozen=True):
    """What stands before the path in every URL the server gives out. Empty where a listener is off."""

    https: str
    http: str
    acme_plain: str
    https_client: str = ""


def origins(settings: Settings, host: str, ports: dict[str, int] | None = None) -> Origins:
    """The origins clients see.

    ``host`` is this machine's name, for the CRL and issuer URLs of certificates where ``public_http_url``
    is empty. ``ports`` gives, by listener name, the port bound where settings leave it to the system.
    """
    ports = ports or {}

    def plain(name: str, text: str, scheme: str, fallback: str) -> str:
        if not text:
            return ""
        address = parse_address(text)
        port = ports.get(name, address.port)
        shown = fallback if address.is_unspecified or not address.host else address.host
        return f"{scheme}://{Address(shown, port)}"

    listen = settings.listen
    https = ""
    if listen.https:
        address = parse_address(listen.https)
        shown = "localhost" if address.answers_localhost else address.host
        https = f"https://{Address(shown, ports.get('https', address.port))}"
    # The same host as clients know it by, at this listener's port.
    known_as = urlsplit(https).hostname or "localhost"
    known_as = urlsplit(settings.public_url).hostname or known_as
    return Origins(
        https=settings.public_url or https,
        http=settings.public_http_url or plain("http", listen.http, "http", host),
        acme_plain=settings.acme_plain_url or plain("acme_plain", listen.acme_plain, "http", "localhost"),
        https_client=plain("https_client", listen.https_client, "https", known_as),
    )
