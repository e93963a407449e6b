"""Doing what ``Signing`` can be asked: with keys in this process and in tokens.

The signer runs one of these behind a socket (``process``); commands that work without a server, and
servers that are told to, have one in their own process.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certloom.clock import Clock
from certloom.pki import der, signatures
from certloom.pki.ca import tbs_ca_certificate
from certloom.pki.certificates import CertificateError, TemplateError, issuer_facts, tbs_certificate
from certloom.pki.crl import CRLError, CRLTemplate, tbs_crl
from certloom.pki.csr import tbs_csr
from certloom.pki.keys import KeyRejected, PrivateKey, facts_of, generate, private_from_der, public_key
from certloom.pki.names import Name
from certloom.pki.template import CATemplate, CertificateTemplate, IssuerFacts
from certloom.secrets import DataKey
from certloom.signing import records
from certloom.signing.base import KeyStatus, MadeKey, Purpose, SigningRefused, SigningStatus
from certloom.signing.records import KeyRecord

Padding = Literal["pkcs1", "oaep-sha1", "oaep-sha256"]
_MOST_KEYS = 10_000


class Limits(Protocol):
    """What a signer does not do although it is asked. All raise ``SigningRefused`` or
    ``SigningUnavailable``."""

    def attach(self, purpose: Purpose, authority: str) -> None:
        """Before a key that is in a token already is used for an authority."""
        ...

    def certificate(self, record: KeyRecord, template: CertificateTemplate) -> None:
        """Before an end entity's certificate is signed."""
        ...

    def ca_certificate(self, record: KeyRecord, issuer: bytes | None, template: CATemplate) -> None:
        """Before a CA certificate is signed; without issuer, a self-signed one."""
        ...


class Tokens(Protocol):
    """Keys in PKCS#11 tokens: see ``signing.tokens``."""

    async def generate(self, uri: str, algorithm: str, id: str, purpose: Purpose) -> tuple[bytes, str]:
        """A new key: its SubjectPublicKeyInfo, and the URI that names it and nothing else."""
        ...

    async def find(self, uri: str) -> tuple[bytes, str]:
        """The key that a URI names: its SubjectPublicKeyInfo, and the URI that names it and nothing else."""
        ...

    async def sign_many(self, uri: str, algorithm: str, data: Sequence[bytes]) -> list[bytes]:
        """A signature over each, in the form that X.509 has."""
        ...

    async def decrypt(self, uri: str, ciphertext: bytes, padding: Padding) -> bytes:
        """RSA decryption."""
        ...

    def trouble(self, uri: str) -> str:
        """Why the token cannot be used just now; empty while it can."""
        ...

    async def close(self) -> None: ...


class _Unlimited:
    """Where there is no limits file."""

    def attach(self, purpose: Purpose, authority: str) -> None:
        """Everything is allowed."""

    def certificate(self, record: KeyRecord, template: CertificateTemplate) -> None:
        """Everything is allowed."""

    def ca_certificate(self, record: KeyRecord, issuer: bytes | None, template: CATemplate) -> None:
        """Everything is allowed."""


UNLIMITED: Limits = _Unlimited()


class _Key:
    """A key that is ready to be used."""

    __slots__ = ("algorithm", "private", "quick", "record")

    def __init__(self, record: KeyRecord) -> None:
        self.record = record
        self.algorithm = signatures.algorithm_for(public_key(facts_of(record.spki)))
        self.private: PrivateKey | None = None if record.token else records.private_key(record)
        # RSA and ML-DSA signatures take milliseconds, too long for an event loop.
        self.quick = isinstance(self.private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)


class Service:
    """Holds keys in this process. Raises as ``Signing`` does."""

    def __init__(
        self,
        key: DataKey,
        clock: Clock,
        *,
        limits: Limits = UNLIMITED,
        tokens: Tokens | None = None,
        not_isolated: str = "the keys are in the server's own process",
    ) -> None:
        """``key`` seals the records. ``not_isolated`` says why the server could read the keys; empty if
        not."""
        self._sealing = key
        self._clock = clock
        self._limits = limits
        self._tokens = tokens
        self._why = not_isolated
        self._sealed: dict[str, bytes] = {}
        self._keys: dict[str, _Key] = {}

    # -- keys --------------------------------------------------------------------------------------------

    async def generate(
        self, id: str, purpose: Purpose, authority: str, algorithm: str, token: str | None = None
    ) -> MadeKey:
        now = self._clock.now()
        if token is not None:
            spki, uri = await self._token().generate(token, algorithm, id, purpose)
            return self._made(id, KeyRecord(purpose, authority, spki, now, born=True, token=uri))
        try:
            private_key = await asyncio.to_thread(generate, algorithm)
            return self._made(id, records.of_software(purpose, authority, private_key, now, born=True))
        except (ValueError, TypeError) as error:
            raise SigningRefused("bad-request", str(error)) from None

    async def adopt(self, id: str, purpose: Purpose, authority: str, pkcs8: bytes) -> MadeKey:
        try:
            private_key = private_from_der(pkcs8)
            now = self._clock.now()
            return self._made(id, records.of_software(purpose, authority, private_key, now, born=False))
        except KeyRejected as error:
            raise SigningRefused("bad-request", str(error)) from None

    async def attach(self, id: str, purpose: Purpose, authority: str, token: str) -> MadeKey:
        self._limits.attach(purpose, authority)
        spki, uri = await self._token().find(token)
        try:
            return self._made(id, KeyRecord(purpose, authority, spki, self._clock.now(), token=uri))
        except KeyRejected as error:
            raise SigningRefused("bad-request", str(error)) from None

    def know(self, id: str, record: bytes) -> None:
        if self._sealed.get(id) != record:
            self._sealed[id] = record
            self._keys.pop(id, None)

    def take(self, id: str, record: bytes) -> KeyRecord:
        """As ``know``, for a record that may be anybody's: one that does not open changes nothing.

        Raises ``SigningRefused``.
        """
        if self._sealed.get(id) != record:
            records.unseal(self._sealing, id, record)
            self.know(id, record)
        return self.record(id)

    def _made(self, id: str, record: KeyRecord) -> MadeKey:
        key = _Key(record)
        sealed = records.seal(self._sealing, id, record)
        self._sealed[id] = sealed
        self._keys[id] = key
        return MadeKey(record.spki, sealed)

    def record(self, id: str) -> KeyRecord:
        """What is known of a key."""
        return self._key(id, "ca", "ocsp", "ra").record

    def _key(self, id: str, *purposes: Purpose) -> _Key:
        key = self._keys.get(id)
        if key is None:
            sealed = self._sealed.get(id)
            if sealed is None:
                raise SigningRefused("unknown-key", f"there is no key {id}")
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            key = self._keys[id] = _Key(records.unseal(self._sealing, id, sealed))
        if key.record.purpose not in purposes:
            raise SigningRefused("wrong-purpose", f"key {id} is for {key.record.purpose}, not for this")
        return key

    def _token(self) -> Tokens:
        if self._tokens is None:
            raise SigningRefused("bad-request", "no PKCS#11 token is configured")
        return self._tokens

    # -- signing -----------------------------------------------------------------------------------------

    async def certificate(self, key_id: str, issuer: bytes, template: CertificateTemplate) -> bytes:
        key = self._key(key_id, "ca")
        if key.quick:
            return self._certificate_now(key, issuer, template)
        facts = _issuer(key, issuer)
        self._limits.certificate(key.record, template)
        return await self._signed(key, lambda: tbs_certificate(template, facts))

    def certificate_at_once(self, key_id: str, issuer: bytes, template: CertificateTemplate) -> bytes | None:
        """The same without waiting, or None where the key's signatures take long."""
        key = self._key(key_id, "ca")
        return self._certificate_now(key, issuer, template) if key.quick else None

    def _certificate_now(self, key: _Key, issuer: bytes, template: CertificateTemplate) -> bytes:
        facts = _issuer(key, issuer)
        self._limits.certificate(key.record, template)
        try:
            tbs = tbs_certificate(template, facts)
        except TemplateError as error:
            raise SigningRefused("bad-request", str(error)) from None
        assert key.private is not None
        return signatures.assemble(key.private, tbs)

    async def ca_certificate(self, key_id: str, issuer: bytes | None, template: CATemplate) -> bytes:
        key = self._key(key_id, "ca")
        facts = None if issuer is None else _issuer(key, issuer)
        if facts is None and template.spki != key.record.spki:
            raise SigningRefused("bad-request", "a self-signed certificate is for its own key")
        self._limits.ca_certificate(key.record, issuer, template)
        return await self._signed(key, lambda: tbs_ca_certificate(template, facts, key.algorithm))

    async def csr(self, key_id: str, subject: Name, *, ca: bool) -> bytes:
        key = self._key(key_id, "ca", "ra")
        return await self._signed(key, lambda: tbs_csr(subject, key.record.spki, ca=ca))

    async def crl(self, key_id: str, issuer: bytes, template: CRLTemplate) -> bytes:
        key = self._key(key_id, "ca")
        facts = _issuer(key, issuer)
        try:
            # On a thread whatever the key: a list may have very many entries.
            tbs = await asyncio.to_thread(tbs_crl, template, facts)
        except CRLError as error:
            raise SigningRefused("bad-request", str(error)) from None
        return await self._signed(key, lambda: tbs)

    async def sign(self, key_id: str, data: Sequence[bytes]) -> list[bytes]:
        return await self._signatures(self._key(key_id, "ocsp", "ra"), data)

    async def decrypt(self, key_id: str, ciphertext: bytes, padding: Padding) -> bytes:
        key = self._key(key_id, "ra")
        if key.private is None:
            return await self._token().decrypt(key.record.token, ciphertext, padding)
        private_key = key.private
        if not isinstance(private_key, rsa.RSAPrivateKey):
            raise SigningRefused("wrong-purpose", f"key {key_id} cannot decrypt")
        return await asyncio.to_thread(_decrypt, private_key, ciphertext, padding)

    async def _signed(self, key: _Key, tbs: Callable[[], bytes]) -> bytes:
        try:
            made = tbs()
        except (TemplateError, CRLError) as error:
            raise SigningRefused("bad-request", str(error)) from None
        (signature,) = await self._signatures(key, (made,))
        return der.sequence(made, key.algorithm, der.bit_string(signature))

    async def _signatures(self, key: _Key, data: Sequence[bytes]) -> list[bytes]:
        private_key = key.private
        if private_key is None:
            return await self._token().sign_many(key.record.token, key.record.algorithm, data)
        if key.quick:
            return [signatures.sign_tbs(private_key, one)[1] for one in data]
        return await asyncio.to_thread(lambda: [signatures.sign_tbs(private_key, one)[1] for one in data])

    # -- itself ------------------------------------------------------------------------------------------

    async def status(self) -> SigningStatus:
        shown = []
        for id in self._sealed:
            record = self._key(id, "ca", "ocsp", "ra").record
            trouble = self._tokens.trouble(record.token) if record.token and self._tokens else ""
            shown.append(
                KeyStatus(id, record.purpose, record.authority, record.algorithm, record.token, trouble)
            )
        return SigningStatus(not self._why, self._why, os.getpid(), tuple(shown))

    async def close(self) -> None:
        if self._tokens is not None:
            await self._tokens.close()


def _issuer(key: _Key, certificate: bytes) -> IssuerFacts:
    """What of the issuer's certificate is repeated. Raises ``SigningRefused`` where it is not this key's."""
    try:
        facts = issuer_facts(certificate)
    except CertificateError as error:
        raise SigningRefused("bad-request", f"the issuer's certificate: {error}") from None
    if facts.spki != key.record.spki:
        raise SigningRefused("bad-request", "the issuer's certificate is for another key")
    return facts


def _decrypt(private_key: rsa.RSAPrivateKey, ciphertext: bytes, how: Padding) -> bytes:
    if how == "pkcs1":
        try:
            # OpenSSL 3.2 and newer reject implicitly: what is wrong inside decrypts to random octets.
            return private_key.decrypt(ciphertext, padding.PKCS1v15())
        except ValueError:
            return secrets.token_bytes(32)
    digest = hashes.SHA1() if how == "oaep-sha1" else hashes.SHA256()  # noqa: S303 - RFC 8017's default
    try:
        return private_key.decrypt(ciphertext, padding.OAEP(padding.MGF1(digest), digest, None))
    except ValueError:
        raise SigningRefused("bad-request", "this does not decrypt") from None
