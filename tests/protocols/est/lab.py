"""An EST server over a test's store, asked without sockets, and devices that ask it."""

from __future__ import annotations

import base64
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from certloom.audit import SYSTEM
from certloom.authorities.registration import RegistrationAuthorities
from certloom.clock import ManualClock
from certloom.enrollment.server_keys import ServerKeys
from certloom.identity.credentials import Made, Terms
from certloom.identity.ratelimit import Limit
from certloom.pki.pem import to_pem
from certloom.policy.anchors import TrustAnchors
from certloom.policy.channels import ESTChannel
from certloom.policy.profiles import Profile, parse_profile
from certloom.protocols.est.routes import ESTApp
from certloom.protocols.est.service import ESTService
from certloom.store import Store, configuration
from certloom.store.base import Tx
from tests.core import DATA_KEY, Core, core

NOW = 1_790_000_000
DAY = 86_400
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def der(self) -> bytes:
        return base64.b64decode(self.body, validate=False)

    @property
    def certificates(self) -> list[x509.Certificate]:
        """Of a certs-only message, read by another library."""
        assert self.status == 200, self
        return pkcs7.load_der_pkcs7_certificates(self.der)

    @property
    def certificate(self) -> x509.Certificate:
        (only,) = self.certificates
        return only

    @property
    def text(self) -> str:
        return self.body.decode()


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def subject(**attributes: str) -> x509.Name:
    known = {
        "CN": NameOID.COMMON_NAME,
        "O": NameOID.ORGANIZATION_NAME,
        "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
        "serialNumber": NameOID.SERIAL_NUMBER,
    }
    return x509.Name([x509.NameAttribute(known[name], value) for name, value in attributes.items()])


def csr(
    key: PrivateKey,
    *dns: str,
    name: x509.Name | None = None,
    password: str | None = None,
    attributes: tuple[tuple[str, bytes], ...] = (),
) -> bytes:
    """DER of a PKCS #10 request. ``attributes``: dotted OID and the contents of an OCTET STRING."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        subject(CN="dev1") if name is None else name
    )
    if dns:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in dns]), critical=False
        )
    if password is not None:
        builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, password.encode())
    for oid, octets in attributes:
        builder = builder.add_attribute(
            x509.ObjectIdentifier(oid), octets, _tag=x509.name._ASN1Type.OctetString
        )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Lab:
    """The server and what a test does to it."""

    c: Core
    clock: ManualClock
    app: ESTApp
    server_keys: ServerKeys
    _versions: dict[str, int] = field(default_factory=dict)

    async def ask(
        self,
        path: str,
        body: bytes | None = None,
        *,
        method: str = "",
        authorization: str | None = None,
        certificate: x509.Certificate | None = None,
        chain: tuple[x509.Certificate, ...] = (),
        tls_unique: bytes | None = None,
        version: str = "1.1",
        media: str | None = "application/pkcs10",
        raw: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Answer:
        """One request; ``body`` is DER that is sent in base64, unless it is ``raw``."""
        sent = list(headers)
        if authorization is not None:
            sent.append((b"authorization", authorization.encode()))
        if body is not None and media is not None:
            sent.append((b"content-type", media.encode()))
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": version,
            "method": method or ("GET" if body is None else "POST"),
            "path": path,
            "headers": sent,
            "client": ("192.0.2.7", 40000),
            "certloom.trace": "0123456789ab",
            "certloom.base_url": "https://pki.test",
        }
        if certificate is not None:
            scope["certloom.peer_certificate"] = der_of(certificate)
            scope["certloom.peer_chain"] = tuple(map(der_of, chain))
        if tls_unique is not None:
            scope["certloom.tls_unique"] = tls_unique
        payload = b"" if body is None else body if raw else base64.b64encode(body)
        got: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": payload, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            got.append(message)

        await self.app(scope, receive, send)
        start, content = got
        told = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], told, content["body"])

    async def enroll(
        self, body: bytes, *, operation: str = "simpleenroll", channel: str = "", **how: Any
    ) -> Answer:
        label = f"{channel}/" if channel else ""
        return await self.ask(f"/.well-known/est/{label}{operation}", body, **how)

    async def channel(self, **options: Any) -> ESTChannel:
        """Put a channel; without a name, the one that needs no label."""
        made = msgspec.convert(
            {"protocol": "est", "name": "default", "profile": "device", **options}, ESTChannel
        )
        await self.c.put_channel(made)
        return made

    async def profile(self, **table: Any) -> Profile:
        """Put a version of a profile; what is left out is as in ``device``."""
        whole = {
            "name": "device",
            "authority": "issuing",
            "keys": [{"type": "ec"}, {"type": "rsa"}, {"type": "ed25519"}, {"type": "ml-dsa-65"}],
            "subject": [{"type": "CN", "value": "{csr.CN}"}],
            "names": {"types": ["dns"], "required": False},
            "extended_key_usage": ["clientAuth"],
            "validity": {"default": "30d"},
            "lint": {"mode": "off"},
            **table,
        }
        made = parse_profile(whole)
        known = self.c.books.profiles().get(made.name)
        await self.c.put_profile(made, known[1] + 1 if known else 1)
        return made

    async def anchors(self, name: str, *certificates: x509.Certificate) -> None:
        """Put a set of trust anchors."""
        made = TrustAnchors(name=name, certificates=tuple(to_pem(der_of(c)).decode() for c in certificates))

        def unit(tx: Tx) -> None:
            configuration.put_anchors(tx, name, msgspec.json.encode(made).decode(), self.clock.now())
            configuration.touch(tx)

        await self.c.store.write(unit)
        await self.c.books.refresh()

    async def credential(self, kind: str = "est-password", id: str = "dev", **terms: Any) -> Made:
        channel = terms.pop("channel", None)
        return await self.c.store.write(
            lambda tx: self.c.credentials.create(
                tx, kind, Terms(**terms), id=id, channel=channel, origin=SYSTEM
            )
        )

    async def password(self, id: str = "dev", **terms: Any) -> str:
        """A new user; answers the header it authenticates with."""
        made = await self.credential(id=id, **terms)
        assert made.secret is not None
        return basic(id, made.secret)

    async def count(self) -> int:
        """Certificates that were issued."""
        row = await self.c.store.read(
            lambda tx: tx.one("SELECT count(*) FROM certificates WHERE profile <> 'ra'")
        )
        assert row is not None
        return int(row[0])


@asynccontextmanager
async def lab(store: Store, clock: ManualClock | None = None) -> AsyncIterator[Lab]:
    """A server with the channel ``default`` by the profile ``device``."""
    clock = clock or ManualClock(NOW)
    async with core(store, clock) as c:
        server_keys = ServerKeys(store, clock, DATA_KEY)
        names = [row.name for row in c.books.authority_rows()]
        service = ESTService(
            store=store,
            clock=clock,
            books=c.books,
            enrollment=c.enrollment,
            credentials=c.credentials,
            server_keys=server_keys,
            revoker=c.revoker,
            registration=RegistrationAuthorities(
                store, clock, c.signing, "node", lambda: {n: c.local(n) for n in names}, c.books.generations
            ),
            failures=Limit("failures", 5, clock),
        )
        made = Lab(c, clock, ESTApp(service), server_keys)
        await made.profile()
        await made.channel()
        yield made


class Manufacturer:
    """A CA of strangers, with an intermediate, and the devices it makes."""

    def __init__(self, name: str = "Acme", start: int = NOW - 100 * DAY) -> None:
        self.start = start
        self.root_key, self.key = new_key(), new_key()
        self.root = self._ca(f"{name} Root", self.root_key, None, None)
        self.intermediate = self._ca(f"{name} Devices", self.key, self.root, self.root_key)

    def _ca(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Certificate | None,
        issuer_key: ec.EllipticCurvePrivateKey | None,
    ) -> x509.Certificate:
        return (
            self._builder(subject(CN=name), key, issuer.subject if issuer else subject(CN=name), 7300)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer_key or key, hashes.SHA256())
        )

    def _builder(
        self, name: x509.Name, key: PrivateKey, issuer: x509.Name, days: int
    ) -> x509.CertificateBuilder:
        begin = datetime.datetime.fromtimestamp(self.start, datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=days))
        )

    def device(
        self,
        key: PrivateKey,
        name: x509.Name,
        *,
        days: int = 3650,
        purpose: str | None = None,
        dns: tuple[str, ...] = (),
    ) -> x509.Certificate:
        """An IDevID certificate (IEEE 802.1AR)."""
        builder = self._builder(name, key, self.intermediate.subject, days)
        if purpose is not None:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose)]), critical=False
            )
        if dns:
            names = x509.SubjectAlternativeName([x509.DNSName(each) for each in dns])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())
