"""Chains and CRLs of every algorithm, through verifiers that others wrote.

Debian 12's OpenSSL 3.0 and GnuTLS know the classic algorithms; ML-DSA and ML-KEM are shown to an OpenSSL of
3.5 or newer, out of a Debian sid.
"""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from certloom.authorities.lint import lint_certificate, lint_crl
from certloom.pki import keys
from certloom.pki.ca import make_ca, make_root
from certloom.pki.certificates import build_certificate, issuer_facts, recheck
from certloom.pki.containers import key_store
from certloom.pki.crl import CRLEntry, CRLTemplate, build_crl
from certloom.pki.extensions import EXTENDED_KEY_USAGE, SERVER_AUTH, Extension
from certloom.pki.keys import LeafPrivateKey
from certloom.pki.names import Name, parse_name
from certloom.pki.template import CertificateTemplate
from tests.pki.making import dns, key
from tests.strangers import go_program, installed, said, sid

HOST = "www.example.com"
HOUR, DAY = 3_600, 86_400
ROOT_CRL, ISSUING_CRL = "http://ca.test/crl/root/0.crl", "http://ca.test/crl/issuing/3.crl"

CLASSIC = [(one, one, one) for one in ("rsa-2048", "P-256", "P-384", "P-521", "ed25519", "ed448")] + [
    ("rsa-2048", "P-384", "ed25519"),
    ("P-521", "rsa-2048", "P-256"),
    ("ed448", "P-256", "rsa-2048"),
]
LATTICE = [(one, one, one) for one in ("ml-dsa-44", "ml-dsa-65", "ml-dsa-87")] + [
    ("ml-dsa-87", "ml-dsa-65", "P-256"),
    ("rsa-2048", "ml-dsa-44", "ed25519"),
    ("P-384", "P-256", "ml-dsa-65"),
    ("ml-dsa-65", "ml-dsa-65", "ml-kem-768"),
    ("P-256", "P-256", "ml-kem-1024"),
]


def _id(algorithms: object) -> str:
    return "/".join(algorithms) if isinstance(algorithms, tuple) else str(algorithms)


class Chain(NamedTuple):
    """Root, issuing CA, two leaves of which one is revoked, and the CRLs of both CAs. DER."""

    root: bytes
    issuing: bytes
    leaf: bytes
    revoked: bytes
    root_crl: bytes
    issuing_crl: bytes
    leaf_key: LeafPrivateKey

    def files(self, where: Path) -> dict[str, Path]:
        """PEM: root, issuing, leaf, revoked, both CRLs, and each leaf with its issuer."""
        certificates = {name: getattr(self, name) for name in ("root", "issuing", "leaf", "revoked")}
        lists = {name: getattr(self, name) for name in ("root_crl", "issuing_crl")}
        texts = {name: _pem("CERTIFICATE", der) for name, der in certificates.items()}
        texts |= {name: _pem("X509 CRL", der) for name, der in lists.items()}
        texts["chain"] = texts["leaf"] + texts["issuing"]
        texts["revoked_chain"] = texts["revoked"] + texts["issuing"]
        texts["crls"] = texts["root_crl"] + texts["issuing_crl"]
        paths = {name: where / f"{name}.pem" for name in texts}
        for name, path in paths.items():
            path.write_text(texts[name])
        return paths


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


@lru_cache
def chain(algorithms: tuple[str, str, str]) -> Chain:
    """A chain whose keys are of these kinds, from the root down; good now."""
    now = int(time.time())
    root_key, issuing_key = key(algorithms[0]), keys.generate(algorithms[1])
    leaf_key = keys.generate_for_leaf(algorithms[2])
    root = make_root(
        root_key,
        subject=parse_name("CN=Strangers' Root,O=Test,C=CH"),
        serial=os.urandom(16),
        not_before=now - DAY,
        not_after=now + 7000 * DAY,
    )
    issuing = make_ca(
        issuing_key.public_key(),
        issuer_facts(root),
        root_key,
        subject=parse_name("CN=Strangers' Issuing CA,O=Test,C=CH"),
        serial=os.urandom(16),
        not_before=now - DAY,
        not_after=now + 3000 * DAY,
        more=(Extension(EXTENDED_KEY_USAGE, False, bytes.fromhex("300a06082b06010505070301")),),
        crl_url=ROOT_CRL,
        issuer_url="http://ca.test/ca/root.crt",
    )
    kem = algorithms[2].startswith("ml-kem")
    leaves = []
    for _ in range(2):
        template = CertificateTemplate(
            serial=os.urandom(16),
            spki=keys.spki_of(leaf_key),
            subject=Name(),
            identifiers=dns(HOST),
            not_before=now - HOUR,
            not_after=now + 90 * DAY,
            key_usage=("keyEncipherment",) if kem else ("digitalSignature",),
            extended_key_usage=(SERVER_AUTH,),
            crl_url=ISSUING_CRL,
            issuer_url="http://ca.test/ca/issuing.crt",
            ocsp_url="http://ca.test/ocsp/issuing",
            delta_url="http://ca.test/crl/issuing/3-delta.crl",
        )
        leaf = build_certificate(template, issuer_facts(issuing), issuing_key)
        assert recheck(leaf, template, issuer_facts(issuing)) == []
        leaves.append(leaf)
    serial = x509.load_der_x509_certificate(leaves[1]).serial_number.to_bytes(16, "big")
    lists = [
        build_crl(
            CRLTemplate(entries, now, now - HOUR, now + 7 * DAY, distribution_point_url=url),
            issuer_facts(by),
            by_key,
        )
        for entries, url, by, by_key in (
            # As the product has it: the whole list of a CA with one shard, for its own certificate too.
            ((), None, root, root_key),
            ((CRLEntry(serial, now - HOUR, 1),), ISSUING_CRL, issuing, issuing_key),
        )
    ]
    return Chain(root, issuing, leaves[0], leaves[1], lists[0], lists[1], leaf_key)


def _openssl_verifies(openssl: list[str], files: dict[str, Path]) -> None:
    """The good leaf passes, the revoked one does not, nor either without the CRLs."""
    common = ["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", HOST]
    common += ["-CAfile", str(files["root"]), "-untrusted", str(files["issuing"])]
    lists = ["-crl_check_all", "-extended_crl", "-CRLfile", str(files["crls"])]
    good, text = said(openssl, *common, *lists, files["leaf"])
    assert good, text
    good, text = said(openssl, *common, *lists, files["revoked"])
    assert not good
    assert "certificate revoked" in text
    good, text = said(openssl, *common, "-crl_check_all", files["leaf"])
    assert not good
    assert "unable to get certificate CRL" in text


@pytest.mark.parametrize("algorithms", CLASSIC, ids=_id)
def test_openssl_verifies_chains_and_crls(algorithms: tuple[str, str, str], tmp_path: Path) -> None:
    _openssl_verifies(installed("openssl"), chain(algorithms).files(tmp_path))


@pytest.mark.parametrize("algorithms", LATTICE, ids=_id)
def test_a_newer_openssl_verifies_chains_and_crls_of_the_new_algorithms(
    algorithms: tuple[str, str, str], tmp_path: Path
) -> None:
    _openssl_verifies(sid("openssl"), chain(algorithms).files(tmp_path))


@pytest.mark.parametrize("algorithms", CLASSIC, ids=_id)
def test_gnutls_verifies_chains_and_crls(algorithms: tuple[str, str, str], tmp_path: Path) -> None:
    _gnutls_verifies(installed("certtool"), chain(algorithms).files(tmp_path))


def _gnutls_verifies(certtool: list[str], files: dict[str, Path]) -> None:
    verify = ["--verify", "--load-ca-certificate", str(files["root"]), "--verify-hostname", HOST]
    purpose = f"--verify-purpose={SERVER_AUTH}"
    good, text = said(certtool, *verify, purpose, "--infile", files["chain"])
    assert good, text
    assert "Chain verification output: Verified." in text
    # It says the chain is verified with the CRL at hand only where the CRL lists none of it.
    lists = ["--load-crl", str(files["crls"])]
    good, text = said(certtool, *verify, *lists, "--infile", files["revoked_chain"])
    assert not good or "revoked" in text, text
    for signer, signed in (("root", "root_crl"), ("issuing", "issuing_crl")):
        good, text = said(
            certtool, "--verify-crl", "--load-ca-certificate", files[signer], "--infile", files[signed]
        )
        assert good, text
        assert "Verified." in text


@pytest.mark.parametrize("algorithms", [one for one in CLASSIC if "ed448" not in one], ids=_id)
def test_go_verifies_chains_and_crls(algorithms: tuple[str, str, str], tmp_path: Path) -> None:
    verify = go_program("verify")
    files = chain(algorithms).files(tmp_path)
    lists = (files["root_crl"], files["issuing_crl"])
    assert said(verify, files["root"], files["chain"], HOST, *lists) == (True, "valid\n")
    assert said(verify, files["root"], files["revoked_chain"], HOST, *lists) == (True, "revoked\n")
    good, text = said(verify, files["root"], files["chain"], "elsewhere.example.com", *lists)
    assert not good
    assert HOST in text


@pytest.mark.parametrize("algorithms", [one for one in CLASSIC if one[0][0] in "rP"], ids=_id)
def test_cryptographys_verifier_takes_the_chain(algorithms: tuple[str, str, str]) -> None:
    # It follows the web's rules, which know RSA and P curves only for CAs.
    made = chain(algorithms)
    root, issuing, leaf = (x509.load_der_x509_certificate(der) for der in made[:3])
    builder = PolicyBuilder().store(Store([root])).time(datetime.now(UTC))
    verified = builder.build_server_verifier(x509.DNSName(HOST)).verify(leaf, [issuing])
    assert verified == [leaf, issuing, root]
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("elsewhere.example.com")).verify(leaf, [issuing])


@pytest.mark.parametrize("algorithms", CLASSIC + LATTICE, ids=_id)
def test_pkilint_has_nothing_against_them(algorithms: tuple[str, str, str]) -> None:
    made = chain(algorithms)
    for certificate in made[:4]:
        assert lint_certificate(certificate) == []
    for crl in (made.root_crl, made.issuing_crl):
        assert lint_crl(crl) == []


@pytest.mark.parametrize("algorithm", ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_a_tls_server_can_be_an_ml_dsa_one(algorithm: str, tmp_path: Path) -> None:
    openssl = sid("openssl")
    made = chain((algorithm, algorithm, algorithm))
    files = made.files(tmp_path)
    private = made.leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    served = "-cert leaf.pem -key key.pem -cert_chain issuing.pem -www"
    server = subprocess.Popen(
        [*openssl, *f"s_server -accept 127.0.0.1:{port} {served}".split()],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 20
        while True:
            good, text = said(
                openssl,
                *("s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST),
                *("-CAfile", files["root"], "-verify_hostname", HOST, "-verify_return_error"),
            )
            if good or time.monotonic() > end or server.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        server.kill()
        server.wait()
    assert good, text
    assert "Verify return code: 0 (ok)" in text
    assert f"Peer signature type: mldsa{algorithm[-2:]}" in text


@pytest.mark.parametrize("algorithm", ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "ml-kem-768", "ml-kem-1024"])
def test_a_newer_openssl_opens_what_is_handed_out(algorithm: str, tmp_path: Path) -> None:
    openssl = sid("openssl")
    made = chain(("P-256", "P-256", algorithm))
    protection = BestAvailableEncryption(b"long enough")
    plain = tmp_path / "key.p8"
    plain.write_bytes(made.leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    good, text = said(openssl, "pkey", "-in", plain, "-passin", "pass:long enough", "-pubout")
    assert good, text
    expected = keys.spki_of(made.leaf_key)
    assert base64.b64decode("".join(text.splitlines()[1:-1])) == expected
    store = tmp_path / "key.p12"
    store.write_bytes(key_store(made.leaf_key, [made.leaf, made.issuing], "long enough", HOST))
    good, text = said(openssl, "pkcs12", "-in", store, "-passin", "pass:long enough", "-nodes")
    assert good, text
    assert (text.count("BEGIN CERTIFICATE"), text.count("BEGIN PRIVATE KEY")) == (2, 1)
    good, _ = said(openssl, "pkcs12", "-in", store, "-passin", "pass:another", "-nodes")
    assert not good


@pytest.mark.parametrize("algorithm", ["rsa-2048", "P-256", "ed25519", "ed448"])
def test_anyone_opens_our_pkcs12(algorithm: str, tmp_path: Path) -> None:
    made = chain((algorithm, algorithm, algorithm))
    store = tmp_path / "key.p12"
    store.write_bytes(key_store(made.leaf_key, [made.leaf, made.issuing], "pässword", "Nämé"))
    openssl, certtool = installed("openssl"), installed("certtool")
    for command in (
        [*openssl, "pkcs12", "-nodes", "-passin", "pass:pässword", "-in", str(store)],
        [*certtool, "--p12-info", "--inder", "--password", "pässword", "--infile", str(store)],
    ):
        good, text = said(command)
        assert good, text
        assert (text.count("BEGIN CERTIFICATE"), text.count("PRIVATE KEY-----")) == (2, 2)
