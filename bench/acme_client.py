"""A small asyncio ACME client (RFC 8555) for load, cheap enough that the server is what is measured.

One ``Account`` has one TLS connection, kept alive, and one ES256 key. Each step of an issuance is a method of
its own, so that a caller whose server was killed can go on from where it was.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

_ES256 = ec.ECDSA(hashes.SHA256())
_PATIENCE = 60
"""Seconds that one answer may take."""
_BAD_NONCE = "urn:ietf:params:acme:error:badNonce"


def b64(data: bytes) -> str:
    """base64url without padding (RFC 8555 section 6.1)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_csr(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> bytes:
    """DER PKCS#10 request for DNS names, with an empty subject."""
    san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.add_extension(san, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


class Disconnected(Exception):
    """The connection ended before the whole answer was there: the request may or may not have been done."""


class Problem(Exception):
    """The server answered with an error."""

    def __init__(self, status: int, body: bytes) -> None:
        try:
            document = json.loads(body)
            self.type: str = document.get("type", "")
            detail = document.get("detail", "")
        except (ValueError, AttributeError):
            self.type, detail = "", body[:200].decode(errors="replace")
        super().__init__(f"{status} {self.type} {detail}")
        self.status = status


class Unsolved(Exception):
    """An authorization or an order became invalid, or took too long."""


@dataclass
class Answer:
    """One HTTP answer."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class _Wire(asyncio.Protocol):
    """One connection with one request in flight at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._parser: Any = None
        self._no_body = False
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Disconnected(str(exc or "closed")))

    def data_received(self, data: bytes) -> None:
        if self._parser is not None:
            self._parser.feed_data(data)

    # httptools calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        if self._no_body:
            self._done()

    def on_body(self, data: bytes) -> None:
        self._answer.body += data

    def on_message_complete(self) -> None:
        self._done()

    def _done(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._answer)
            if self._answer.headers.get(b"connection", b"").lower() == b"close":
                self.close()

    async def ask(self, request: bytes, *, no_body: bool = False) -> Answer:
        """Send a request and wait for its whole answer. Raises ``Disconnected``."""
        if self._transport is None or not self.open:
            raise Disconnected("not connected")
        self._answer, self._no_body = Answer(), no_body
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._waiting
        except TimeoutError:
            self.close()
            raise Disconnected(f"no answer in {_PATIENCE} s") from None

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()


class Responder:
    """Answers http-01 (RFC 8555 section 8.3) for every account of this process, for any name."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self._servers: list[asyncio.Server] = []

    async def listen(self, address: str, *ports: int) -> None:
        for port in ports:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: _Challenged(self), address, port, backlog=1024)
            self._servers.append(server)

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def expect(self, token: str, key_authorization: str) -> asyncio.Event:
        """Answer ``token`` from now on; the event is set once it has been asked for."""
        self._answers[token] = key_authorization
        return self._asked.setdefault(token, asyncio.Event())

    def forget(self, token: str) -> None:
        self._answers.pop(token, None)
        self._asked.pop(token, None)

    def answer(self, path: bytes) -> bytes:
        token = path.rpartition(b"/")[2].decode("ascii", "replace")
        text = self._answers.get(token)
        if text is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self._asked[token].set()
        return (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(text)}\r\n"
            f"Connection: close\r\n\r\n{text}"
        ).encode()


class _Challenged(asyncio.Protocol):
    """One connection of a validator."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" in self._received:
            parts = self._received.split(b" ", 2)
            self._transport.write(self._responder.answer(parts[1] if len(parts) == 3 else b""))
            self._transport.close()


@dataclass
class Order:
    """An order as far as its client knows it."""

    url: str
    body: dict[str, Any]

    @property
    def status(self) -> str:
        status: str = self.body["status"]
        return status


class Account:
    """An ACME account, its key and its connection to the server."""

    def __init__(self, directory: str, trust: ssl.SSLContext, responder: Responder) -> None:
        self._directory_url = directory
        self._trust = trust
        self._responder = responder
        parts = urlsplit(directory)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._headers = f"Host: {parts.netloc}\r\nUser-Agent: certloom-bench\r\n"
        self._secure = parts.scheme == "https"
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        x, y = b64(numbers.x.to_bytes(32, "big")), b64(numbers.y.to_bytes(32, "big"))
        self._jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        members = json.dumps(self._jwk, separators=(",", ":"), sort_keys=True)
        self.thumbprint = b64(sha256(members.encode()).digest())
        self._wire: _Wire | None = None
        self._nonces: list[str] = []
        self.directory: dict[str, Any] = {}
        self.url = ""
        """The account URL once it is registered."""
        self.requests = 0

    # The wire.

    async def _connection(self) -> _Wire:
        if self._wire is None or not self._wire.open:
            try:
                _, self._wire = await asyncio.get_running_loop().create_connection(
                    _Wire, self._host, self._port, ssl=self._trust if self._secure else None
                )
            except OSError as error:
                raise Disconnected(str(error)) from error
        return self._wire

    async def _send(self, method: str, url: str, body: bytes = b"") -> Answer:
        if not url.startswith(self._origin):
            raise ValueError(f"{url} is not of {self._origin}")
        request = f"{method} {url[len(self._origin) :]} HTTP/1.1\r\n{self._headers}"
        if method == "POST":
            request += f"Content-Type: application/jose+json\r\nContent-Length: {len(body)}\r\n"
        wire = await self._connection()
        self.requests += 1
        answer = await wire.ask((request + "\r\n").encode() + body, no_body=method == "HEAD")
        nonce = answer.headers.get(b"replay-nonce")
        if nonce is not None:
            self._nonces.append(nonce.decode())
        return answer

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._nonces.clear()

    # JWS (RFC 8555 section 6.2).

    def _jws(self, url: str, payload: Any) -> bytes:
        protected: dict[str, Any] = {"alg": "ES256", "nonce": self._nonces.pop(), "url": url}
        if self.url:
            protected["kid"] = self.url
        else:
            protected["jwk"] = self._jwk
        head = b64(json.dumps(protected).encode())
        text = "" if payload is None else b64(json.dumps(payload).encode())
        r, s = decode_dss_signature(self._key.sign(f"{head}.{text}".encode(), _ES256))
        signature = b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return f'{{"protected":"{head}","payload":"{text}","signature":"{signature}"}}'.encode()

    async def post(self, url: str, payload: Any = None) -> Answer:
        """A signed POST (POST-as-GET without payload), retrying badNonce.

        Raises ``Problem`` and ``Disconnected``.
        """
        for _ in range(5):
            if not self._nonces:
                await self.new_nonce()
            answer = await self._send("POST", url, self._jws(url, payload))
            if answer.status < 400:
                return answer
            problem = Problem(answer.status, answer.body)
            if problem.type != _BAD_NONCE:
                raise problem
        raise problem

    # The steps.

    async def new_nonce(self) -> None:
        await self._send("HEAD", self.directory["newNonce"])

    async def register(self, **members: Any) -> None:
        """Fetch the directory and create (or find) the account."""
        answer = await self._send("GET", self._directory_url)
        if answer.status != 200:
            raise Problem(answer.status, answer.body)
        self.directory = answer.json()
        self.url = ""
        answer = await self.post(self.directory["newAccount"], {"termsOfServiceAgreed": True, **members})
        self.url = answer.headers[b"location"].decode()

    async def new_order(self, names: Sequence[str]) -> Order:
        identifiers = [{"type": "dns", "value": name} for name in names]
        answer = await self.post(self.directory["newOrder"], {"identifiers": identifiers})
        return Order(answer.headers[b"location"].decode(), answer.json())

    async def refresh(self, order: Order) -> None:
        order.body = (await self.post(order.url)).json()

    async def authorize(self, url: str, seconds: float = 30) -> None:
        """Prove control by http-01 unless that has been done. Raises ``Unsolved``.

        When the server is lost in between, the answer stays: the server may come back for it.
        """
        body = (await self.post(url)).json()
        if body["status"] == "pending":
            challenge = next(c for c in body["challenges"] if c["type"] == "http-01")
            token = challenge["token"]
            asked = self._responder.expect(token, f"{token}.{self.thumbprint}")
            if challenge["status"] == "pending":
                await self.post(challenge["url"], {})
            # The first poll waits for the server to have come by; then it backs off.
            try:
                async with asyncio.timeout(seconds):
                    await asked.wait()
            except TimeoutError:
                raise Unsolved(f"nobody asked for the http-01 answer of {url}") from None
            pause, left = 0.004, seconds
            while body["status"] == "pending" and left > 0:
                await asyncio.sleep(pause)
                left -= pause
                pause = min(pause * 2, 1)
                body = (await self.post(url)).json()
            self._responder.forget(token)
        if body["status"] != "valid":
            raise Unsolved(json.dumps(body))

    async def finalize(self, order: Order, csr: bytes, seconds: float = 30) -> None:
        """Finalize and wait for the certificate's URL. Raises ``Unsolved``."""
        order.body = (await self.post(order.body["finalize"], {"csr": b64(csr)})).json()
        pause, left = 0.01, seconds
        while order.status == "processing" and left > 0:
            await asyncio.sleep(pause)
            left -= pause
            pause = min(pause * 2, 1)
            await self.refresh(order)
        if order.status != "valid":
            raise Unsolved(json.dumps(order.body))

    async def download(self, order: Order) -> bytes:
        """The chain, PEM, leaf first."""
        return (await self.post(order.body["certificate"])).body

    async def issue(self, names: Sequence[str], csr: bytes) -> bytes:
        """A whole issuance, beginning with a new nonce; the chain as PEM."""
        self._nonces.clear()
        await self.new_nonce()
        order = await self.new_order(names)
        for url in order.body["authorizations"]:
            await self.authorize(url)
        await self.finalize(order, csr)
        return await self.download(order)


def check_chain(pem: bytes, key: ec.EllipticCurvePublicKey, names: Sequence[str]) -> x509.Certificate:
    """Check that a chain's leaf is signed by the certificate after it and holds ``key`` and ``names``."""
    chain = x509.load_pem_x509_certificates(pem)
    leaf = chain[0]
    leaf.verify_directly_issued_by(chain[1])
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if set(san.get_values_for_type(x509.DNSName)) != set(names) or leaf.public_key() != key:
        raise ValueError("not the certificate that was asked for")
    return leaf
