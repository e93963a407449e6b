"""acmetool: http-01 by webroot, dns-01 by hook.

It asks for an account with onlyReturnExisting first. Its ``revoke`` marks the certificate in its files and
never tells the server (0.2.2, at pebble as well), so there is no revocation to test.
"""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path

from tests.clients.checks import Obtained, check
from tests.clients.lab import Lab, Webroot, environment, fresh_name, run
from tests.clients.servers import Servers
from tests.clients.target import Target


class Acmetool:
    """One acmetool state folder, for one certificate."""

    def __init__(self, lab: Lab, folder: Path, target: Target, name: str) -> None:
        self._target, self._name = target, name
        self._env = environment(folder, SSL_CERT_FILE=str(target.tls_ca))
        self._state = folder / "state"
        (self._state / "conf").mkdir(parents=True)
        hooks = folder / "hooks"
        hooks.mkdir()
        lab.hook(
            hooks,
            "dns",
            "case $1 in\n"
            'challenge-dns-start) set_txt "_acme-challenge.$2." "$4";;\n'
            'challenge-dns-stop) clear_txt "_acme-challenge.$2.";;\n'
            "*) exit 42;;\nesac\n",
        )
        with urllib.request.urlopen(
            target.directory, context=ssl.create_default_context(cafile=str(target.tls_ca)), timeout=10
        ) as answer:
            terms = json.load(answer).get("meta", {}).get("termsOfService", "")
        answers = folder / "answers.yaml"
        answers.write_text(f'"acme-enter-email": "admin@example.com"\n"acme-agreement:{terms}": true\n')
        (self._state / "conf" / "target").write_text(
            "request:\n"
            f"  provider: {target.directory}\n"
            "  key:\n    type: ecdsa\n    ecdsa-curve: nistp256\n"
            "  challenge:\n"
            f"    webroot-paths: [ {folder}/www/.well-known/acme-challenge ]\n"
            "    http-self-test: false\n"
        )
        self._base = [
            *("acmetool", "--state", str(self._state), "--hooks", str(hooks)),
            *("--batch", "--response-file", str(answers), "--xlog.severity=info"),
        ]

    def obtain(self) -> Obtained:
        run([*self._base, "want", self._name], env=self._env)
        live = self._state / "live" / self._name
        return check(self._target.roots, live / "fullchain", live / "privkey", [self._name])


def test_http_01(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with Webroot(lab, tmp_path):
        Acmetool(lab, tmp_path, servers.target(), fresh_name()).obtain()


def test_dns_01_for_a_wildcard(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Acmetool(lab, tmp_path, servers.target(), f"*.{fresh_name()}").obtain()
