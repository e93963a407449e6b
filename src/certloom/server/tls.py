"""TLS of the HTTPS listeners: a certificate of the product's own, or one that settings name.

The own one comes through the same pipeline as anybody's (profile ``tls-server``), is kept with its key in one
file sealed under the data key, is renewed when two thirds of its life are over or the names to serve have
changed, and is swapped into the live context: new handshakes get it, connections that stand stay untouched.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from certloom.audit import SYSTEM
from certloom.authorities.generations import RETIRED
from certloom.enrollment.asks import Ask
from certloom.pki import keys
from certloom.pki.certificates import parse_certificate
from certloom.pki.csr import parse_csr
from certloom.pki.identifiers import Identifier, IdentifierError, parse_dns, parse_ip
from certloom.pki.pem import to_pem
from certloom.policy.decisions import Requester
from certloom.secrets import SecretError
from certloom.server.data_dir import write_atomically
from certloom.server.rooms import Rooms
from certloom.settings import Settings, parse_address
from certloom.store import certificates as certificate_statements

# X509_V_FLAG_NO_CHECK_TIME, for which Python has no name.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
PROFILE = "tls-server"
_PURPOSE = "https-listener"

_log = structlog.get_logger("certloom.server")


class TLSError(Exception):
    """There is no certificate to serve HTTPS with."""


class _Kept(msgspec.Struct, frozen=True):
    """The sealed file's contents."""

    key: bytes
    """PKCS#8 DER."""
    chain: tuple[bytes, ...]
    """DER, leaf first."""


def server_context() -> ssl.SSLContext:
    """A context without a certificate yet: TLS 1.2 and 1.3, HTTP/1.1, no client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # One ticket per handshake: clients that resume at all need no second.
    context.num_tickets = 1
    context.set_alpn_protocols(["http/1.1"])
    return context


def wanted_names(settings: Settings) -> tuple[Identifier, ...]:
    """What this machine is called by those who talk to it over HTTPS."""
    found: dict[Identifier, None] = {}
    texts = ["localhost", socket.gethostname(), socket.getfqdn()]
    if settings.listen.https and not (address := parse_address(settings.listen.https)).answers_localhost:
        texts.append(address.host)
    if settings.public_url:
        # First, so that it is also the subject's common name.
        texts.insert(0, urlsplit(settings.public_url).hostname or "")
    for text in (*texts, "127.0.0.1", "::1"):
        for parse in (parse_ip, parse_host):
            try:
                found[parse(text)] = None
            except IdentifierError:
                continue
            break
    return tuple(found)


def parse_host(text: str) -> Identifier:
    """A DNS name that is no wildcard. Raises ``IdentifierError``."""
    return parse_dns(text.lower().rstrip("."), wildcard=False)


def client_context() -> ssl.SSLContext:
    """A context that also asks for a client certificate, and goes on without one.

    A certificate of somebody unknown ends the handshake, and so does one that is no client's: who cannot
    choose what they present goes to the other listener. One that has expired passes, since some may still be
    renewed with themselves: whoever lets a client in by its certificate looks at its time. Nothing is
    resumed: each connection proves the key anew.
    """
    context = server_context()
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_OPTIONAL
    # An authority may be known here whose issuer is not.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags |= _NO_CHECK_TIME
    return context


class ListenerTLS:
    """Keeps the HTTPS listeners' contexts supplied with a certificate that is good now."""

    def __init__(self, rooms: Rooms) -> None:
        self.context = server_context()
        self.client_context = client_context()
        """For the listener that asks for client certificates; trusts the authorities of this database."""
        self._trusted: set[bytes] = set()
        self.not_after = 0
        """When the certificate being served ends, Unix seconds."""
        self._rooms = rooms
        self._listen = rooms.settings.listen
        self._renew_at = 0
        self._names: frozenset[Identifier] = frozenset()
        self._loaded: tuple[float, float] = (0, 0)
        self._kept: _Kept | None = None

    async def start(self) -> None:
        """Load or get a certificate. Raises ``TLSError``."""
        self.trust()
        if self._listen.tls_certificate:
            try:
                self._load_given()
            except (OSError, ssl.SSLError, ValueError) as error:
                raise TLSError(f"listen.tls_certificate and listen.tls_key: {error}") from None
            return
        kept = self._read()
        if kept is not None and self._is_ours(kept):
            self._serve(kept)
        try:
            await self.keep()
        except Exception as error:
            if self.not_after <= self._rooms.clock.now():
                raise TLSError(
                    f"no certificate for the HTTPS listener could be issued ({error}); let the profile"
                    f" {PROFILE} allow this host's names, or name a certificate in listen.tls_certificate"
                ) from error
            _log.exception("the HTTPS certificate could not be renewed")

    async def keep(self) -> None:
        """Renew what is due, reload what has changed. Run periodically."""
        if self._listen.tls_certificate:
            self._reload_given()
        elif self._rooms.clock.now() >= self._renew_at or not self._names.issuperset(
            wanted_names(self._rooms.settings)
        ):
            kept = await self._issue()
            sealed = self._rooms.data_key.seal(_PURPOSE, msgspec.json.encode(kept))
            write_atomically(self._rooms.data_dir.https, sealed, 0o600)
            self._serve(kept)
            _log.info("HTTPS certificate issued", not_after=self.not_after)
        elif self._kept is not None and (chain := self._chain(self._kept.chain[0])) != self._kept.chain:
            # An authority above was rolled over, or cross-certified.
            self._serve(_Kept(self._kept.key, chain))

    def _chain(self, leaf: bytes) -> tuple[bytes, ...]:
        """A certificate of ours, with what is above it now."""
        books = self._rooms.books
        identifier = parse_certificate(leaf).authority_key_identifier
        for generation in books.reading.generations:
            if generation.key_identifier == identifier:
                authority = books.authority(generation.authority)
                return (leaf, *authority.chains(generation.generation)[0])
        return (leaf,)

    def trust(self) -> None:
        """Let the client context know every authority there is, and all trust anchors. Who may do what is
        asked where they want to do it."""
        reading = self._rooms.books.reading
        own = [g.certificate for g in reading.generations if g.certificate is not None and g.state != RETIRED]
        others = [certificate for anchors in reading.anchors.values() for certificate in anchors]
        for certificate in (*own, *others):
            if certificate not in self._trusted:
                self.client_context.load_verify_locations(cadata=certificate)
                self._trusted.add(certificate)

    def _load_given(self) -> None:
        paths = (Path(self._listen.tls_certificate), Path(self._listen.tls_key))
        times = (paths[0].stat().st_mtime, paths[1].stat().st_mtime)
        certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
        # Into a fresh context first: a pair that does not fit must not spoil the live one.
        server_context().load_cert_chain(*paths, password="")
        for context in (self.context, self.client_context):
            context.load_cert_chain(*paths, password="")
        self.not_after = int(certificate.not_valid_after_utc.timestamp())
        self._loaded = times

    def _reload_given(self) -> None:
        try:
            paths = (self._listen.tls_certificate, self._listen.tls_key)
            if tuple(os.stat(path).st_mtime for path in paths) != self._loaded:
                self._load_given()
                _log.info("HTTPS certificate reloaded", not_after=self.not_after)
        except (OSError, ssl.SSLError, ValueError) as error:
            # Often caught between the writing of the one file and of the other; the old pair goes on serving.
            _log.warning("HTTPS certificate not reloaded", error=str(error))

    def _read(self) -> _Kept | None:
        path = self._rooms.data_dir.https
        try:
            return msgspec.json.decode(self._rooms.data_key.open(_PURPOSE, path.read_bytes()), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, SecretError, msgspec.DecodeError) as error:
            _log.warning("HTTPS certificate not readable; another is issued", error=str(error))
            return None

    def _is_ours(self, kept: _Kept) -> bool:
        """Whether an authority of this database issued it: the data directory may be older."""
        identifier = parse_certificate(kept.chain[0]).authority_key_identifier or b""
        return self._rooms.books.authority_by_key_identifier(identifier) is not None

    def _serve(self, kept: _Kept) -> None:
        facts = parse_certificate(kept.chain[0])
        # OpenSSL reads files only, so the key lies in one for a moment, under a password that is nowhere.
        password = secrets.token_bytes(16).hex().encode()
        pem = keys.private_from_der(kept.key).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )
        with tempfile.NamedTemporaryFile(dir=self._rooms.data_dir.path, prefix=".https.") as file:
            file.write(pem + b"".join(to_pem(der) for der in kept.chain))
            file.flush()
            for context in (self.context, self.client_context):
                context.load_cert_chain(file.name, password=password)
        self._kept = kept
        self.not_after = facts.not_after
        self._renew_at = facts.not_before + (facts.not_after - facts.not_before) * 2 // 3
        self._names = frozenset(facts.identifiers)

    async def _issue(self) -> _Kept:
        rooms = self._rooms
        names = wanted_names(rooms.settings)
        private_key = keys.generate("P-256")
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(private_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )
        request = await rooms.enrollment.submit(
            Ask(
                protocol="system",
                channel="https-listener",
                profile=PROFILE,
                requester=Requester("system", "https-listener"),
                csr=parse_csr(csr),
                identifiers=names,
                origin=SYSTEM,
            )
        )
        id = request.certificate_id
        certificate = (
            await rooms.store.read(lambda tx: certificate_statements.get(tx, id)) if id is not None else None
        )
        if certificate is None:
            raise TLSError(f"the request is {request.state}; a listener cannot wait")
        chain = rooms.books.authority(certificate.authority).chains(certificate.generation)[0]
        return _Kept(keys.private_to_der(private_key), (certificate.der, *chain))
