"""Who asks (RFC 7030 section 3.2.3 and 3.3.2): by a password or token, by a certificate, or by both.

A credential is looked up by the hash of its secret. A certificate, which TLS (or a trusted proxy) has found
to be its holder's, counts here if it was issued here by a profile that the channel accepts, or leads to one
of the channel's trust anchors; that it is revoked, its key blocked, or its time over, is looked up each time.
A certificate that does not count is as good as none: who also has a password gets in by that.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from collections.abc import Sequence

import msgspec

from certloom.clock import Clock
from certloom.enrollment.books import Books
from certloom.identity.credentials import Credentials, PresentedCredential
from certloom.identity.kinds import EST_PASSWORD, EST_TOKEN
from certloom.pki import extensions
from certloom.pki.certificates import CertificateError, CertificateFacts, parse_certificate
from certloom.pki.client_paths import find_client_path
from certloom.pki.names import BadName, decode, format_name
from certloom.pki.paths import PathError
from certloom.policy.channels import ESTChannel
from certloom.policy.decisions import Requester, ShownCertificate
from certloom.protocols.est.problems import ESTProblem, unauthorized
from certloom.store import certificates as certificate_statements
from certloom.store.base import Store, Tx
from certloom.store.certificates import StoredCertificate

CMC_RA = "1.3.6.1.5.5.7.3.28"
"""The purpose of a registration authority's certificate (RFC 6402 section 2.10)."""
_LONGEST_HEADER = 1024


class Peer(msgspec.Struct, frozen=True):
    """What a client shows of itself beside its request."""

    address: str = ""
    authorization: bytes | None = None
    """The Authorization header, if there is one."""
    certificate: bytes | None = None
    """DER of its TLS certificate."""
    chain: tuple[bytes, ...] = ()
    """DER of the CA certificates it sent with that."""
    tls_unique: bytes | None = None
    """The channel binding of its TLS 1.2 session (RFC 5929 section 3); None where there is none to be had."""


class HeldCertificate(msgspec.Struct, frozen=True):
    """A certificate that counts."""

    facts: CertificateFacts
    shown: ShownCertificate
    stored: StoredCertificate | None
    """Where it was issued here."""

    @property
    def is_ra(self) -> bool:
        """Whether its holder may ask on behalf of others (RFC 7030 section 3.7)."""
        return CMC_RA in self.facts.extended_key_usage


class Authenticated(msgspec.Struct, frozen=True):
    """Who asks, and by what."""

    requester: Requester
    credential: PresentedCredential | None
    certificate: HeldCertificate | None


class Authenticator:
    """Tells who a client is. Raises ``ESTProblem``, or ``StoreError``."""

    def __init__(self, store: Store, clock: Clock, books: Books, credentials: Credentials) -> None:
        self._store = store
        self._clock = clock
        self._books = books
        self._credentials = credentials

    async def authenticate(
        self,
        channel: ESTChannel,
        peer: Peer,
        *,
        renewal: bool,
        proven: PresentedCredential | None = None,
    ) -> Authenticated:
        """Who this is, by any of the channel's ways; ``renewal``: an expired certificate may do.

        ``proven``: a credential that the client has shown to hold otherwise than by sending it.
        """
        accept = channel.accept
        takes_secret = "credential" in accept or "both" in accept
        takes_certificate = "certificate" in accept or "both" in accept
        secret = None
        if peer.authorization is not None and takes_secret:
            secret = _read_authorization(peer.authorization)
        facts: CertificateFacts | None = None
        complaint = ""
        if peer.certificate is not None and takes_certificate:
            try:
                facts = parse_certificate(peer.certificate)
            except CertificateError:
                complaint = "the client certificate cannot be read"
        certificate: HeldCertificate | None = None

        def look(tx: Tx) -> tuple[PresentedCredential | None, StoredCertificate | None, bool]:
            credential = self._credential(tx, channel, secret) if secret is not None else None
            if facts is None:
                return credential, None, False
            stored = certificate_statements.by_fingerprint(tx, facts.sha256)
            key = stored.spki_sha256 if stored is not None else _spki_sha256(facts)
            return credential, stored, certificate_statements.is_blocked(tx, key)

        if secret is None and facts is None and proven is None:
            raise _refusal(channel, complaint)
        credential, stored, blocked = await self._store.read(look)
        credential = proven if proven is not None and takes_secret else credential
        if facts is not None:
            try:
                certificate = self._held(channel, facts, stored, blocked, peer.chain, renewal=renewal)
            except PathError as error:
                complaint = str(error)
        if credential is not None and credential.profiles and channel.profile not in credential.profiles:
            raise ESTProblem(403, "this credential is not for the profile of this channel")
        ways = channel.accept
        if credential is not None and ("credential" in ways or (certificate is not None and "both" in ways)):
            requester = Requester("credential", credential.id, credential.owner, credential.team)
            return Authenticated(requester, credential, certificate)
        if certificate is not None and "certificate" in ways:
            return Authenticated(requester_of(certificate), None, certificate)
        if credential is not None:
            raise ESTProblem(403, _with("a client certificate is needed beside the password", complaint))
        if secret is not None:
            detail = "the user name and password, or the token, are not good here"
            raise unauthorized(_with(detail, complaint), counted=True)
        if certificate is not None:
            raise unauthorized("a password or token is needed beside the certificate", counted=False)
        raise _refusal(channel, complaint)

    def _credential(
        self, tx: Tx, channel: ESTChannel, secret: tuple[str | None, str]
    ) -> PresentedCredential | None:
        user, text = secret
        kind = EST_TOKEN if user is None else EST_PASSWORD
        return self._credentials.present_secret(tx, kind, channel.name, text, id=user, spent=True)

    def _held(
        self,
        channel: ESTChannel,
        facts: CertificateFacts,
        stored: StoredCertificate | None,
        blocked: bool,
        chain: Sequence[bytes],
        *,
        renewal: bool,
    ) -> HeldCertificate:
        """Raises ``PathError`` where it does not count."""
        if blocked:
            raise PathError("the client certificate's key is blocked")
        now = self._clock.now()
        grace = channel.renew_expired if renewal else 0
        if stored is not None:
            _check_own(channel, facts, stored, now, grace)
            return HeldCertificate(facts, _shown(facts, profile=stored.profile), stored)
        wrong: PathError | None = None
        for name in channel.anchors:
            try:
                find_client_path(
                    facts.der,
                    chain,
                    self._books.anchors(name),
                    now,
                    purpose=CMC_RA if CMC_RA in facts.extended_key_usage else extensions.CLIENT_AUTH,
                    grace=grace,
                )
            except PathError as error:
                wrong = wrong or error
                continue
            return HeldCertificate(facts, _shown(facts, anchors=name), None)
        raise wrong or PathError("the client certificate was not issued here")


def _refusal(channel: ESTChannel, complaint: str) -> ESTProblem:
    """To who shows nothing that counts: 401 where a password would help (RFC 9110 section 15.5.2), else 403,
    since TLS alone could."""
    ways = channel.accept
    if "credential" not in ways and "both" not in ways:
        return ESTProblem(403, _with("a client certificate is needed", complaint))
    detail = "a password or token is needed"
    if "certificate" in ways:
        detail = "a password, a token or a client certificate is needed"
    # Bouncy Castle asks without a password first, and fails on an answer to that which says anything.
    return unauthorized(_with(detail, complaint), counted=False, silent=not complaint)


def _with(detail: str, complaint: str) -> str:
    return f"{detail}; {complaint}" if complaint else detail


def requester_of(certificate: HeldCertificate) -> Requester:
    """Who holds a certificate: what was issued here keeps its owner and its team."""
    stored = certificate.stored
    id = certificate.facts.sha256.hex()
    if stored is None:
        return Requester("certificate", id)
    return Requester("certificate", id, stored.owner, stored.team)


def _check_own(
    channel: ESTChannel, facts: CertificateFacts, stored: StoredCertificate, now: int, grace: int
) -> None:
    if stored.revoked is not None:
        raise PathError("the client certificate is revoked")
    if now < stored.not_before:
        raise PathError("the client certificate is not valid yet")
    if now > stored.not_after + grace:
        raise PathError("the client certificate has expired")
    if stored.profile != channel.profile and stored.profile not in channel.profiles_accepted:
        raise PathError("client certificates of this profile are not accepted here")
    purposes = set(facts.extended_key_usage)
    if purposes and not purposes & {extensions.CLIENT_AUTH, CMC_RA, "2.5.29.37.0"}:
        raise PathError("the client certificate is not for clients (extended key usage)")


def _shown(facts: CertificateFacts, *, anchors: str = "", profile: str = "") -> ShownCertificate:
    try:
        issuer = format_name(decode(facts.issuer_der))
    except BadName:
        issuer = ""
    return ShownCertificate(facts.subject, facts.identifiers, issuer, anchors, profile)


def _spki_sha256(facts: CertificateFacts) -> bytes:
    return facts.key.spki_sha256 if facts.key is not None else hashlib.sha256(facts.spki).digest()


def _read_authorization(header: bytes) -> tuple[str | None, str]:
    """User and password (RFC 7617), or None and a token (RFC 6750)."""
    scheme, _, rest = header.partition(b" ")
    rest = rest.strip()
    if len(rest) > _LONGEST_HEADER:
        raise ESTProblem(400, "the Authorization header is too long")
    kind = scheme.lower()
    if kind == b"bearer" and rest.isascii():
        return None, rest.decode("ascii")
    if kind == b"basic":
        try:
            user, colon, password = b64decode(rest, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if colon:
            return user, password
        raise ESTProblem(400, "the Authorization header is not user:password in base64 (RFC 7617 section 2)")
    raise unauthorized("only Basic and Bearer are understood here", counted=False)
