"""Listening sockets, bound before anything else is done: an address in use is the likeliest failure."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from certloom.settings import Address, parse_address

_BACKLOG = 2048
_LONGEST_PATH = 100
"""A Unix socket's path has at most 107 octets."""


class ListenError(Exception):
    """An address cannot be listened on."""


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


def bind_unix(path: Path) -> socket.socket:
    """A Unix socket for this user alone, in place of one that a dead server left. Raises ``ListenError``."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        with ReachablePath(path) as reachable:
            sock.bind(reachable)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    return sock


def connect_unix(path: Path) -> socket.socket:
    """A connection to the server that listens at ``path``. Raises ``OSError``."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with ReachablePath(path) as reachable:
            sock.connect(reachable)
    except OSError:
        sock.close()
        raise
    return sock


class ReachablePath:
    """A path short enough for a Unix socket: through the directory's descriptor where it is too long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        text = str(self._path)
        if len(os.fsencode(text)) <= _LONGEST_PATH:
            return text
        self._fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
