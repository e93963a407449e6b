"""Listening sockets, bound before anything else is done: an address in use is the likeliest failure."""

from __future__ import annotations

import socket

from certloom.settings import Address, parse_address
from certloom.unix_sockets import ListenError

_BACKLOG = 2048


def bind(text: str) -> socket.socket:
    """A socket bound to ``host:port``, not listening yet. Raises ``ListenError``."""
    address = parse_address(text)
    try:
        return _bind(address)
    except OSError as error:
        raise ListenError(f"cannot listen on {text}: {error.strerror or error}") from None


def _bind(address: Address) -> socket.socket:
    family, kind, protocol, _, name = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] also takes IPv4, as the one address that means everybody.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(name)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
