"""The machine that a ceremony is held on: what is worth writing down of it, and what is wrong with it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import socket
import ssl
import struct
import sys
from pathlib import Path

import certloom
from certloom import __version__
from certloom.secrets import memory

_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
"""netdevice(7)."""


def networks() -> list[str]:
    """Network interfaces of this process's network namespace that are up, but for the loopback."""
    found = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("16sH14x", name.encode(), 0)
            try:
                _, flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
            except OSError:
                continue
            if flags & _IFF_UP and not flags & _IFF_LOOPBACK:
                found.append(name)
    return found


def swap(table: Path = Path("/proc/swaps")) -> list[str]:
    """Where memory could be written to."""
    try:
        return [line.split()[0] for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []


def prepare() -> list[str]:
    """Keep this process's memory to itself as well as can be; answers what is not as it should be."""
    memory.refuse_dumps()
    why = memory.lock()
    warnings = []
    if why and (areas := swap()):
        warnings.append(f"memory cannot be kept out of swap ({', '.join(areas)}): {why}; swapoff -a helps")
    if interfaces := networks():
        warnings.append(f"the machine has a network up: {', '.join(interfaces)}")
    return warnings


def facts() -> list[tuple[str, str]]:
    """What a transcript says of the machine and the program."""
    system = os.uname()
    return [
        ("machine", f"{system.nodename} {system.machine}"),
        ("system", f"{_distribution()} {system.sysname} {system.release}"),
        ("boot", _line("/proc/sys/kernel/random/boot_id")),
        ("program", f"certloom {__version__}, its source {program_sha256()}"),
        ("python", f"{platform.python_version()} {sys.executable}"),
        ("openssl", ssl.OPENSSL_VERSION),
        ("user", f"{os.getuid()}"),
        ("networks up", ", ".join(networks()) or "none"),
    ]


def program_sha256() -> str:
    """SHA-256 over this program's source: of each file in order of its path, the hash and the path, as
    ``sha256sum`` prints them."""
    top = Path(certloom.__file__).parent
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(top)}\n"
        for path in sorted(top.rglob("*.py"), key=lambda path: str(path.relative_to(top)).encode())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"
