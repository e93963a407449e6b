"""Caddy (certmagic): http-01, tls-alpn-01, IP addresses, EAB, renewal by ARI.

As root Caddy would install the root of its internal issuer into the system's trust store: ``install_trust``
is off here, and a test looks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.clients.checks import Obtained, check
from tests.clients.lab import ADDRESS, TOOLS, Lab, Program, environment, fresh_name, wait_for
from tests.clients.servers import Servers
from tests.clients.target import Target


class Caddy:
    """A Caddy that serves one name, and keeps a certificate for it."""

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        target: Target,
        challenge: str,
        name: str,
        *,
        renew_interval: str = "10m",
    ) -> None:
        self._folder, self._target, self._name = folder, target, name
        issuer: dict[str, object] = {
            "module": "acme",
            "ca": target.directory,
            "email": "admin@example.com",
            "trusted_roots_pem_files": [str(target.tls_ca)],
            "challenges": {
                "bind_host": ADDRESS,
                "http": {"disabled": challenge != "http-01", "alternate_port": lab.http_port},
                "tls-alpn": {"disabled": challenge != "tls-alpn-01", "alternate_port": lab.tls_port},
            },
        }
        if target.eab:
            issuer["external_account"] = {"key_id": target.eab.kid, "mac_key": target.eab.hmac}
        settings = {
            "admin": {"disabled": True},
            "logging": {"logs": {"default": {"level": "DEBUG"}}},
            "apps": {
                "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
                "http": {
                    "http_port": lab.http_port,
                    "https_port": lab.tls_port,
                    "servers": {
                        "site": {
                            "listen": [f"{ADDRESS}:{lab.tls_port}"],
                            "automatic_https": {"disable_redirects": True},
                            "routes": [
                                {
                                    "match": [{"host": [name]}],
                                    "handle": [{"handler": "static_response", "body": "hello"}],
                                }
                            ],
                        }
                    },
                },
                "tls": {
                    "automation": {
                        "renew_interval": renew_interval,
                        "policies": [{"subjects": [name], "issuers": [issuer]}],
                    }
                },
            },
        }
        (folder / "caddy.json").write_text(json.dumps(settings))

    @contextmanager
    def running(self) -> Iterator[Program]:
        program = Program(
            [TOOLS / "caddy/bin/caddy", "run", "--config", self._folder / "caddy.json"],
            log=self._folder / "caddy.log",
            env=environment(
                self._folder,
                XDG_DATA_HOME=str(self._folder / "data"),
                XDG_CONFIG_HOME=str(self._folder / "config"),
            ),
        )
        try:
            yield program
        finally:
            program.stop()

    def _stored(self) -> list[Path]:
        return list((self._folder / "data/caddy/certificates").glob("*/*/*.crt"))

    def obtained(self, program: Program, *, other_than: Obtained | None = None) -> Obtained:
        """The certificate in Caddy's store, waited for; with ``other_than``, one that is not that."""

        def ready() -> bool:
            program.check()
            stored = self._stored()
            # Key, certificate and metadata are written one after another.
            if not stored or not stored[0].with_suffix(".json").exists():
                return False
            certificate = x509.load_pem_x509_certificate(stored[0].read_bytes())
            if other_than is not None and certificate.serial_number == other_than.serial:
                return False
            key = load_pem_private_key(stored[0].with_suffix(".key").read_bytes(), None)
            return bool(key.public_key() == certificate.public_key())

        wait_for("Caddy's certificate", ready, 60)
        return self._check()

    def _check(self) -> Obtained:
        (stored,) = self._stored()
        return check(self._target.roots, stored, stored.with_suffix(".key"), [self._name])


def _trust_store() -> set[str]:
    return {path.name for path in Path("/usr/local/share/ca-certificates").glob("**/*")}


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
@pytest.mark.parametrize("what", ["name", "address"])
def test_issuance(challenge: str, what: str, lab: Lab, servers: Servers, tmp_path: Path) -> None:
    before = _trust_store()
    name = fresh_name() if what == "name" else ADDRESS
    caddy = Caddy(lab, tmp_path, servers.target(), challenge, name)
    with caddy.running() as program:
        caddy.obtained(program)
    assert _trust_store() == before


def test_external_account_binding(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    caddy = Caddy(lab, tmp_path, servers.target(eab=True), "http-01", fresh_name())
    with caddy.running() as program:
        caddy.obtained(program)
