"""Compromised keys by API and command line, and proofs by whoever has the key."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from certloom.api.routing import NOBODY
from certloom.clock import ManualClock
from certloom.identity.principals import Grant, Principal, Role, holding, local
from tests.api.test_requests_and_approvals import ALICE, Client, problem, serving
from tests.conftest import run

ADMIN = local("tester")


class Key:
    """A key, as it stands in files."""

    def __init__(self, folder: Path, name: str = "lost") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.key"
        self.file.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public = (
            self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )

    def csr(self, name: str = "www.example.com") -> str:
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        )
        names = x509.SubjectAlternativeName([x509.DNSName("www.example.com")])
        return (
            builder.add_extension(names, False)
            .sign(self.key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
            .decode()
        )


async def issued(api: Client, key: Key) -> dict[str, Any]:
    made = await api(ALICE, "POST", "/requests", {"profile": "free", "csr": key.csr()})
    assert made.status == 201, made.body
    shown: dict[str, Any] = json.loads(made.body)
    return shown


async def state(api: Client, request: dict[str, Any]) -> str:
    found = await api(ADMIN, "GET", f"/certificates/{request['certificate']}")
    told: str = json.loads(found.body)["state"]
    return told


@pytest.mark.parametrize("by", ["certificate", "csr", "public_key", "spki_sha256", "proof"])
def test_a_key_is_named_by_whatever_has_it(by: str, tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/c.db", tmp_path, clock) as api:
            key = Key(tmp_path)
            first, second = await issued(api, key), await issued(api, key)
            (digest,) = {
                json.loads((await api(ADMIN, "GET", f"/certificates/{r['certificate']}")).body)["spki_sha256"]
                for r in (first, second)
            }
            body = {
                "certificate": first["certificate_pem"],
                "csr": key.csr(),
                "public_key": key.public,
                "spki_sha256": digest,
                "proof": key.csr("Proof of key compromise"),
            }
            made = await api(
                ADMIN, "POST", "/compromised-keys", {by: body[by], "why": "in a public repository"}
            )
            assert made.status == 200, made.body
            told = json.loads(made.body)
            assert (told["spki_sha256"], told["revoked"], told["being_revoked"]) == (digest, 2, False)
            assert [await state(api, each) for each in (first, second)] == ["revoked", "revoked"]
            refused = await api(ALICE, "POST", "/requests", {"profile": "free", "csr": key.csr()})
            assert problem(refused)["reasons"][0]["code"] == "key-blocked"
            listed = json.loads((await api(ADMIN, "GET", "/blocked-keys")).body)
            assert [row["spki_sha256"] for row in listed["items"]] == [digest]
            assert listed["items"][0]["why"] == "in a public repository"

    run(scenario())


def test_anybody_may_prove_that_they_have_a_key(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    """With openssl, and as often as they like."""

    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            key, stranger = Key(tmp_path), Key(tmp_path, "stranger")
            made = await issued(api, key)
            for name, wanted in (("lost", 200), ("stranger", 404)):
                proof = subprocess.run(
                    ["openssl", "req", "-new", "-key", f"{name}.key", "-subj", "/CN=Proof of key compromise"],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                for _ in range(2):
                    told = await api(NOBODY, "POST", "/compromised-keys/proofs", {"proof": proof})
                    assert told.status == wanted, told.body
            assert await state(api, made) == "revoked"
            listed = json.loads((await api(ADMIN, "GET", "/blocked-keys")).body)
            assert [row["why"] for row in listed["items"]] == ["proved by whoever has it"]
            assert stranger.key

    run(scenario())


def test_what_proves_nothing_changes_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """Least of all the CSR that the certificate was asked for with: everybody has seen it."""

    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/c.db", tmp_path, clock) as api:
            key = Key(tmp_path)
            made = await issued(api, key)
            proof = key.csr("Proof of key compromise")
            lines = proof.splitlines()
            lines[-2] = ("A" if lines[-2][0] != "A" else "B") + lines[-2][1:]
            forged = "\n".join(lines)
            other = Key(tmp_path, "other").csr("Proof of key compromise")
            for bad in (key.csr(), forged, other + other, proof[: len(proof) // 2], "", "x" * 70_000):
                told = await api(NOBODY, "POST", "/compromised-keys/proofs", {"proof": bad})
                assert 400 <= told.status < 500, told.body
            assert (await api(NOBODY, "POST", "/compromised-keys/proofs", {"proof": other})).status == 404
            for bad_body in (
                {},
                {"csr": key.csr(), "public_key": key.public},
                {"certificate": key.csr()},
                {"public_key": key.csr()},
                {"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"},
                {"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
                {"proof": key.csr()},
                {"spki_sha256": "00"},
            ):
                told = await api(ADMIN, "POST", "/compromised-keys", bad_body)
                assert 400 <= told.status < 500, (bad_body, told.body)
            assert await state(api, made) == "valid"
            assert json.loads((await api(ADMIN, "GET", "/blocked-keys")).body)["items"] == []

    run(scenario())


def test_a_csr_that_asks_to_be_a_ca_gets_a_leaf(tmp_path: Path, clock: ManualClock) -> None:
    """Made by openssl, as anybody can."""
    subprocess.run(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", "ca.key", "-out", "ca.csr", "-subj", "/CN=www.example.com"),
            *(
                "-addext",
                "subjectAltName=DNS:www.example.com",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
            ),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )

    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/c.db", tmp_path, clock) as api:
            body = {"profile": "free", "csr": (tmp_path / "ca.csr").read_text()}
            made = await api(ALICE, "POST", "/requests", body)
            assert made.status == 201, made.body
            leaf = x509.load_pem_x509_certificate(json.loads(made.body)["certificate_pem"].encode())
            constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
            assert constraints.ca is False
            usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
            assert (usage.key_cert_sign, usage.crl_sign) == (False, False)

    run(scenario())


def test_reporting_takes_the_right_to_block_and_the_right_to_revoke(
    tmp_path: Path, clock: ManualClock
) -> None:
    def who(*permissions: str) -> Principal:
        role = Role(name="some", permissions=frozenset(permissions))
        held = holding([Grant(role="some")], {"some": role})
        return Principal(kind="person", id="p", name="P", owner="p", teams=(), held=held)

    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/c.db", tmp_path, clock) as api:
            key = Key(tmp_path)
            made = await issued(api, key)
            body = {"public_key": key.public}
            for person in (who("key.block"), who("certificate.revoke"), ALICE):
                assert (await api(person, "POST", "/compromised-keys", body)).status == 403
            both = who("key.block", "certificate.revoke")
            assert (await api(both, "POST", "/compromised-keys", body | {"authorities": True})).status == 403
            assert await state(api, made) == "valid"
            assert (await api(both, "POST", "/compromised-keys", body)).status == 200
            assert await state(api, made) == "revoked"

    run(scenario())
