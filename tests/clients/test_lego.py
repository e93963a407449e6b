"""lego: http-01, tls-alpn-01, dns-01, wildcards, RSA and ECDSA keys, EAB, renewal, revocation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.checks import Obtained, check
from tests.clients.lab import ADDRESS, Lab, environment, fresh_name, run
from tests.clients.servers import Servers
from tests.clients.target import Target


class Lego:
    """One lego account, for one certificate."""

    def __init__(self, lab: Lab, folder: Path, target: Target, challenge: str, *names: str) -> None:
        self._target, self._names = target, names
        hook = lab.hook(
            folder, "dns", 'case $1 in present) set_txt "$2" "$3";; cleanup) clear_txt "$2";; esac\n'
        )
        self._env = environment(
            folder,
            LEGO_CA_CERTIFICATES=str(target.tls_ca),
            EXEC_PATH=str(hook),
            EXEC_SEQUENCE_INTERVAL="1",
            EXEC_POLLING_INTERVAL="1",
        )
        self._folder = folder / "lego"
        self._arguments = [
            *("lego", "--accept-tos", "--path", str(self._folder)),
            *("--server", target.directory, "--email", "admin@example.com"),
            *{
                "http-01": ("--http", "--http.port", f"{ADDRESS}:{lab.http_port}"),
                "tls-alpn-01": ("--tls", "--tls.port", f"{ADDRESS}:{lab.tls_port}"),
                "dns-01": ("--dns", "exec", "--dns.disable-cp", "--dns.resolvers", lab.resolver),
            }[challenge],
        ]
        for name in names:
            self._arguments += ["-d", name]
        if target.eab:
            self._arguments += ["--eab", "--kid", target.eab.kid, "--hmac", target.eab.hmac]

    def _lego(self, *arguments: str) -> None:
        run([*self._arguments, *arguments], env=self._env)

    def _obtained(self) -> Obtained:
        stem = self._names[0].replace("*", "_")
        stored = self._folder / "certificates"
        return check(self._target.roots, stored / f"{stem}.crt", stored / f"{stem}.key", self._names)

    def obtain(self, key_type: str = "ec256") -> Obtained:
        self._lego("--key-type", key_type, "run")
        return self._obtained()

    def renew(self) -> Obtained:
        self._lego("renew", "--days", "9999", "--no-random-sleep")
        return self._obtained()

    def revoke(self) -> None:
        self._lego("revoke", "--keep")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_http_01_renewal_and_revocation(database: str, lab: Lab, servers: Servers, tmp_path: Path) -> None:
    target = servers.target(database=database)
    lego = Lego(lab, tmp_path, target, "http-01", fresh_name(), fresh_name())
    first = lego.obtain()
    second = lego.renew()
    assert second.serial != first.serial
    lego.revoke()
    servers.assert_revoked(second, database=database)


@pytest.mark.parametrize("key_type", ["rsa2048", "ec384"])
def test_tls_alpn_01(key_type: str, lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Lego(lab, tmp_path, servers.target(), "tls-alpn-01", fresh_name()).obtain(key_type)


def test_dns_01_for_a_wildcard_and_its_parent(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    name = fresh_name()
    Lego(lab, tmp_path, servers.target(), "dns-01", f"*.{name}", name).obtain()


def test_external_account_binding(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Lego(lab, tmp_path, servers.target(eab=True), "http-01", fresh_name()).obtain()


def test_good_nonces_that_are_refused_are_got_over(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with servers.another(tmp_path, acme={"refuse_good_nonces": 0.3}) as server:
        Lego(lab, tmp_path, server.target(), "http-01", fresh_name(), fresh_name()).obtain()
