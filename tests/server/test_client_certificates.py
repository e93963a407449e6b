"""The listener that asks for client certificates: who is known, who is not, and who has none."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certloom.audit import SYSTEM
from certloom.enrollment.asks import Ask
from certloom.identity.credentials import Terms
from certloom.identity.principals import Grant
from certloom.pki.csr import parse_csr
from certloom.pki.identifiers import parse_dns
from certloom.pki.pem import to_pem
from certloom.policy.decisions import Requester
from certloom.policy.profiles import encode_profile, parse_profile
from certloom.server.app import Application
from certloom.settings import Settings
from certloom.settings.schema import Listen
from certloom.store import certificates as certificate_statements
from certloom.store import configuration
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate
from tests.server.listening import Client, run
from tests.server.test_app import over_tls, port, running

ROBOT = parse_dns("robot.example.com")


@pytest.fixture
def asking(settings: Settings) -> Settings:
    listen = Listen(https="127.0.0.1:0", http="127.0.0.1:0", https_client="127.0.0.1:0")
    return msgspec.structs.replace(settings, listen=listen)


async def issue(application: Application, key: ec.EllipticCurvePrivateKey) -> StoredCertificate:
    """A client certificate, by the pipeline."""
    rooms = application.rooms
    body = msgspec.json.decode(encode_profile(rooms.books.profile("tls-server")[0]))
    body |= {"name": "clients", "extended_key_usage": ["clientAuth"], "lint": {"mode": "off"}}
    body["names"] = {"dns": {"allow": ["**"]}}

    def unit(tx: Tx) -> None:
        text = encode_profile(parse_profile(body))
        configuration.add_profile_version(tx, "clients", 1, text, rooms.clock.now())
        configuration.touch(tx)

    await rooms.store.write(unit)
    await rooms.refresh()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = await rooms.enrollment.submit(
        Ask(
            protocol="system",
            channel="test",
            profile="clients",
            requester=Requester("system", "test"),
            csr=parse_csr(csr.public_bytes(serialization.Encoding.DER)),
            identifiers=(ROBOT,),
            origin=SYSTEM,
        )
    )
    assert request.certificate_id is not None
    found = await rooms.store.read(lambda tx: certificate_statements.get(tx, request.certificate_id or 0))
    assert found is not None
    return found


def stranger(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A self-signed certificate with the robot's name."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ROBOT.value)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


async def whoami(
    application: Application, path: Path, chain: list[bytes], key: ec.EllipticCurvePrivateKey | None
) -> tuple[int, bytes]:
    """Ask who one is, with this certificate or none."""
    context = ssl.create_default_context(cafile=str(application.rooms.data_dir.root_pem))
    if key is not None:
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(pem + b"".join(to_pem(der) for der in chain))
        context.load_cert_chain(path)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port(application, "https_client"), ssl=context, server_hostname="localhost"
    )
    client = Client(reader, writer)
    try:
        await client.send(b"GET /api/v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n")
        status, _, body = await client.answer()
    finally:
        writer.close()
    return status, body


def test_a_client_certificate_stands_for_its_identity(asking: Settings, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(asking) as application:
            rooms = application.rooms
            key = ec.generate_private_key(ec.SECP256R1())
            held = await issue(application, key)
            chain = [held.der, *rooms.books.authority(held.authority).chains()[0]]
            file = tmp_path / "client.pem"
            assert (await whoami(application, file, chain, key))[0] == 401
            await rooms.store.write(
                lambda tx: rooms.credentials.create(
                    tx,
                    "client-certificate",
                    Terms(grants=(Grant(role="auditor"),)),
                    owner="service:robot",
                    subject=("clients", str(ROBOT)),
                    origin=SYSTEM,
                )
            )
            for sent in (chain, [held.der]):
                status, body = await whoami(application, file, sent, key)
                assert status == 200
                assert msgspec.json.decode(body)["owner"] == "service:robot"
            assert (await whoami(application, file, [], None))[0] == 401
            await rooms.store.write(
                lambda tx: certificate_statements.set_revoked(tx, held.id, rooms.clock.now(), 1)
            )
            assert (await whoami(application, file, chain, key))[0] == 401

    run(main())


def test_a_strangers_certificate_ends_the_handshake_and_locks_nobody_out(
    asking: Settings, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(asking) as application:
            key = ec.generate_private_key(ec.SECP256R1())
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await whoami(application, tmp_path / "client.pem", [stranger(key)], key)
            assert (await whoami(application, tmp_path / "client.pem", [], None))[0] == 401
            status, _, _, _ = await over_tls(application, "/acme/default/directory")
            assert status == 200

    run(main())
