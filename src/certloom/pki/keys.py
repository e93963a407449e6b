"""Public keys: what they are, and whether they are fit to certify."""

from __future__ import annotations

import msgspec


class PublicKeyFacts(msgspec.Struct, frozen=True):
    """A public key as policy sees it."""

    spki: bytes
    """DER SubjectPublicKeyInfo."""
    spki_sha256: bytes
    algorithm: str
    """``rsa``, ``ec``, ``ed25519``, ``ed448``, ``ml-dsa-44``, ``ml-dsa-65`` or ``ml-dsa-87``."""
    bits: int
    """RSA modulus or EC field size; 0 where the algorithm says it all."""
    curve: str = ""
    """``P-256``, ``P-384`` or ``P-521`` for ``ec``."""
