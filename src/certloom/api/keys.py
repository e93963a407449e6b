"""Keys that are never certified again, and reports that one was compromised."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from hashlib import sha256
from typing import Annotated

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.requests import csr_of_pem
from certloom.api.routing import Answer, Call, Page, Paging, Public, at, route
from certloom.audit import record
from certloom.enrollment.compromise import PROOF, Report, is_proof
from certloom.pki.certificates import CertificateError, parse_certificate
from certloom.pki.csr import CertificateRequest
from certloom.pki.keys import KeyRejected, facts_of
from certloom.store import certificates as statements
from certloom.store.base import Tx

_MOST_COUNTED = 1000
_ARMOUR = re.compile(r"-----BEGIN ([A-Z ]+)-----\s+([A-Za-z0-9+/=\s]+?)-----END \1-----")

Digest = Annotated[
    str,
    msgspec.Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the SubjectPublicKeyInfo, hexadecimal."),
]
PEM = Annotated[str, msgspec.Meta(max_length=1 << 17)]
Why = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class KeyPath(msgspec.Struct, frozen=True):
    """Which key."""

    spki: Digest


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be blocked."""

    spki_sha256: Digest
    why: Why


class BlockedKey(msgspec.Struct, frozen=True):
    """A key that is never certified again."""

    spki_sha256: str
    why: str
    blocked: datetime
    unrevoked_certificates: tuple[int, ...]
    """Ids, of the first thousand with this key."""


class ListedKey(msgspec.Struct, frozen=True):
    """A blocked key, in a list."""

    spki_sha256: str
    why: str
    blocked: datetime


class Compromised(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key that was compromised, by exactly one of what has it in it."""

    certificate: PEM | None = None
    csr: PEM | None = None
    public_key: PEM | None = None
    """SubjectPublicKeyInfo, PEM."""
    spki_sha256: Digest | None = None
    proof: PEM | None = None
    """A CSR that says so of its own key, as for `POST /compromised-keys/proofs`."""
    why: Why = "reported as compromised"
    authorities: bool = False
    """Revoke CA certificates that have the key too, with all that is beneath them in effect."""


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A proof that somebody else has the key: a CSR made with it."""

    proof: PEM
    """PEM; the common name begins with "Proof of key compromise"."""


class Proved(msgspec.Struct, frozen=True):
    """A key that was proved to be compromised."""

    spki_sha256: str
    blocked: datetime


class Compromise(msgspec.Struct, frozen=True):
    """What was done about a compromised key."""

    spki_sha256: str
    why: str
    blocked: datetime
    revoked: int
    """Certificates that were revoked with this report."""
    being_revoked: bool
    """Whether there are more, which are revoked in the background."""
    ca_certificates: tuple[int, ...]
    """Ids of CA certificates that have the key and were left alone; at most 101."""


@route(
    "POST",
    "/blocked-keys",
    permission="key.block",
    summary="Block a public key for ever",
    body=Block,
    answers={201: BlockedKey, 200: BlockedKey},
    tag="keys",
)
async def block(call: Call[None, None, Block]) -> Answer:
    """Certificates that have it stay as they are. 200 where it was blocked before; nothing changes then."""
    digest = bytes.fromhex(call.body.spki_sha256)

    def unit(tx: Tx) -> Answer:
        call.allow_shared("key.block")
        clock = call.services.clock
        new = statements.block_key(tx, digest, call.body.why, clock.now())
        if new:
            record(
                tx, clock.now_ms(), "key.blocked", f"key:{digest.hex()}", call.origin, {"why": call.body.why}
            )
        return Answer(
            _shown(tx, digest),
            status=201 if new else 200,
            location=f"/blocked-keys/{digest.hex()}" if new else None,
        )

    return await call.create(unit)


@route(
    "GET",
    "/blocked-keys",
    permission="key.block",
    summary="List blocked keys",
    query=Paging,
    answers={200: Page[ListedKey]},
    tag="keys",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """By the SHA-256 of their SubjectPublicKeyInfo."""
    call.allow_shared("key.block")
    after = bytes.fromhex(call.position(str) or "")
    rows = await call.services.store.read(lambda tx: statements.blocked_keys(tx, after, call.limit + 1))
    shown = [ListedKey(digest.hex(), why, at(since)) for digest, why, since in rows]
    return call.page(shown, lambda row: row.spki_sha256)


@route(
    "GET",
    "/blocked-keys/{spki}",
    permission="key.block",
    summary="Look whether a key is blocked",
    path=KeyPath,
    answers={200: BlockedKey},
    problems=(problems.NOT_FOUND,),
    tag="keys",
)
async def show(call: Call[KeyPath, None, None]) -> Answer:
    """With the certificates that have it and are not revoked."""
    call.allow_shared("key.block")
    return Answer(await call.services.store.read(lambda tx: _shown(tx, bytes.fromhex(call.path.spki))))


@route(
    "POST",
    "/compromised-keys",
    permission="key.block",
    summary="Report a compromised key",
    body=Compromised,
    answers={200: Compromise},
    problems=(problems.INVALID,),
    tag="keys",
)
async def compromised(call: Call[None, None, Compromised]) -> Answer:
    """The key is blocked for ever, and every certificate that has it is revoked for keyCompromise: the first
    hundred before this is answered, the others in the background. A repeat changes nothing more.

    It takes key.block and certificate.revoke without a scope, and authority.write for CA certificates.
    """
    digest = _digest(call.body)

    def unit(tx: Tx) -> Answer:
        call.allow_shared("key.block")
        call.allow_shared("certificate.revoke")
        if call.body.authorities:
            call.allow_shared("authority.write")
        found = call.services.compromise.report_in(
            tx, digest, call.body.why, call.origin, authorities=call.body.authorities
        )
        return Answer(_told(tx, digest, found))

    return await call.create(unit)


@route(
    "POST",
    "/compromised-keys/proofs",
    permission=Public("whoever has a key may prove that it is no longer its owner's alone"),
    summary="Prove that a key is compromised",
    body=Proof,
    answers={200: Proved},
    problems=(problems.NOT_FOUND, problems.INVALID, problems.TOO_MANY),
    keyed=False,
    tag="keys",
)
async def prove(call: Call[None, None, Proof]) -> Answer:
    """Anybody may, without logging in, for a key that a certificate of this installation has. The proof is a
    CSR made with the key, with a common name that begins with "Proof of key compromise". It proves the same
    for ever, so that it may be repeated without harm. An ordinary CSR proves nothing.
    """
    csr = _proof(call.body.proof)
    digest = csr.key.spki_sha256

    def unit(tx: Tx) -> Answer:
        if not statements.by_key(tx, digest, 1):
            # Otherwise anybody could fill the table with keys of their own.
            raise Problem(problems.NOT_FOUND, "no certificate of this installation has that key")
        call.services.compromise.report_in(tx, digest, "proved by whoever has it", call.origin)
        found = statements.blocked_key(tx, digest)
        assert found is not None
        return Answer(Proved(digest.hex(), at(found[1])))

    return await call.write(unit)


def _digest(body: Compromised) -> bytes:
    """The key that is meant. Raises ``Problem``."""
    given = (body.certificate, body.csr, body.public_key, body.spki_sha256, body.proof)
    if sum(part is not None for part in given) != 1:
        raise Problem(
            problems.INVALID, "give exactly one of certificate, csr, public_key, spki_sha256 and proof"
        )
    if body.spki_sha256 is not None:
        return bytes.fromhex(body.spki_sha256)
    if body.csr is not None:
        return csr_of_pem(body.csr).key.spki_sha256
    if body.proof is not None:
        return _proof(body.proof).key.spki_sha256
    try:
        if body.certificate is not None:
            return sha256(parse_certificate(_der(body.certificate, "CERTIFICATE")).spki).digest()
        return facts_of(_der(body.public_key or "", "PUBLIC KEY")).spki_sha256
    except (CertificateError, KeyRejected) as error:
        raise Problem(problems.INVALID, str(error)) from None


def _proof(pem: str) -> CertificateRequest:
    csr = csr_of_pem(pem)
    if not is_proof(csr):
        wanted = PROOF.capitalize()
        raise Problem(problems.INVALID, f"this is no proof: its common name does not begin with {wanted!r}")
    return csr


def _der(pem: str, label: str) -> bytes:
    """The first thing of this kind in a PEM file: of a chain, the leaf. Raises ``Problem``."""
    for found, text in _ARMOUR.findall(pem):
        if found == label:
            try:
                return base64.b64decode("".join(text.split()), validate=True)
            except (binascii.Error, ValueError):
                break
    raise Problem(problems.INVALID, f"there is no {label} in PEM")


def _told(tx: Tx, digest: bytes, report: Report) -> Compromise:
    found = statements.blocked_key(tx, digest)
    assert found is not None
    return Compromise(digest.hex(), found[0], at(found[1]), report.revoked, report.left, report.authorities)


def _shown(tx: Tx, digest: bytes) -> BlockedKey:
    found = statements.blocked_key(tx, digest)
    if found is None:
        raise Problem(problems.NOT_FOUND, "this key is not blocked")
    live = tuple(c.id for c in statements.by_key(tx, digest, _MOST_COUNTED) if c.revoked is None)
    return BlockedKey(digest.hex(), found[0], at(found[1]), live)
