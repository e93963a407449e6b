"""What it takes to be an authority. Connectors to other CAs implement this; so does ``local``."""

from __future__ import annotations

from typing import Protocol

import msgspec

from certloom.pki.crl import CRLTemplate
from certloom.policy.decisions import CertificateContents


class Issued(msgspec.Struct, frozen=True):
    """A certificate an authority has made, not yet recorded."""

    authority: str
    der: bytes
    serial: bytes
    """Big-endian, without the DER sign octet."""
    crl_shard: int
    generation: int
    """Which of the authority's keys signed it."""
    reserved: bool
    """Whether the serial was reserved in our store (it is ours), to be consumed by the record."""


class AuthorityError(Exception):
    """The authority did not issue. ``code`` is for machines; nothing was issued.

    ``details`` says one by one, fit for the requester's eyes, what stands against it, where the message tells
    of several things.
    """

    def __init__(self, code: str, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class AuthorityUnavailable(AuthorityError):
    """Not now; asking again later may succeed."""


class CRLSource(Protocol):
    """An authority whose CRLs we sign."""

    name: str
    crl_shards: int
    crl_seconds: int
    """From thisUpdate to nextUpdate."""
    delta_seconds: int
    """How often delta CRLs are signed; 0: never."""
    full_crl: bool
    """Whether a generation with several shards has a whole list beside them."""
    publish_seconds: int
    """How soon after a revocation a CRL says so, at the latest."""
    crl_number_above: int
    """The number of the last CRL that was made elsewhere; 0: there was none."""

    def crl_generations(self) -> tuple[int, ...]:
        """Those whose CRLs are signed: all that have a certificate and are not retired, oldest first."""
        ...

    def crl_issuer(self, generation: int) -> bytes:
        """DER certificate of the CA that signs a generation's CRLs."""
        ...

    def crl_url(self, generation: int, shard: int, *, delta: bool = False) -> str:
        """Where a CRL is published; ``shard`` -1 is the whole list."""
        ...

    def former_crl_urls(self, generation: int, shard: int) -> tuple[str, ...]:
        """What certificates may call it that were issued before addresses changed."""
        ...

    async def sign_crl(self, generation: int, template: CRLTemplate) -> bytes:
        """DER CRL. Raises ``AuthorityError``."""
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

    def chains(self, generation: int | None = None) -> tuple[tuple[bytes, ...], ...]:
        """DER issuer chains, preferred first: from the issuing certificate up to, but without, its root.

        Of what this generation of the authority issued; None: of what is issued now.
        """
        ...

    async def close(self) -> None:
        """Give back what is held (reserved serials, connections)."""
        ...
