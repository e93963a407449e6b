"""The servers that are measured, each with its own defaults, pointed at the bench's name server."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import cpu_seconds, folder_size, peak_rss
from tests.clients.lab import TOOLS, Program, environment, listening, private_mounts, run, wait_for
from tests.clients.pebble import self_signed

ADDRESS = "127.77.8.1"
"""Where every name resolves to, and where the load client answers http-01."""
DNS_ADDRESS = "127.77.8.53"
HTTP_PORT = 8082
"""Where http-01 is asked of servers that can be told; Caddy's acme_server always asks port 80."""


@dataclass
class Server:
    """A running server."""

    name: str
    directory: str
    trust: ssl.SSLContext
    program: Program
    storage: Path | None
    """The folder whose growth is the disk used, if it stores anything."""
    notes: dict[str, str]
    also: tuple[int, ...] = ()
    """Further processes that work for it (PostgreSQL's postmaster): their time is the server's too."""
    stop: Callable[[], None] = field(default=lambda: None)

    def cpu_seconds(self) -> float:
        """User and system time of all its processes."""
        return sum(cpu_seconds(pid) for pid in (self.program.pid, *self.also))

    def main_cpu_seconds(self) -> float:
        """User and system time of its main process alone."""
        return cpu_seconds(self.program.pid, children=False)

    def peak_rss(self) -> int:
        """Bytes; the main process's family alone, without PostgreSQL's shared buffers."""
        return peak_rss(self.program.pid)

    def disk(self) -> int:
        return folder_size(self.storage) if self.storage else 0


def dns_port() -> int:
    """53 where that may be bound: Caddy's acme_server knows no other."""
    return 53 if os.geteuid() == 0 else 5353


def start_dns(folder: Path) -> Program:
    """The name server, in a process of its own."""
    import sys

    program = Program(
        [sys.executable, "-m", "bench.dns", DNS_ADDRESS, str(dns_port()), ADDRESS],
        log=folder / "dns.log",
        env=environment(folder),
        cwd=Path(__file__).parents[1],
    )
    wait_for("the name server", lambda: program.check() and "ready" in program.output())
    return program


def start_caddy(folder: Path) -> Server:
    """Caddy's acme_server: smallstep's engine over its embedded database, with Caddy's internal authority."""
    folder.mkdir(parents=True)
    port = 9443
    self_signed(ADDRESS, folder / "tls.pem", folder / "tls.key")
    settings = {
        "admin": {"disabled": True},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
            "http": {
                "servers": {
                    "acme": {
                        "listen": [f"{ADDRESS}:{port}"],
                        "automatic_https": {"disable": True},
                        "tls_connection_policies": [{}],
                        "routes": [{"handle": [{"handler": "acme_server", "challenges": ["http-01"]}]}],
                    }
                }
            },
            "tls": {
                "certificates": {
                    "load_files": [{"certificate": str(folder / "tls.pem"), "key": str(folder / "tls.key")}]
                }
            },
        },
    }
    (folder / "caddy.json").write_text(json.dumps(settings))
    # It asks the system's resolver for http-01: that is ours, in a mount namespace of its own.
    (folder / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")
    caddy = TOOLS / "caddy/bin/caddy"
    program = Program(
        [
            *private_mounts((folder / "resolv.conf", "/etc/resolv.conf")),
            *(caddy, "run", "--config", folder / "caddy.json"),
        ],
        log=folder / "caddy.log",
        env=environment(folder, XDG_DATA_HOME=str(folder / "data"), XDG_CONFIG_HOME=str(folder / "config")),
    )
    wait_for("Caddy", lambda: program.check() and listening(port, ADDRESS))
    version = run([caddy, "version"], env=environment(folder)).split()[0]
    return Server(
        name="caddy",
        directory=f"https://{ADDRESS}:{port}/acme/local/directory",
        trust=ssl.create_default_context(cafile=str(folder / "tls.pem")),
        program=program,
        storage=folder / "data",
        notes={"version": version, "database": "bbolt, embedded", "lint": "none", "caa": "none"},
        stop=lambda: void(program.stop()),
    )


def start_pebble(folder: Path) -> Server:
    """Pebble: keeps everything in memory."""
    folder.mkdir(parents=True)
    port = 14000
    self_signed(ADDRESS, folder / "tls.pem", folder / "tls.key")
    settings = {
        "listenAddress": f"{ADDRESS}:{port}",
        "managementListenAddress": f"{ADDRESS}:{port + 1}",
        "certificate": str(folder / "tls.pem"),
        "privateKey": str(folder / "tls.key"),
        "httpPort": HTTP_PORT,
        "tlsPort": HTTP_PORT + 1,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
    program = Program(
        [
            *("pebble", "-config", folder / "pebble.json"),
            *("-dnsserver", f"{DNS_ADDRESS}:{dns_port()}"),
        ],
        log=folder / "pebble.log",
        env=environment(folder, PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0"),
    )
    wait_for("pebble", lambda: program.check() and listening(port, ADDRESS))
    return Server(
        name="pebble",
        directory=f"https://{ADDRESS}:{port}/dir",
        trust=ssl.create_default_context(cafile=str(folder / "tls.pem")),
        program=program,
        storage=None,
        notes={"database": "none: in memory", "lint": "none", "caa": "checked"},
        stop=lambda: void(program.stop()),
    )


def void(_: object) -> None:
    """Nothing."""
