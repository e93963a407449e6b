"""acme-tiny: http-01 by webroot. RSA account key, GET newNonce before each request, no EAB, no revocation."""

from __future__ import annotations

from pathlib import Path

from tests.clients.checks import Obtained, check
from tests.clients.lab import Lab, Webroot, environment, fresh_name, run
from tests.clients.servers import Servers
from tests.clients.target import Target


class AcmeTiny:
    """One account key and one request."""

    def __init__(self, folder: Path, target: Target, *names: str) -> None:
        self._folder, self._target, self._names = folder, target, names
        self._env = environment(folder, SSL_CERT_FILE=str(target.tls_ca))
        self._account, self._key, self._csr = folder / "account.key", folder / "it.key", folder / "it.csr"
        run(["openssl", "genrsa", "-out", self._account, "2048"], env=self._env)
        names_extension = ",".join(f"DNS:{name}" for name in names)
        run(
            [
                *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-nodes", "-subj", "/", "-addext", f"subjectAltName={names_extension}"),
                *("-keyout", self._key, "-out", self._csr),
            ],
            env=self._env,
        )

    def obtain(self) -> Obtained:
        chain = self._folder / "chain.pem"
        printed = run(
            [
                *("acme-tiny", "--quiet", "--account-key", self._account, "--csr", self._csr),
                *("--acme-dir", self._folder / "www/.well-known/acme-challenge"),
                *("--directory-url", self._target.directory, "--disable-check"),
            ],
            env=self._env,
        )
        chain.write_text(printed)
        return check(self._target.roots, chain, self._key, self._names)


def test_http_01_twice(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    with Webroot(lab, tmp_path):
        client = AcmeTiny(tmp_path, servers.target(), fresh_name(), fresh_name())
        assert client.obtain().serial != client.obtain().serial
