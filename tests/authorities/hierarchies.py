"""Hierarchies as tests make them through the API, foreign CAs, and what openssl says of certificates."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from certloom.api.app import API
from certloom.audit import Origin
from certloom.enrollment.asks import Ask
from certloom.identity.principals import Principal, local
from certloom.pki.csr import parse_csr
from certloom.pki.identifiers import parse_dns
from certloom.pki.pem import to_pem
from certloom.policy.decisions import Requester
from certloom.server.rooms import Rooms
from certloom.server.services import services
from certloom.store import authorities as authority_statements
from certloom.store import certificates as certificate_statements
from certloom.store.authorities import StoredGeneration
from certloom.store.certificates import StoredCertificate
from tests.api.asking import ask as ask_api
from tests.protocols.acme.lab import make_csr

PROFILE = {
    "keys": [{"type": "ec"}],
    "validity": {"default": "30d"},
    "lint": {"mode": "off"},
}


async def call(
    rooms: Rooms, method: str, path: str, body: Any = None, *, by: Principal | None = None, **headers: str
) -> tuple[int, Any]:
    """Status and answer of the API, to the local operator or to ``by``."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        sent["content-type"] = "application/json"
    reply = await ask_api(
        API(services(rooms)),
        method,
        f"/api/v1{path}",
        principal=by or local("tester"),
        headers=sent,
        body=b"" if body is None else msgspec.json.encode(body),
    )
    return reply.status, msgspec.json.decode(reply.body) if reply.body else None


async def done(rooms: Rooms, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """An answer that is no refusal."""
    status, answer = await call(rooms, method, path, body, by=None, **headers)
    assert status < 300, answer
    return answer


async def refusal(rooms: Rooms, method: str, path: str, body: Any = None, **headers: str) -> str:
    """Why not."""
    status, answer = await call(rooms, method, path, body, by=None, **headers)
    assert 400 <= status < 500, (status, answer)
    detail: str = answer["detail"]
    return detail


async def put_profile(rooms: Rooms, name: str, authority: str) -> None:
    body = {**PROFILE, "name": name, "authority": authority}
    await done(rooms, "POST", "/declarations", {"document": {"profiles": [body]}})


async def issue(rooms: Rooms, profile: str, *names: str) -> StoredCertificate:
    """A certificate through the pipeline. Raises ``Refused``."""
    csr = parse_csr(make_csr(list(names)))
    request = await rooms.enrollment.submit(
        Ask(
            protocol="system",
            channel="test",
            profile=profile,
            requester=Requester("system", "test"),
            csr=csr,
            identifiers=tuple(parse_dns(name) for name in names),
            origin=Origin("test"),
        )
    )
    id = request.certificate_id
    assert id is not None, request.state
    found = await rooms.store.read(lambda tx: certificate_statements.get(tx, id))
    assert found is not None
    return found


def chains_of(rooms: Rooms, certificate: StoredCertificate) -> tuple[tuple[bytes, ...], ...]:
    return rooms.books.authority(certificate.authority).chains(certificate.generation)


async def generation(rooms: Rooms, name: str, number: int) -> StoredGeneration:
    rows = await rooms.store.read(lambda tx: authority_statements.generations(tx, name))
    return next(row for row in rows if row.generation == number)


def verify(
    directory: Path, leaf: bytes, chain: Sequence[bytes], roots: Sequence[bytes], *options: str
) -> str:
    """What ``openssl verify`` has against a certificate; empty when nothing."""
    (directory / "leaf.pem").write_bytes(to_pem(leaf))
    (directory / "chain.pem").write_bytes(b"".join(map(to_pem, chain)) or to_pem(leaf))
    (directory / "roots.pem").write_bytes(b"".join(map(to_pem, roots)))
    result = subprocess.run(
        [
            "openssl",
            "verify",
            "-x509_strict",
            "-no-CApath",
            "-no-CAstore",
            "-CAfile",
            str(directory / "roots.pem"),
            "-untrusted",
            str(directory / "chain.pem"),
            *options,
            str(directory / "leaf.pem"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if result.returncode == 0 else result.stderr + result.stdout


class ForeignCA:
    """A CA that is not ours."""

    def __init__(
        self,
        name: str,
        above: ForeignCA | None = None,
        *,
        ca: bool = True,
        days: tuple[int, int] = (-10, 3650),
        key_usage: bool = True,
        path_length: int | None = None,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.above = above
        signer = above or self
        self.certificate = signer.certify(
            self.name, self.key.public_key(), ca=ca, days=days, key_usage=key_usage, path_length=path_length
        )

    def certify(
        self,
        subject: x509.Name,
        key: Any,
        *,
        ca: bool = True,
        days: tuple[int, int] = (-10, 3650),
        key_usage: bool = True,
        path_length: int | None = None,
        identifier: x509.SubjectKeyIdentifier | None = None,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        # As old CAs have it: SHA-1 of the key, where ours take SHA-256.
        identifier = identifier or x509.SubjectKeyIdentifier.from_public_key(key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if ca:
            builder = builder.add_extension(
                x509.KeyUsage(True, False, False, False, False, key_usage, key_usage, False, False),
                critical=True,
            )
        return builder.sign(self.key, hashes.SHA256())

    def sign_csr(self, pem: str, **how: Any) -> str:
        """The certificate for a CSR, with everything above it, in PEM."""
        csr = x509.load_pem_x509_csr(pem.encode())
        made = self.certify(how.pop("subject", csr.subject), csr.public_key(), **how)
        return made.public_bytes(Encoding.PEM).decode() + self.chain_pem()

    def chain_pem(self) -> str:
        own = self.certificate.public_bytes(Encoding.PEM).decode()
        return own + (self.above.chain_pem() if self.above else "")

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, password: str | None = None) -> str:
        protection = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection).decode()

    def pkcs12(self, password: str) -> bytes:
        above = [self.above.certificate] if self.above else None
        protection = BestAvailableEncryption(password.encode())
        return serialize_key_and_certificates(b"ca", self.key, self.certificate, above, protection)
