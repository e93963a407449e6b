"""Unix sockets: whatever the length of their paths, and who is at the other end."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_LONGEST_PATH = 100
"""A Unix socket's path has at most 107 octets."""
_CREDENTIALS = struct.Struct("3i")


class ListenError(Exception):
    """An address cannot be listened on."""


def bind_unix(path: Path, mode: int = 0o600) -> socket.socket:
    """A Unix socket in place of one that a dead process left; ``mode`` says who may connect.

    Raises ``ListenError``.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~mode)
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
    """A connection to who listens at ``path``. Raises ``OSError``."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with ReachablePath(path) as reachable:
            sock.connect(reachable)
    except OSError:
        sock.close()
        raise
    return sock


def peer_user(sock: socket.socket) -> int:
    """The user id of the process at the other end, as it was when it connected."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


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
