"""OCSP as strangers ask it, of a real server, about certificates got by ACME: openssl, gnutls, curl."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from certloom.authorities.lint import lint_ocsp
from tests.clients.checks import Obtained
from tests.clients.lab import (
    ADDRESS,
    Lab,
    Program,
    environment,
    free_port,
    fresh_name,
    listening,
    run,
    wait_for,
)
from tests.clients.servers import Servers
from tests.clients.test_acme_library import obtain
from tests.strangers import installed, said


class Asker:
    """A certificate, its chain in files, and the responder that it names."""

    def __init__(self, folder: Path, obtained: Obtained, root: Path) -> None:
        self.folder = folder
        self.leaf = obtained.certificate
        (self.name,) = obtained.names()
        self.root = root
        self.cert = self._pem("leaf.pem", obtained.certificate)
        self.issuer = self._pem("issuer.pem", obtained.chain[0])
        access = self.leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        (self.url,) = (
            d.access_location.value for d in access if d.access_method == AuthorityInformationAccessOID.OCSP
        )

    def _pem(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return path

    def openssl(self, *arguments: str | Path) -> str:
        """What it says, having verified the answer up to the root and nothing else."""
        trust: list[str | Path] = ["-CAfile", self.root, "-verify_other", self.issuer]
        fine, text = said([*installed("openssl"), "ocsp"], *arguments, *trust)
        assert fine, text
        assert "Response verify OK" in text
        return text


@pytest.fixture(scope="module")
def asker(lab: Lab, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Asker:
    folder = tmp_path_factory.mktemp("ocsp")
    target = servers.target()
    obtained, _ = obtain(lab, folder, target, names=[fresh_name()])
    return Asker(folder, obtained, target.roots)


def test_openssl_with_and_without_a_nonce(asker: Asker) -> None:
    about = ("-issuer", asker.issuer, "-cert", asker.cert, "-url", asker.url)
    for nonce in ("-nonce", "-no_nonce"):
        text = asker.openssl(*about, nonce)
        assert f"{asker.cert}: good" in text
        assert "WARNING" not in text
    full = asker.openssl("-sha256", *about, "-text")
    assert "Hash Algorithm: sha256" in full
    assert "OCSP No Check" in full


def test_openssl_about_several_at_once(asker: Asker) -> None:
    other = asker.leaf.serial_number ^ 1
    serials = [f"0x{asker.leaf.serial_number:x}", f"0x{other:x}", "17"]
    arguments = [part for serial in serials for part in ("-serial", serial)]
    text = asker.openssl("-issuer", asker.issuer, *arguments, "-url", asker.url)
    places = [
        text.index(f"{serial}: {word}")
        for serial, word in zip(serials, ("good", "unknown", "unknown"), strict=True)
    ]
    assert places == sorted(places)
    # The issuing CA's own certificate, by the root.
    above = asker.openssl("-issuer", asker.root, "-cert", asker.issuer, "-url", asker.url)
    assert f"{asker.issuer}: good" in above


def test_a_get_by_curl_is_what_openssl_accepts(asker: Asker) -> None:
    request, response = asker.folder / "request.der", asker.folder / "response.der"
    about = ("-issuer", asker.issuer, "-cert", asker.cert)
    said([*installed("openssl"), "ocsp"], *about, "-no_nonce", "-reqout", request)
    path = quote(base64.b64encode(request.read_bytes()).decode(), safe="")
    run([*installed("curl"), "-sSf", "-o", response, f"{asker.url}/{path}"], env=environment(asker.folder))
    assert f"{asker.cert}: good" in asker.openssl(*about, "-respin", response)
    assert lint_ocsp(response.read_bytes(), "warning") == []


def test_gnutls_ocsptool(asker: Asker) -> None:
    chain = asker.folder / "chain.pem"
    chain.write_bytes(asker.issuer.read_bytes() + asker.root.read_bytes())
    asked = ("--load-issuer", asker.issuer, "--load-cert", asker.cert, "--load-trust", chain)
    for nonce in ("--nonce", "--no-nonce"):
        fine, text = said(installed("ocsptool"), f"--ask={asker.url}", *asked, nonce)
        assert fine, text
        assert "Certificate Status: good" in text
        assert "Verifying OCSP Response: Success" in text


def test_a_stapled_answer_satisfies_openssl_and_curl(asker: Asker) -> None:
    """Our answer, handed on by another's TLS server to clients that insist on it (RFC 6066 section 8)."""
    staple = asker.folder / "staple.der"
    about = ("-issuer", asker.issuer, "-cert", asker.cert, "-url", asker.url, "-no_nonce")
    asker.openssl(*about, "-respout", staple)
    port = free_port()
    server = Program(
        [
            *installed("openssl"),
            "s_server",
            "-accept",
            f"{ADDRESS}:{port}",
            "-www",
            *("-cert", asker.cert, "-key", asker.folder / "it.key", "-cert_chain", asker.issuer),
            *("-status_file", staple),
        ],
        log=asker.folder / "s_server.log",
        env=environment(asker.folder),
    )
    try:
        wait_for("s_server", lambda: listening(port, ADDRESS))
        fine, text = said(
            [*installed("openssl"), "s_client"],
            *("-connect", f"{ADDRESS}:{port}", "-servername", asker.name, "-status", "-CAfile", asker.root),
            "-verify_return_error",
            stdin=b"Q\n",
        )
        assert fine, text
        assert "OCSP Response Status: successful" in text
        assert "Cert Status: good" in text
        resolve = f"{asker.name}:{port}:{ADDRESS}"
        run(
            [
                *installed("curl"),
                *("-sSf", "--cert-status", "--cacert", asker.root, "--resolve", resolve),
                f"https://{asker.name}:{port}/",
            ],
            env=environment(asker.folder),
        )
    finally:
        server.kill()


def test_a_revocation_is_seen_at_once_and_outlives_a_kill(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    server = servers.another(tmp_path)
    with server:
        server.apply('[[channels]]\nprotocol = "acme"\nname = "open"\nprofiles = ["tls-server"]\n')
        obtained, _ = obtain(lab, tmp_path, server.target("open"), names=[fresh_name()])
        asker = Asker(tmp_path, obtained, server.root)
        about = ("-issuer", asker.issuer, "-cert", asker.cert, "-url", asker.url, "-no_nonce")
        assert f"{asker.cert}: good" in asker.openssl(*about)
        server.cli("certificate", "revoke", f"{obtained.serial:x}", "--reason", "superseded")
        text = asker.openssl(*about)
        assert f"{asker.cert}: revoked" in text
        assert "Reason: superseded" in text
        server.kill()
        server.start()
        assert f"{asker.cert}: revoked" in asker.openssl(*about)
        server.kill_signer()
        began = time.monotonic()
        assert f"{asker.cert}: revoked" in asker.openssl(*about[:-1], "-nonce")
        assert time.monotonic() - began < 20
