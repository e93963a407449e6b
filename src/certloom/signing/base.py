"""What the holder of authorities' keys can be asked for.

A key is known by an id and, at rest, by its *record*, sealed under the signer's key: what the key is for,
which authority's it is, and either the private key or where in a token it lies. The record is kept in the
database by whoever asks and handed over when the signer does not know the key (yet, or any more); it opens
nowhere else, and what it says of its purpose cannot be changed by who keeps it.

Certificates and CRLs are asked for by their contents: the TBS is built on the signer's side, so that it knows
what it signs. Octets are signed as they are for keys that are no CA's (``ocsp``, ``ra``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from certloom.pki.crl import CRLTemplate
from certloom.pki.names import Name
from certloom.pki.template import CATemplate, CertificateTemplate

Purpose = Literal["ca", "ocsp", "ra"]
"""``ca``: certificates and CRLs. ``ocsp``: OCSP responses. ``ra``: SCEP's and CMP's messages, and decrypting
them."""


class SigningError(Exception):
    """It was not done. ``code`` is for machines."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SigningRefused(SigningError):
    """For good: ``signer-limit`` (its limits file forbids it), ``bad-request`` (there is no such
    certificate, CRL or key), ``unknown-key`` (the record does not open), ``wrong-purpose``."""


class SigningUnavailable(SigningError):
    """For now: ``signer-unreachable``, ``token-unavailable``, ``token-locked`` (its PIN is wrong and is
    not tried again until somebody has looked), ``signer-rate``, ``signer-lost``."""


LOST = "signer-lost"
"""The code where the signer went away with a request in hand: it may have been signed, and nobody has it."""


class MadeKey(msgspec.Struct, frozen=True):
    """A key that the signer has made or taken in."""

    spki: bytes
    """DER SubjectPublicKeyInfo."""
    record: bytes
    """Sealed; to be kept with the key's id."""

    def __repr__(self) -> str:
        return "MadeKey(...)"


class KeyStatus(msgspec.Struct, frozen=True):
    """One key that the signer knows."""

    id: str
    purpose: Purpose
    authority: str
    algorithm: str
    """As ``pki.keys.generate`` calls it."""
    token: str
    """Its PKCS#11 URI (RFC 7512, without a PIN); empty for a software key."""
    trouble: str
    """Why it cannot be used just now; empty while it can."""


class SigningStatus(msgspec.Struct, frozen=True):
    """How the signer is."""

    isolated: bool
    """Whether it runs as a user of its own, whose files the server cannot read."""
    why: str
    """Why it is not; empty where it is."""
    pid: int
    keys: tuple[KeyStatus, ...]


class Signing(Protocol):
    """Holds keys. All methods raise ``SigningRefused`` or ``SigningUnavailable``."""

    async def generate(
        self, id: str, purpose: Purpose, authority: str, algorithm: str, token: str | None = None
    ) -> MadeKey:
        """A new key; with ``token``, a PKCS#11 URI, in that token, from which it cannot be taken."""
        ...

    async def adopt(self, id: str, purpose: Purpose, authority: str, pkcs8: bytes) -> MadeKey:
        """Take in a private key (an unencrypted PKCS#8 PrivateKeyInfo)."""
        ...

    async def attach(self, id: str, purpose: Purpose, authority: str, token: str) -> MadeKey:
        """Use a key that is in a token already: the one that the PKCS#11 URI names."""
        ...

    def know(self, id: str, record: bytes) -> None:
        """Remember a key's record, to be handed over when the signer asks for it."""
        ...

    async def certificate(self, key_id: str, issuer: bytes, template: CertificateTemplate) -> bytes:
        """DER of an end entity's certificate. ``issuer`` is the CA's DER certificate for this key."""
        ...

    async def ca_certificate(self, key_id: str, issuer: bytes | None, template: CATemplate) -> bytes:
        """DER of a CA certificate; without ``issuer`` self-signed: ``template.spki`` is then the key's
        own."""
        ...

    async def csr(self, key_id: str, subject: Name, *, ca: bool) -> bytes:
        """DER of a PKCS#10 request for this key, that asks for a CA certificate or not."""
        ...

    async def crl(self, key_id: str, issuer: bytes, template: CRLTemplate) -> bytes:
        """DER of a CRL. ``issuer`` is the CA's DER certificate for this key."""
        ...

    async def sign(self, key_id: str, data: Sequence[bytes]) -> list[bytes]:
        """A signature over each of these, by the algorithm of ``pki.signatures.algorithm_for``; no CA key
        does this."""
        ...

    async def decrypt(
        self, key_id: str, ciphertext: bytes, padding: Literal["pkcs1", "oaep-sha1", "oaep-sha256"]
    ) -> bytes:
        """Decrypt a content encryption key (RFC 8017 section 7); RSA keys for ``ra`` only.

        A failure in ``pkcs1`` answers random octets (RFC 3218 section 2.3.2): nothing can be learnt from it.
        """
        ...

    async def status(self) -> SigningStatus:
        """How it is, and which keys it knows."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...
