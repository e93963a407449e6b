"""What it takes to be an authority. Connectors to other CAs implement this; so does ``local``."""

from __future__ import annotations

from typing import Protocol

import msgspec

from certloom.pki.crl import CRLEntry
from certloom.policy.decisions import CertificateContents


class Issued(msgspec.Struct, frozen=True):
    """A certificate an authority has made, not yet recorded."""

    authority: str
    der: bytes
    serial: bytes
    """Big-endian, without the DER sign octet."""
    crl_shard: int
    reserved: bool
    """Whether the serial was reserved in our store (it is ours), to be consumed by the record."""


class AuthorityError(Exception):
    """The authority did not issue. ``code`` is for machines; nothing was issued."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AuthorityUnavailable(AuthorityError):
    """Not now; asking again later may succeed."""


class Signer(Protocol):
    """Holds a CA key. Builds the TBSCertificate itself, so that it can live in another process."""

    async def sign(self, contents: CertificateContents, serial: bytes, crl_shard: int) -> bytes:
        """DER certificate for these contents. Raises ``AuthorityError``."""
        ...


class CRLSource(Protocol):
    """An authority whose CRLs we sign."""

    name: str
    crl_shards: int
    crl_seconds: int
    """From thisUpdate to nextUpdate."""

    async def sign_crl(
        self, shard: int, entries: list[CRLEntry], number: int, this_update: int, next_update: int
    ) -> bytes:
        """DER CRL of one shard. Raises ``AuthorityError``."""
        ...


class Authority(Protocol):
    """A CA that can issue."""

    name: str
    immediate: bool
    """Whether ``issue`` answers at once. If not, the pipeline records ``issuing`` before it asks."""

    not_after: int | None
    """Unix seconds, inclusive: nothing it issues may live longer. None where that is not known."""

    async def issue(self, contents: CertificateContents) -> Issued:
        """Make one certificate. Its serial is durably reserved before anything is signed.

        Raises ``AuthorityError`` (for good) or ``AuthorityUnavailable`` (for now).
        """
        ...

    def chains(self) -> tuple[tuple[bytes, ...], ...]:
        """DER issuer chains, preferred first: from the issuing certificate up to, but without, its root."""
        ...

    async def close(self) -> None:
        """Give back what is held (reserved serials, connections)."""
        ...
