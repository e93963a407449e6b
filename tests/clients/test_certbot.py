"""certbot 5.8: http-01, dns-01, wildcards, IP addresses, EAB, renewal, ARI, revocation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.checks import Obtained, check
from tests.clients.lab import ADDRESS, TOOLS, Lab, environment, fresh_name, run
from tests.clients.servers import Servers
from tests.clients.target import Target


class Certbot:
    """One certbot installation of its own, for one certificate."""

    def __init__(self, lab: Lab, folder: Path, target: Target) -> None:
        self._lab, self._folder, self._target = lab, folder, target
        self._env = environment(folder, REQUESTS_CA_BUNDLE=str(target.tls_ca))
        self._folders: list[str | Path] = [
            *("--config-dir", folder / "config"),
            *("--work-dir", folder / "work"),
            *("--logs-dir", folder / "logs"),
        ]
        self.live = folder / "config" / "live" / "it"
        self._names: tuple[str, ...] = ()

    def certbot(self, *arguments: str | Path, timeout: float = 90) -> str:
        return run(
            [TOOLS / "certbot/bin/certbot", *arguments, *self._folders], env=self._env, timeout=timeout
        )

    def obtain(
        self, *names: str, challenge: str = "http-01", ip: bool = False, more: tuple[str, ...] = ()
    ) -> Obtained:
        arguments: list[str | Path] = [
            *("certonly", "-n", "--agree-tos", "--register-unsafely-without-email"),
            *("--server", self._target.directory, "--cert-name", "it", "--preferred-challenges", challenge),
        ]
        for name in names:
            arguments += ["--ip-address" if ip else "-d", name]
        if self._target.eab:
            arguments += ["--eab-kid", self._target.eab.kid, "--eab-hmac-key", self._target.eab.hmac]
        if challenge == "http-01":
            arguments += ["--standalone", "--http-01-address", ADDRESS]
            arguments += ["--http-01-port", str(self._lab.http_port)]
        else:
            value = '"_acme-challenge.$CERTBOT_DOMAIN."'
            begin = self._lab.hook(self._folder, "begin", f'set_txt {value} "$CERTBOT_VALIDATION"\n')
            end = self._lab.hook(self._folder, "end", f"clear_txt {value}\n")
            arguments += ["--manual", "--manual-auth-hook", begin, "--manual-cleanup-hook", end]
        self.certbot(*arguments, *more)
        self._names = names
        return self.obtained()

    def obtained(self) -> Obtained:
        return check(self._target.roots, self.live / "fullchain.pem", self.live / "privkey.pem", self._names)

    def renew(self, *arguments: str) -> Obtained:
        self.certbot("renew", "-n", "--no-random-sleep-on-renew", "--cert-name", "it", *arguments)
        return self.obtained()

    def revoke(self, *arguments: str | Path) -> str:
        return self.certbot(
            *("revoke", "-n", "--server", self._target.directory, "--cert-path", self.live / "cert.pem"),
            *("--no-delete-after-revoke", *arguments),
        )


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_http_01_renewal_and_revocation(database: str, lab: Lab, servers: Servers, tmp_path: Path) -> None:
    certbot = Certbot(lab, tmp_path, servers.target(database=database))
    first = certbot.obtain(fresh_name(), fresh_name())
    second = certbot.renew("--force-renewal")
    assert second.serial != first.serial
    certbot.revoke("--reason", "superseded")
    servers.assert_revoked(second, reason=4, database=database)


def test_dns_01_for_a_wildcard_and_its_parent(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    name = fresh_name()
    Certbot(lab, tmp_path, servers.target()).obtain(f"*.{name}", name, challenge="dns-01")


def test_an_ip_address(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Certbot(lab, tmp_path, servers.target()).obtain(ADDRESS, ip=True)


def test_external_account_binding(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Certbot(lab, tmp_path, servers.target(eab=True)).obtain(fresh_name())


def test_revocation_with_the_certificates_own_key(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    certbot = Certbot(lab, tmp_path, servers.target())
    obtained = certbot.obtain(fresh_name())
    certbot.revoke("--key-path", certbot.live / "privkey.pem", "--reason", "keycompromise")
    servers.assert_revoked(obtained, reason=1)
