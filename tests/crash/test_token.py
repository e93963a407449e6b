"""Authorities whose keys are in a token, reached by p11-kit's remoting. Its process is killed under load:
nobody is failed, and status and rollover go on."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import AuthorityInformationAccessOID

from bench.acme_client import Responder
from certloom.pki.pem import to_pem
from tests.clients.lab import ADDRESS, Lab, wait_for
from tests.clients.server import Certloom
from tests.clients.servers import Servers
from tests.crash.load import Load
from tests.signing.softhsm import CLIENT, PIN, Remote, SoftHSM, needs_p11_kit, needs_softhsm
from tests.strangers import installed, said

_KILLS = 4
_OCSP = AuthorityInformationAccessOID.OCSP
_TOKEN = "pkcs11:token=certloom"
_DECLARED = """
[[profiles]]
name = "hsm"
authority = "hsm-issuing"
keys = [{ type = "ec", curves = ["P-256"] }]
extended_key_usage = ["serverAuth"]
names = { types = ["dns"] }
validity = { default = "30d", max = "60d" }

[[channels]]
protocol = "acme"
name = "hsm"
profiles = ["hsm"]
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    remote = Remote(SoftHSM(tmp_path / "softhsm", monkeypatch), monkeypatch)
    remote.start()
    yield remote
    remote.kill()


async def _kills(server: Certloom, lab: Lab, remote: Remote) -> Load:
    """Traffic; the token's process is killed and comes back; in the end the issuing CA is rolled over."""
    responder = Responder()
    await responder.listen(ADDRESS, lab.http_port)
    load = Load(server.target("hsm").directory, server.trust(), responder, workers=4)
    working = asyncio.create_task(load.run())

    async def more() -> None:
        until = len(load.received) + 10
        while len(load.received) < until and not working.done():
            await asyncio.sleep(0.02)

    try:
        for turn in range(_KILLS):
            await more()
            remote.kill()
            await asyncio.sleep(0.3 * turn)
            await asyncio.to_thread(remote.start)
        await more()
        await asyncio.to_thread(server.cli, "authority", "prepare", "hsm-issuing", "--key-in", _TOKEN)
        await asyncio.to_thread(server.cli, "authority", "activate", "hsm-issuing", "--force")
        await more()
        load.stop()
        await working
    finally:
        responder.close()
    return load


@needs_softhsm
@needs_p11_kit
@pytest.mark.parametrize(
    ("database", "algorithm"), [("sqlite", "P-256"), ("sqlite", "rsa-2048"), ("postgresql", "P-256")]
)
def test_a_token_that_is_killed_and_comes_back_fails_nobody(
    database: str, algorithm: str, remote: Remote, servers: Servers, lab: Lab, tmp_path: Path
) -> None:
    section = {"module": str(CLIENT), "token": "certloom", "pin_file": str(tmp_path / "softhsm" / "pin")}
    server = servers.another(tmp_path, database=database, signer={"tokens": {"rack": section}})
    server.variables = {"P11_KIT_SERVER_ADDRESS": remote.address}
    with server:
        made = ("--algorithm", algorithm, "--key-in", _TOKEN)
        server.cli("authority", "create", "hsm-root", "--subject", "CN=HSM Root", *made)
        server.cli(
            *("authority", "create", "hsm-issuing", "--subject", "CN=HSM Issuing", "--issuer", "hsm-root"),
            *made,
        )
        server.cli("authority", "set", "hsm-issuing", "ocsp_key=token")
        server.apply(_DECLARED)
        load = asyncio.run(_kills(server, lab, remote))
        assert load.interrupted == 0

        (root,) = json.loads(server.cli("authority", "generations", "hsm-root", "--json"))
        generations = json.loads(server.cli("authority", "generations", "hsm-issuing", "--json"))
        for number, generation in enumerate(generations):
            folder = tmp_path / f"g{number}"
            folder.mkdir()
            (folder / "root.pem").write_text(root["certificate"])
            (folder / "issuer.pem").write_text(generation["certificate"])
            leaf = load.received[0 if number == 0 else -1]
            (folder / "leaf.pem").write_bytes(to_pem(leaf))
            _status_follows(server, folder, x509.load_der_x509_certificate(leaf), algorithm)

        held = json.loads(server.cli("signer", "status", "--json"))["keys"]
        in_token = {(key["authority"], key["purpose"]) for key in held if key["token"]}
        assert in_token == {("hsm-root", "ca"), ("hsm-issuing", "ca"), ("hsm-issuing", "ocsp")}
        assert PIN not in server.printed()


def _status_follows(server: Certloom, folder: Path, leaf: x509.Certificate, algorithm: str) -> None:
    """openssl takes the chain, its CRLs and its OCSP answers, before and after a revocation."""
    root, issuer, pem = (folder / f"{name}.pem" for name in ("root", "issuer", "leaf"))
    key = x509.load_pem_x509_certificate(issuer.read_bytes()).public_key()
    assert isinstance(key, RSAPublicKey) is algorithm.startswith("rsa-")
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (ocsp,) = (d.access_location.value for d in access if d.access_method == _OCSP)

    def by_crl() -> tuple[bool, str]:
        for number, file in enumerate((issuer, pem)):
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
            points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            assert points[0].full_name is not None
            with urllib.request.urlopen(points[0].full_name[0].value, timeout=10) as answer:
                (folder / f"crl{number}.pem").write_bytes(to_pem(answer.read(), "X509 CRL"))
        crls = [part for number in (0, 1) for part in ("-CRLfile", folder / f"crl{number}.pem")]
        return said(
            [*installed("openssl"), "verify", "-crl_check_all", "-extended_crl", "-x509_strict"],
            *("-CAfile", root, "-untrusted", issuer, *crls, pem),
        )

    def by_ocsp(*more: str) -> str:
        about = ("-issuer", issuer, "-cert", pem, "-url", ocsp, "-CAfile", root, "-verify_other", issuer)
        fine, text = said([*installed("openssl"), "ocsp"], *about, *more)
        assert fine, text
        assert "Response verify OK" in text
        return text

    fine, text = by_crl()
    assert fine, text
    assert ": good" in by_ocsp("-nonce")
    server.cli("certificate", "revoke", f"{leaf.serial_number:x}", "--reason", "superseded")
    assert ": revoked" in by_ocsp("-nonce")
    assert ": revoked" in by_ocsp("-no_nonce")
    wait_for("the CRL", lambda: "certificate revoked" in by_crl()[1], 15)
