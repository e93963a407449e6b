"""dehydrated: http-01, dns-01, tls-alpn-01, wildcards, EAB, renewal, revocation.

It never retries badNonce, signs with RS256 and asks for a new nonce before every request.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.checks import Obtained, check
from tests.clients.lab import ADDRESS, Lab, Webroot, environment, fresh_name, run
from tests.clients.servers import Servers
from tests.clients.target import Target


class Dehydrated:
    """One dehydrated configuration, for one certificate."""

    def __init__(self, lab: Lab, folder: Path, target: Target, challenge: str, *names: str) -> None:
        self._folder, self._target, self._names = folder, target, names
        self._env = environment(folder)
        begin = {
            "http-01": ":",
            "dns-01": 'set_txt "_acme-challenge.$2." "$4"',
            # The responder is left to the hook (RFC 8737 section 3): here, openssl's.
            "tls-alpn-01": (
                f"openssl s_server -quiet -accept {ADDRESS}:{lab.tls_port} -alpn acme-tls/1"
                f' -cert "{folder}/alpn/$2.crt.pem" -key "{folder}/alpn/$2.key.pem"'
                f" </dev/null >/dev/null 2>&1 & echo $! >{folder}/responder; sleep 0.5"
            ),
        }[challenge]
        end = {
            "http-01": ":",
            "dns-01": 'clear_txt "_acme-challenge.$2."',
            "tls-alpn-01": f'kill "$(cat {folder}/responder)"',
        }[challenge]
        hook = lab.hook(
            folder,
            "hook",
            f"case $1 in\ndeploy_challenge) {begin};;\nclean_challenge) {end};;\nesac\nexit 0\n",
        )
        self._config = folder / "config"
        self._config.write_text(
            f'CA="{target.directory}"\n'
            f"BASEDIR={folder}/base\n"
            f"ALPNCERTDIR={folder}/alpn\n"
            f"WELLKNOWN={folder}/www/.well-known/acme-challenge\n"
            f"CHALLENGETYPE={challenge}\n"
            f'CURL_OPTS="--cacert {target.tls_ca}"\n'
            "KEY_ALGO=prime256v1\n"
            f"HOOK={hook}\n"
            + (f'EAB_KID="{target.eab.kid}"\nEAB_HMAC_KEY="{target.eab.hmac}"\n' if target.eab else "")
        )
        for name in ("base", "alpn"):
            (folder / name).mkdir()

    def _dehydrated(self, *arguments: str | Path) -> None:
        run(["dehydrated", "-f", self._config, *arguments], env=self._env)

    def _stored(self) -> Path:
        (stored,) = (self._folder / "base/certs").iterdir()
        return stored

    def obtain(self, *arguments: str) -> Obtained:
        if not arguments:
            self._dehydrated("--register", "--accept-terms")
        alias = ("--alias", self._names[0].replace("*.", "star_"))
        self._dehydrated("-c", *arguments, "-d", " ".join(self._names), *alias)
        stored = self._stored()
        return check(self._target.roots, stored / "fullchain.pem", stored / "privkey.pem", self._names)

    def renew(self) -> Obtained:
        return self.obtain("--force")

    def revoke(self) -> None:
        self._dehydrated("--revoke", self._stored() / "cert.pem")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_http_01_renewal_and_revocation(database: str, lab: Lab, servers: Servers, tmp_path: Path) -> None:
    target = servers.target(database=database)
    with Webroot(lab, tmp_path):
        dehydrated = Dehydrated(lab, tmp_path, target, "http-01", fresh_name())
        first = dehydrated.obtain()
        second = dehydrated.renew()
    assert second.serial != first.serial
    dehydrated.revoke()
    servers.assert_revoked(second, database=database)


def test_dns_01_for_a_wildcard(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Dehydrated(lab, tmp_path, servers.target(), "dns-01", f"*.{fresh_name()}").obtain()


def test_tls_alpn_01(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Dehydrated(lab, tmp_path, servers.target(), "tls-alpn-01", fresh_name()).obtain()


def test_external_account_binding(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with Webroot(lab, tmp_path):
        Dehydrated(lab, tmp_path, servers.target(eab=True), "http-01", fresh_name()).obtain()
