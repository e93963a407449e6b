"""What this machine says about names: the resolvers in resolv.conf, and its hosts file."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

_LOOK_AGAIN_SECONDS = 1.0

Parsed = TypeVar("Parsed")
Endpoint = tuple[str, int]


def parse_resolver(text: str) -> Endpoint:
    """``address``, ``address:port`` or ``[address]:port``. Raises ``ValueError``."""
    host, port = text, "53"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not a resolver address: {text!r}")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"not a resolver address: {text!r}") from None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"not a resolver port: {text!r}")
    return host, int(port)


class SystemDNS:
    """resolv.conf and hosts, read again when they change (looked at once a second at most)."""

    def __init__(self, resolv_conf: str = "/etc/resolv.conf", hosts: str = "/etc/hosts") -> None:
        self._resolvers = _Watched(Path(resolv_conf), _parse_resolv_conf)
        self._hosts = _Watched(Path(hosts), _parse_hosts)

    def resolvers(self) -> tuple[Endpoint, ...]:
        """The nameservers; one on this host if none is named (resolv.conf(5))."""
        return self._resolvers.get() or (("127.0.0.1", 53),)

    def hosts(self, name: str) -> tuple[str, ...]:
        """The addresses that the hosts file gives ``name`` (lower-case); empty if it does not hold it."""
        return self._hosts.get().get(name, ())


class _Watched(Generic[Parsed]):
    """A file's meaning, kept until the file changes. An unreadable file means what an empty one does."""

    def __init__(self, path: Path, parse: Callable[[str], Parsed]) -> None:
        self._path = path
        self._parse = parse
        self._looked = float("-inf")
        self._version: tuple[int, int, int] | None = None
        self._value = parse("")

    def get(self) -> Parsed:
        now = time.monotonic()
        if now - self._looked >= _LOOK_AGAIN_SECONDS:
            self._looked = now
            version = self._stat()
            if version != self._version:
                self._version = version
                self._value = self._parse(self._read())
        return self._value

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> str:
        try:
            return self._path.read_text("utf-8", "replace")
        except OSError:
            return ""


def _parse_resolv_conf(text: str) -> tuple[Endpoint, ...]:
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1])
            except ValueError:
                continue
            found.append((words[1], 53))
    return tuple(found)


def _parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = str(ipaddress.ip_address(words[0]))
        except ValueError:
            continue
        for name in words[1:]:
            key = name.lower().rstrip(".")
            if address not in found.get(key, ()):
                found[key] = (*found.get(key, ()), address)
    return found
