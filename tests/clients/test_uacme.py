"""uacme: http-01, dns-01, tls-alpn-01 (with ualpn), wildcards, IP addresses, EAB, renewal, revocation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.checks import Obtained, check
from tests.clients.lab import (
    ADDRESS,
    Lab,
    Program,
    Webroot,
    environment,
    free_port,
    fresh_name,
    private_mounts,
    run,
    wait_for,
)
from tests.clients.servers import Servers
from tests.clients.target import Target


class Uacme:
    """One uacme account, for one certificate."""

    def __init__(self, lab: Lab, folder: Path, target: Target, challenge: str, name: str) -> None:
        self._folder, self._target, self._name = folder, target, name
        self._env = environment(folder)
        # uacme's HTTP library knows no CA file but the system's: it sees ours in that place.
        self._prefix = private_mounts((target.tls_ca, "/etc/ssl/certs/ca-certificates.crt"))
        self._hook = lab.hook(
            folder,
            "hook",
            f'[ "$2" = {challenge} ] || exit 1\n'
            'case "$1:$2" in\n'
            f'begin:http-01) printf %s "$5" >"{folder}/www/.well-known/acme-challenge/$4";;\n'
            'begin:dns-01) set_txt "_acme-challenge.$3." "$5";;\n'
            '*:dns-01) clear_txt "_acme-challenge.$3.";;\n'
            f'begin:tls-alpn-01) [ "$(echo "auth $3 $5" | ualpn -s {folder}/ualpn.sock)" = OK ] || exit 1;;\n'
            "esac\nexit 0\n",
        )

    def _uacme(self, *arguments: str | Path) -> None:
        base = ["uacme", "-v", "-c", str(self._folder / "state"), "-a", self._target.directory]
        run([*self._prefix, *base, *arguments], env=self._env)

    def _issue(self, *arguments: str) -> Obtained:
        self._uacme("-h", self._hook, "-t", "EC", *arguments, "issue", self._name)
        stem = self._name.replace("*.", "")
        state = self._folder / "state"
        chain, key = state / stem / "cert.pem", state / "private" / stem / "key.pem"
        return check(self._target.roots, chain, key, [self._name])

    def obtain(self) -> Obtained:
        eab = self._target.eab
        self._uacme("-y", *(("-e", f"{eab.kid}:{eab.hmac}") if eab else ()), "new")
        return self._issue()

    def renew(self) -> Obtained:
        return self._issue("-f")

    def revoke(self) -> None:
        self._uacme("revoke", self._folder / "state" / self._name / "cert.pem")


@contextmanager
def ualpn(lab: Lab, folder: Path) -> Iterator[None]:
    """uacme's tls-alpn-01 responder at the lab's port."""
    socket = folder / "ualpn.sock"
    # Everything that is no challenge would go to this backend; nobody listens there.
    backend = f"{ADDRESS}@{free_port()}"

    def start() -> Program:
        return Program(
            [
                *("ualpn", "-v", "-b", f"{ADDRESS}@{lab.tls_port}", "-c", backend),
                *("-p", folder / "ualpn.pid", "-s", socket),
            ],
            log=folder / "ualpn.log",
            env=environment(folder),
        )

    program = start()

    def ready() -> bool:
        nonlocal program
        if program.process.poll() is not None:
            # It sets no SO_REUSEADDR: the port's last connections have to be forgotten first.
            (folder / "ualpn.pid").unlink(missing_ok=True)
            program = start()
        return socket.exists()

    try:
        wait_for("ualpn", ready, 90)
        yield
    finally:
        program.stop()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_http_01_renewal_and_revocation(database: str, lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with Webroot(lab, tmp_path):
        uacme = Uacme(lab, tmp_path, servers.target(database=database), "http-01", fresh_name())
        first = uacme.obtain()
        second = uacme.renew()
    assert second.serial != first.serial
    uacme.revoke()
    servers.assert_revoked(second, database=database)


def test_dns_01_for_a_wildcard(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    Uacme(lab, tmp_path, servers.target(), "dns-01", f"*.{fresh_name()}").obtain()


def test_http_01_for_an_ip_address(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with Webroot(lab, tmp_path):
        Uacme(lab, tmp_path, servers.target(), "http-01", ADDRESS).obtain()


@pytest.mark.parametrize("what", ["name", "address"])
def test_tls_alpn_01(what: str, lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with ualpn(lab, tmp_path):
        name = fresh_name() if what == "name" else ADDRESS
        Uacme(lab, tmp_path, servers.target(), "tls-alpn-01", name).obtain()


def test_external_account_binding(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with Webroot(lab, tmp_path):
        Uacme(lab, tmp_path, servers.target(eab=True), "http-01", fresh_name()).obtain()
