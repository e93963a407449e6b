"""CRLs as strangers take them from a real server, about what was got by ACME: openssl, gnutls, pkilint."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.authorities.lint import lint
from certloom.authorities.lint_subjects import Subject
from certloom.pki.pem import to_pem
from tests.clients.checks import Obtained
from tests.clients.lab import ADDRESS, Lab, fresh_name, wait_for
from tests.clients.server import Certloom
from tests.clients.servers import Servers
from tests.clients.test_acme_library import obtain
from tests.strangers import installed, said


class Lists:
    """The lists that a certificate names, fetched by their addresses, and what openssl says with them."""

    def __init__(self, folder: Path, obtained: Obtained, server: Certloom) -> None:
        self.folder = folder
        self.leaf, self.issuer = obtained.certificate, obtained.chain[0]
        self.root = server.root
        self.root_url = f"http://{ADDRESS}:{server.http_port}/crl/root/0.crl"
        for name, certificate in (("leaf", self.leaf), ("issuer", self.issuer)):
            (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    def urls(self) -> list[str]:
        """Of the complete list and its delta, and of the root's list."""
        points = self.leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        fresh = self.leaf.extensions.get_extension_for_class(x509.FreshestCRL).value
        found = []
        for point in (points[0], fresh[0]):
            assert point.full_name is not None
            found.append(str(point.full_name[0].value))
        return [*found, self.root_url]

    def fetch(self) -> list[bytes]:
        found = []
        for url in self.urls():
            with urllib.request.urlopen(url, timeout=10) as answer:
                found.append(answer.read())
        (self.folder / "lists.pem").write_bytes(b"".join(to_pem(der, "X509 CRL") for der in found))
        return found

    def verdict(self) -> tuple[bool, str]:
        try:
            self.fetch()
        except OSError as error:
            return False, str(error)
        return said(
            [
                *installed("openssl"),
                "verify",
                "-crl_check_all",
                "-extended_crl",
                "-use_deltas",
                "-x509_strict",
            ],
            *("-CAfile", self.root, "-untrusted", self.folder / "issuer.pem"),
            *("-CRLfile", self.folder / "lists.pem", self.folder / "leaf.pem"),
        )


@pytest.fixture(scope="module")
def server(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Certloom:
    started = servers.another(tmp_path_factory.mktemp("crl")).start()
    started.apply('[[channels]]\nprotocol = "acme"\nname = "open"\nprofiles = ["tls-server"]\n')
    started.cli("authority", "set", "issuing", "delta_seconds=3600", "full_crl=true")
    return started


def test_a_revocation_reaches_openssl_by_the_delta_and_a_release_takes_it_back(
    server: Certloom, lab: Lab, tmp_path: Path
) -> None:
    obtained, _ = obtain(lab, tmp_path, server.target("open"), names=[fresh_name()])
    lists = Lists(tmp_path, obtained, server)
    wait_for("delta CRLs", lambda: lists.verdict()[0], 30)
    complete = lists.fetch()[0]
    serial = f"{obtained.serial:x}"
    server.cli("certificate", "hold", serial)
    wait_for("the hold", lambda: "certificate revoked" in lists.verdict()[1], 15)
    server.cli("certificate", "unhold", serial)
    wait_for("the release", lambda: lists.verdict()[0], 15)
    server.cli("certificate", "revoke", serial, "--reason", "affiliationChanged")
    wait_for("the revocation", lambda: "certificate revoked" in lists.verdict()[1], 15)
    assert lists.fetch()[0] == complete, "the complete list waits for its time"
    fine, text = said(
        [*installed("openssl"), "crl", "-noout", "-text", "-in"],
        _written(tmp_path / "delta.pem", lists.fetch()[1]),
        *("-CAfile", tmp_path / "issuer.pem"),
    )
    assert fine, text
    assert "verify OK" in text
    assert "Affiliation Changed" in text
    for der in lists.fetch():
        assert [f for f in lint(Subject.CRL, der) if f.severity in ("warning", "error", "fatal")] == []


def _written(path: Path, der: bytes) -> Path:
    path.write_bytes(to_pem(der, "X509 CRL"))
    return path


def test_gnutls_reads_and_verifies_every_kind_of_list(server: Certloom, tmp_path: Path) -> None:
    base = f"http://{ADDRESS}:{server.http_port}"
    issuers = tmp_path / "issuers.pem"
    with urllib.request.urlopen(f"{base}/ca/issuing.pem", timeout=10) as answer:
        issuers.write_bytes(answer.read())
    for name in ("3", "3-delta", "full", "full-delta"):
        url = f"{base}/crl/issuing/{name}.crl"

        def there(url: str = url) -> bool:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    _written(tmp_path / "list.pem", answer.read())
            except OSError:
                return False
            return True

        wait_for(url, there, 30)
        fine, text = said(
            installed("certtool"),
            *("--verify-crl", "--load-ca-certificate", issuers, "--infile", tmp_path / "list.pem"),
        )
        assert fine, text
        assert "Verification output: Verified" in text
        fine, text = said(installed("certtool"), "--crl-info", "--infile", tmp_path / "list.pem")
        assert fine, text
        assert "CRL Number" in text
