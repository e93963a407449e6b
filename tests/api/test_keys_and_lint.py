"""Keys of the newer algorithms, and findings of lint, as the REST API has them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certloom.clock import ManualClock
from certloom.pki import der, keys
from certloom.policy.profiles import encode_profile, parse_profile
from certloom.store import configuration
from certloom.store.base import Tx
from tests.api.test_requests_and_approvals import ALICE, Client, pem, problem, serving
from tests.conftest import run

KEMS = ("ml-kem-768", "ml-kem-1024")
OTHERS = ("ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87")


@asynccontextmanager
async def with_profile(tmp_path: Path, clock: ManualClock, **changes: Any) -> AsyncIterator[Client]:
    url = f"sqlite:///{tmp_path}/certloom.db"
    async with serving(url, tmp_path, clock) as api:
        body = {
            "name": "kept",
            "authority": api.rooms.books.profiles()["tls-server"][0].authority,
            "keys": [{"type": kind} for kind in ("ec", *OTHERS, *KEMS)],
            "server_keys": {"algorithms": [*OTHERS, *KEMS], "keep": "1h"},
            "extended_key_usage": ["serverAuth"],
            "validity": {"default": "30d", "backdate": "1h"},
            **changes,
        }

        def unit(tx: Tx) -> None:
            profile = parse_profile(body)
            configuration.add_profile_version(tx, "kept", 1, encode_profile(profile), clock.now())
            configuration.touch(tx)

        await api.rooms.store.write(unit)
        await api.rooms.refresh()
        yield api


@pytest.mark.parametrize("algorithm", [*OTHERS, *KEMS])
def test_a_key_of_any_kind_is_made_linted_certified_and_handed_out(
    algorithm: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with with_profile(tmp_path, clock, lint={"mode": "every", "level": "notice"}) as api:
            body = {"profile": "kept", "key": {"algorithm": algorithm}, "names": ["k.example.com"]}
            made = await api(ALICE, "POST", "/requests", body)
            assert made.status == 201, made.body
            shown = json.loads(made.body)
            certificate = x509.load_pem_x509_certificate(shown["certificate_pem"].encode())
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
            kem = algorithm in KEMS
            assert (usage.key_encipherment, usage.digital_signature) == (kem, not kem)
            where = f"/requests/{shown['id']}/private-key"
            fetched = await api(ALICE, "POST", where, {"password": "correct horse"})
            key = load_pem_private_key(fetched.body, b"correct horse")
            assert keys.spki_of(key) == keys.spki_of(certificate.public_key())  # type: ignore[arg-type] # any kind
            bundle = await api(ALICE, "POST", where, {"password": "correct horse", "format": "pkcs12"})
            assert bundle.status == 200
            assert certificate.public_bytes(Encoding.DER) in bundle.body

    run(scenario())


def test_a_csr_for_a_key_that_cannot_sign_is_answered_with_the_way_out(
    tmp_path: Path, clock: ManualClock
) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    spki = keys.spki_of(keys.generate_for_leaf("ml-kem-768"))
    own = keys.spki_of(signer)
    # A request by another key, with ML-KEM's in its place: what a client could send at best.
    plain = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    outer = der.whole(plain)
    info, algorithm, signature = outer.enter(), outer.raw(der.SEQUENCE), outer.raw(der.BIT_STRING)
    parts = [info.raw(der.INTEGER), info.raw(der.SEQUENCE), info.raw(der.SEQUENCE), info.raw(0xA0)]
    assert parts[2] == own
    parts[2] = spki
    csr = der.sequence(der.sequence(*parts), algorithm, signature)
    text = f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(csr).decode()}"
    text += "-----END CERTIFICATE REQUEST-----\n"

    async def scenario() -> None:
        async with with_profile(tmp_path, clock) as api:
            answer = await api(ALICE, "POST", "/requests", {"profile": "kept", "csr": text})
            assert answer.status == 422
            assert "made by the server" in answer.body.decode()

    run(scenario())


def test_findings_are_reasons_of_their_own(tmp_path: Path, clock: ManualClock) -> None:
    lint = {"mode": "every", "rules": "cabf-tls", "level": "error"}

    async def scenario() -> None:
        async with with_profile(tmp_path, clock, lint=lint) as api:
            body = {"profile": "kept", "csr": pem("www.example.com")}
            refused = problem(await api(ALICE, "POST", "/requests", body))
            assert (refused["status"], refused["code"]) == (422, "refused")
            assert len(refused["reasons"]) >= 2
            assert {reason["code"] for reason in refused["reasons"]} == {"lint"}
            messages = [reason["message"] for reason in refused["reasons"]]
            assert any(
                message.startswith("error: cabf.serverauth.subscriber.certificate_policies")
                for message in messages
            )
            assert await api.count("enrolment_requests") == 0

    run(scenario())
