"""The servers that are measured, each with its own defaults, pointed at the bench's name server."""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.processes import cpu_seconds, folder_size, peak_rss
from certloom.policy.channels import ACMEChannel
from certloom.policy.profiles import default_profiles
from tests.clients.lab import TOOLS, Program, environment, listening, private_mounts, run, wait_for
from tests.clients.pebble import self_signed
from tests.clients.server import COMMAND, toml
from tests.postgresql import Cluster

ADDRESS = "127.77.8.1"
"""Where every name resolves to, and where the load client answers http-01."""
DNS_ADDRESS = "127.77.8.53"
HTTP_PORT = 8082
"""Where http-01 is asked of servers that can be told; Caddy's acme_server always asks port 80."""


@dataclass
class Server:
    """A server that can be started again on what it has stored."""

    name: str
    directory: str
    tls_ca: Path
    launch: Callable[[], Program]
    storage: Path | None
    """The folder it stores things in, if it does."""
    notes: dict[str, str]
    cluster: Cluster | None = None
    """The PostgreSQL that works for it: its time is the server's too."""
    database_url: str = ""
    """PostgreSQL's."""
    sqlite: Path | None = None

    def __post_init__(self) -> None:
        self.program = self.launch()

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.tls_ca))

    def pause(self) -> None:
        """Stop it, and keep what it stored."""
        self.program.stop()

    def resume(self) -> None:
        """Start it again."""
        self.program = self.launch()

    def close(self) -> None:
        """Stop it for good."""
        self.program.stop()
        if self.cluster is not None:
            self.cluster.remove()

    def cpu_seconds(self) -> float:
        """User and system time of all its processes."""
        also = cpu_seconds(self.cluster.pid) if self.cluster else 0
        return cpu_seconds(self.program.pid) + also

    def main_cpu_seconds(self) -> float:
        """User and system time of its main process alone."""
        return cpu_seconds(self.program.pid, children=False)

    def peak_rss(self) -> int:
        """Bytes; the main process's family alone, without PostgreSQL's shared buffers."""
        return peak_rss(self.program.pid)

    def stored(self) -> int:
        """Bytes of what it has stored, its log folded in (for which it is stopped and started again)."""
        if self.database_url:
            with psycopg.connect(self.database_url) as connection:
                row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
                return int(row[0]) if row else 0
        if self.storage is None:
            return 0
        self.pause()
        size = folder_size(self.storage)
        self.resume()
        return size


def dns_port() -> int:
    """53 where that may be bound: Caddy's acme_server knows no other."""
    return 53 if os.geteuid() == 0 else 5353


def start_dns(folder: Path) -> Program:
    """The name server, in a process of its own."""
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
                        "routes": [{"handle": [{"handler": "acme_server"}]}],
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
    command: list[str | Path] = [
        *private_mounts((folder / "resolv.conf", "/etc/resolv.conf")),
        *(caddy, "run", "--config", folder / "caddy.json"),
    ]
    home = {"XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder / "config")}
    version = run([caddy, "version"], env=environment(folder)).split()[0]
    return Server(
        name="caddy",
        directory=f"https://{ADDRESS}:{port}/acme/local/directory",
        tls_ca=folder / "tls.pem",
        launch=lambda: _launch("caddy", command, folder, port, **home),
        storage=folder / "data",
        notes={"version": version, "database": "bbolt, embedded", "lint": "none", "caa": "none"},
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
    command: list[str | Path] = [
        *("pebble", "-config", folder / "pebble.json"),
        *("-dnsserver", f"{DNS_ADDRESS}:{dns_port()}"),
    ]
    quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    return Server(
        name="pebble",
        directory=f"https://{ADDRESS}:{port}/dir",
        tls_ca=folder / "tls.pem",
        launch=lambda: _launch("pebble", command, folder, port, **quick),
        storage=None,
        notes={"database": "none: in memory", "lint": "none", "caa": "checked"},
    )


def start_certloom(folder: Path, database: str = "sqlite", signer: str = "spawned") -> Server:
    """Certloom with what it ships: default channel, default profile, its own CA."""
    folder.mkdir(parents=True)
    port, http_port = 8543, 8580
    cluster: Cluster | None = None
    url = ""
    if database == "postgresql":
        # On disk, where a commit costs what it costs.
        cluster = Cluster(parent=folder)
        url = cluster.url(cluster.create())
    (folder / "certloom.toml").write_text(
        toml(
            {
                "data_dir": str(folder / "data"),
                "public_url": f"https://{ADDRESS}:{port}",
                "public_http_url": f"http://{ADDRESS}:{http_port}",
                "listen": {"https": f"{ADDRESS}:{port}", "http": f"{ADDRESS}:{http_port}"},
                "database": {"url": url},
                "signer": {"mode": signer},
                "validation": {
                    "http_port": HTTP_PORT,
                    "resolvers": [f"{DNS_ADDRESS}:{dns_port()}"],
                    "allow_addresses": [f"{ADDRESS}/32"],
                },
            }
        )
    )
    return Server(
        name=f"certloom-{database}" if signer == "spawned" else f"certloom-{signer}",
        directory=f"https://{ADDRESS}:{port}/acme/default/directory",
        tls_ca=folder / "data" / "root.pem",
        launch=lambda: _launch("certloom", [COMMAND, "serve", "-c", folder / "certloom.toml"], folder, port),
        storage=None if cluster else folder / "data",
        notes={"database": f"{database}, durable", **_defaults()},
        cluster=cluster,
        database_url=url,
        sqlite=None if cluster else folder / "data" / "certloom.db",
    )


def _defaults() -> dict[str, str]:
    """What the shipped default profile and channel say about lint and CAA."""
    profile = next(profile for profile in default_profiles("issuing") if profile.name == "tls-server")
    caa = ACMEChannel(name="default", profiles=("tls-server",)).caa
    return {"profile": "tls-server", "lint": str(profile.lint.mode), "caa": "checked" if caa else "off"}


def _launch(name: str, command: Sequence[str | Path], folder: Path, port: int, **env: str) -> Program:
    program = Program(command, log=folder / f"{name}.log", env=environment(folder, **env))
    wait_for(name, lambda: program.check() and listening(port, ADDRESS), 60)
    return program
