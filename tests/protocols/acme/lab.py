"""An ACME server in this process with every part real but the network: the validator is told what it finds.

``Client`` is a small ACME client that speaks ASGI and checks, on every answer, what every answer must have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import NameOID

from certloom.audit import SYSTEM, Origin
from certloom.authorities.lint import Linter
from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.authorities.registry import Authorities
from certloom.clock import ManualClock
from certloom.enrollment.approvals import Approvals, Verb
from certloom.enrollment.books import Books
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.revoke import Revoker
from certloom.identity.credentials import Credentials, EABCredential
from certloom.identity.principals import local
from certloom.jobs import Runner
from certloom.pki import keys
from certloom.pki.ca import make_ca, make_root
from certloom.pki.certificates import issuer_facts
from certloom.pki.names import Name
from certloom.policy.channels import ACMEChannel
from certloom.policy.profiles import encode_profile, parse_profile
from certloom.protocols.acme.routes import ACMEApp
from certloom.protocols.acme.service import ACMEService
from certloom.secrets import DataKey
from certloom.settings.schema import Settings
from certloom.signing.service import Service
from certloom.store import authorities as authority_statements
from certloom.store import configuration, requests
from certloom.store.approvals import StoredApproval
from certloom.store.authorities import StoredAuthority, StoredKey
from certloom.store.base import Row, Store, Tx
from certloom.validation import Proof, Validated, ValidationFailed, ValidationRecord
from tests.protocols.acme import signing
from tests.protocols.acme.signing import Key, b64

BASE = "https://ca.example:8443"
OID_CN = "2.5.4.3"

Scenario = Callable[["Lab"], Awaitable[None]]


class Network:
    """Stands for the validator and the CAA checker: what every question is answered with."""

    def __init__(self) -> None:
        self.proofs: list[tuple[Proof, int]] = []
        self.failures: list[ValidationFailed] = []
        """What the next checks fail with, in turn; when there are none they succeed."""
        self.always: ValidationFailed | Exception | None = None
        self.valid_until: int | None = None
        self.hold: asyncio.Event | None = None
        self.caa_asked: list[dict[str, Any]] = []
        self.caa_failure: ValidationFailed | None = None

    async def validate(self, proof: Proof, *, attempt: int = 0) -> Validated:
        self.proofs.append((proof, attempt))
        if self.hold is not None:
            await self.hold.wait()
        if self.always is not None:
            raise self.always
        if self.failures:
            raise self.failures.pop(0)
        return Validated((ValidationRecord(proof.base_name, port=80),), self.valid_until)

    async def check(self, identifier: Any, **how: Any) -> None:
        self.caa_asked.append({"identifier": identifier, **how})
        if self.caa_failure is not None:
            raise self.caa_failure


class Answer:
    """One answer."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.body = body
        self._headers = headers

    def all(self, name: str) -> list[str]:
        return [v.decode() for n, v in self._headers if n == name.encode()]

    def header(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2, f"{name} is there twice"
        return found[0] if found else None

    def link(self, relation: str) -> str | None:
        for value in self.all("link"):
            if value.endswith(f'>;rel="{relation}"'):
                return value[1:].partition(">")[0]
        return None

    @property
    def location(self) -> str:
        found = self.header("location")
        assert found is not None
        return found

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def type(self) -> str:
        """The problem type's last part; empty when this is no problem."""
        if self.header("content-type") != "application/problem+json":
            return ""
        urn: str = self.json["type"]
        assert urn.startswith("urn:ietf:params:acme:error:")
        return urn.rpartition(":")[2]


class Client:
    """One client with one account key."""

    def __init__(self, lab: Lab, channel: str = "web", key: Key | None = None, base: str = BASE) -> None:
        self.lab = lab
        self.channel = channel
        self.base = base
        self.key = key or signing.new_key()
        self.account = ""
        self.nonce = ""

    def url(self, rest: str) -> str:
        return f"{self.base}/acme/{self.channel}/{rest}"

    async def request(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        *,
        content_type: str | None = "application/jose+json",
        address: str = "192.0.2.1",
        chunks: int = 1,
    ) -> Answer:
        """One raw request. Checks what must hold for every answer."""
        assert url.startswith(self.base)
        target, _, query = url[len(self.base) :].partition("?")
        headers = [(b"host", b"ignored")]
        if method == "POST" and content_type is not None:
            headers.append((b"content-type", content_type.encode()))
        scope = {
            "type": "http",
            "method": method,
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": (address, 40000),
            "certloom.base_url": self.base,
            "certloom.trace": "trace-1",
        }
        size = max(1, -(-len(body) // chunks))
        parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.lab.app(scope, receive, send)
        assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
        answer = Answer(sent[0]["status"], sent[0]["headers"], sent[1]["body"])
        self._check(method, url, answer)
        return answer

    def _check(self, method: str, url: str, answer: Answer) -> None:
        if answer.status == 204:
            assert answer.header("content-length") is None
        else:
            length = answer.header("content-length")
            assert length is not None
            assert method == "HEAD" or int(length) == len(answer.body)
        if method == "POST":
            nonce = answer.header("replay-nonce")
            assert nonce, "RFC 8555 section 6.5: every answer to a POST has a nonce"
            self.nonce = nonce
        if answer.status >= 400:
            assert method == "HEAD" or answer.header("content-type") == "application/problem+json"
            if method != "HEAD":
                assert answer.json["status"] == answer.status
                assert "identifier" not in answer.json
        after = answer.header("retry-after")
        assert after is None or after.isdigit()
        if f"/acme/{self.channel}/" in url and self.channel in self.lab.channels:
            index = answer.link("index")
            is_directory = url.endswith("/directory") and answer.status < 400
            assert index == (None if is_directory else self.url("directory"))

    async def fresh_nonce(self) -> str:
        answer = await self.request("HEAD", self.url("new-nonce"))
        nonce = answer.header("replay-nonce")
        assert nonce
        return nonce

    async def sign(
        self,
        url: str,
        payload: Any,
        /,
        *,
        key: Key | None = None,
        by_key: bool = False,
        **header: Any,
    ) -> bytes:
        """The body of a signed POST; ``header`` replaces members of the protected header."""
        if not self.nonce:
            self.nonce = await self.fresh_nonce()
        nonce, self.nonce = self.nonce, ""
        key = key or self.key
        who: dict[str, Any] = {"jwk": signing.jwk(key)} if by_key else {"kid": self.account}
        content = b""
        if payload is not None:
            content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        full = {"url": url, "nonce": nonce, **who, **header}
        # An ellipsis leaves a member out.
        kept = {name: value for name, value in full.items() if value is not ...}
        return json.dumps(signing.flattened(key, kept, content)).encode()

    async def post(
        self, url: str, payload: Any = None, /, *, address: str = "192.0.2.1", **how: Any
    ) -> Answer:
        """A signed POST; without payload a POST-as-GET."""
        return await self.request("POST", url, await self.sign(url, payload, **how), address=address)

    async def register(self, payload: dict[str, Any] | None = None, **how: Any) -> Answer:
        payload = {"termsOfServiceAgreed": True, **(payload or {})}
        answer = await self.post(self.url("new-account"), payload, by_key=True, **how)
        if answer.status in (200, 201):
            self.account = answer.location
        return answer

    async def registered(self) -> Client:
        assert (await self.register()).status == 201
        return self

    async def registered_by_eab(self, credential: EABCredential) -> Client:
        made = await self.register({"externalAccountBinding": self.binding(credential)})
        assert made.status == 201, made.body
        return self

    def binding(self, credential: EABCredential, **header: Any) -> dict[str, str]:
        url = header.pop("url", self.url("new-account"))
        mac_key = header.pop("mac_key", credential.mac_key)
        kid = header.pop("kid", credential.id)
        return signing.binding(mac_key, kid, url, header.pop("account", self.key), **header)

    async def order(self, *names: str, **more: Any) -> Answer:
        """newOrder; a name that looks like an address is one."""
        identifiers = [{"type": "ip" if _is_ip(n) else "dns", "value": n} for n in names]
        return await self.post(self.url("new-order"), {"identifiers": identifiers, **more})

    async def prove(self, order: Answer, type: str = "") -> None:
        """Respond to one challenge of each pending authorization, and wait."""
        for url in order.json["authorizations"]:
            authorization = (await self.post(url)).json
            if authorization["status"] != "pending":
                continue
            for challenge in authorization["challenges"]:
                if not type or challenge["type"] == type:
                    assert (await self.post(challenge["url"], {})).status == 200
                    break
            await self.lab.idle()

    async def finalize(self, order: Answer, csr: bytes) -> Answer:
        return await self.post(order.json["finalize"], {"csr": b64(csr)})

    async def certificate(self, *names: str, **more: Any) -> tuple[Answer, x509.Certificate]:
        """A whole issuance: (the finalized order, the certificate)."""
        order = await self.order(*names, **more)
        assert order.status == 201, order.body
        await self.prove(order)
        done = await self.finalize(order, make_csr(names))
        assert done.json["status"] == "valid", done.body
        chain = await self.post(done.json["certificate"])
        return done, x509.load_pem_x509_certificate(chain.body)


def _is_ip(text: str) -> bool:
    return ":" in text or text.replace(".", "").isdigit()


def make_csr(
    names: tuple[str, ...] | list[str],
    *,
    key: Any = None,
    common_name: str | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> bytes:
    """A CSR in DER."""
    import ipaddress

    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        alt = [x509.IPAddress(ipaddress.ip_address(n)) if _is_ip(n) else x509.DNSName(n) for n in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alt), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    digest = None if edwards else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


class Lab:
    """Everything wired, inside a running loop."""

    def __init__(
        self,
        store: Store,
        clock: ManualClock,
        directory: Path,
        settings: Settings,
        channels: list[ACMEChannel],
    ) -> None:
        self.store = store
        self.clock = clock
        self.settings = settings
        self.channels = {channel.name: channel for channel in channels}
        self.network = Network()
        self.runner = Runner(store, clock, "lab")
        self.data_key = DataKey.load_or_create(directory / "data.key")
        self.credentials = Credentials(self.data_key, clock)
        self.linter = Linter()
        self.signing = Service(DataKey(bytes(32)), clock)
        urls = URLs("http://ca.example")
        self.authorities = Authorities(store, clock, self.signing, self.linter, urls, "lab")
        self.books = Books(store, self.authorities.make)
        self.enrollment = Enrollment(store, clock, self.books, self.runner)
        self.approvals = Approvals(store, clock, self.enrollment)
        self.runner.register("status.crl", _nothing)
        self.service = ACMEService(
            store=store,
            clock=clock,
            enrollment=self.enrollment,
            revoker=Revoker(store, clock),
            validator=self.network,  # type: ignore[arg-type]  # stands in for the network
            caa=self.network,  # type: ignore[arg-type]  # stands in for the network
            credentials=self.credentials,
            runner=self.runner,
            books=self.books,
            settings=settings,
        )
        self.app = ACMEApp(self.service)

    async def start(self, profiles: list[dict[str, Any]]) -> None:
        now = self.clock.now()
        root_key, ca_key = keys.generate("P-256"), keys.generate("P-256")
        name = Name(((OID_CN, "Lab Root"),))
        times: dict[str, Any] = {"not_before": now - 60, "not_after": now + 10 * 365 * 86400}
        root = make_root(root_key, subject=name, serial=b"\1" * 16, **times)
        public = ca_key.public_key()
        below = Name(((OID_CN, "Lab CA"),))
        issuing = make_ca(public, issuer_facts(root), root_key, subject=below, serial=b"\2" * 16, **times)
        made = {
            id: await self.signing.adopt(id, "ca", id, keys.private_to_der(key))
            for id, key in (("root", root_key), ("ca", ca_key))
        }
        self.root = root
        cross = make_root(ca_key, subject=below, serial=b"\3" * 16, **times)
        above = msgspec.json.encode(LocalBody(cross_certificates=(cross,))).decode()

        def row(name: str, issuer: str | None, der: bytes, body: str) -> StoredAuthority:
            identifier = issuer_facts(der).key_identifier
            return StoredAuthority(name, KIND, issuer, der, identifier, name, 1, "active", body, now)

        def unit(tx: Tx) -> None:
            for id, key in made.items():
                stored = StoredKey(id, f"authority:{id}", key.spki, key.record, now)
                authority_statements.insert_key(tx, stored)
            authority_statements.insert(tx, row("root", None, root, "{}"))
            authority_statements.insert(tx, row("ca", "root", issuing, above))
            for profile in profiles:
                parsed = parse_profile({"authority": "ca", **profile})
                configuration.add_profile_version(tx, parsed.name, 1, encode_profile(parsed), now)
            for channel in self.channels.values():
                body = msgspec.json.encode(channel).decode()
                configuration.put_channel(tx, "acme", channel.name, body, now)
            configuration.touch(tx)

        await self.store.write(unit)
        await self.resume()

    async def decide(self, request_id: str, verb: Verb, reason: str = "") -> StoredApproval:
        """Have the local operator decide about what a request waits under."""
        request = await self.store.read(lambda tx: requests.get(tx, request_id))
        assert request is not None
        assert request.approval_id is not None
        who = local("ann")
        return await self.approvals.decide(request.approval_id, who, Origin(who.actor), verb, reason)

    async def resume(self) -> None:
        """Start on a database that has everything."""
        await self.authorities.load()
        await self.authorities.load()
        await self.books.refresh()
        await self.runner.start()

    async def put_channel(self, channel: ACMEChannel) -> None:
        """Change a channel's configuration."""

        def unit(tx: Tx) -> None:
            body = msgspec.json.encode(channel).decode()
            configuration.put_channel(tx, "acme", channel.name, body, self.clock.now())
            configuration.touch(tx)

        self.channels[channel.name] = channel
        await self.store.write(unit)
        await self.books.refresh()

    async def stop(self) -> None:
        if self.network.hold is not None:
            self.network.hold.set()
        await self.runner.stop(5)
        await self.books.close()

    def client(self, channel: str = "web", **how: Any) -> Client:
        return Client(self, channel, **how)

    async def eab(self, **how: Any) -> EABCredential:
        how = {"channel": "web", "origin": SYSTEM, **how}
        return await self.store.write(lambda tx: self.credentials.create_eab(tx, **how))

    async def idle(self) -> None:
        """Wait until no job runs, and none is due that the runner has yet to take."""

        def unit(tx: Tx) -> list[Row]:
            return tx.all(
                "SELECT 1 FROM jobs WHERE state = 'running' OR (state = 'waiting' AND due_ms <= ?)",
                (self.clock.now_ms(),),
            )

        for _ in range(2000):
            left = await self.store.read(unit)
            if not left:
                return
            await asyncio.sleep(0.002)
        raise AssertionError("jobs do not end")

    async def advance(self, seconds: float) -> None:
        """Let time pass, and jobs that became due run."""
        self.clock.advance(seconds)
        self.runner.wake()
        await self.idle()

    async def count(self, table: str) -> int:
        found = await self.store.read(lambda tx: tx.one(f"SELECT count(*) FROM {table}"))
        assert found is not None
        return int(found[0])

    async def events(self) -> list[str]:
        return await self.store.read(lambda tx: [r[0] for r in tx.all("SELECT kind FROM events ORDER BY id")])


async def _nothing(job: Any) -> None:
    """For jobs that are not this room's."""


PROFILE: dict[str, Any] = {
    "name": "tls-server",
    "description": "TLS servers",
    "keys": [{"type": "rsa"}, {"type": "ec"}, {"type": "ed25519"}],
    "names": {"types": ["dns", "ip"], "wildcards": True, "dns": {"deny": ["**.forbidden.example"]}},
    "extended_key_usage": ["serverAuth"],
    "validity": {"default": "90d", "backdate": "1h"},
    "lint": {"mode": "off"},
}
SHORT: dict[str, Any] = {**PROFILE, "name": "short", "description": "Short", "validity": {"default": "6d"}}
ASKED: dict[str, Any] = {**PROFILE, "name": "asked", "description": "", "approval": {"approvers": 1}}
NAMES: dict[str, Any] = {**PROFILE, "name": "names-only", "names": {"types": ["dns"]}}
WEB = ACMEChannel(name="web", profiles=("tls-server", "short"))
OTHER = ACMEChannel(name="other", profiles=("tls-server",))
SLOW = ACMEChannel(name="slow", profiles=("asked",))


class Labs:
    """Runs scenarios, each in a fresh laboratory."""

    def __init__(self, store: Store, clock: ManualClock, directory: Path) -> None:
        self._store = store
        self._clock = clock
        self._directory = directory
        self.keep = False
        """Whether later runs find what earlier ones left in the database."""
        self._started = False

    def run(
        self,
        scenario: Scenario,
        *,
        web: ACMEChannel | None = None,
        settings: Settings | None = None,
    ) -> None:
        """``web`` replaces the channel of that name."""

        async def main() -> None:
            channels = [web or WEB, OTHER, SLOW]
            lab = Lab(self._store, self._clock, self._directory, settings or Settings(), channels)
            if not (self._started and self.keep):
                await lab.start([PROFILE, SHORT, ASKED, NAMES])
                self._started = True
            else:
                await lab.resume()
            try:
                await scenario(lab)
            finally:
                await lab.stop()

        asyncio.run(main())
