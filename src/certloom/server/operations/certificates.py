"""Certificates: found, revoked, marked for replacement; keys blocked."""

from __future__ import annotations

import contextlib
import re
from typing import Annotated, Any

import msgspec

from certloom.audit import Origin, record
from certloom.inventory import ledger
from certloom.pki.certificates import parse_certificate
from certloom.pki.identifiers import Identifier, IdentifierError, parse_dns, parse_ip
from certloom.pki.names import format_name
from certloom.pki.pem import to_pem
from certloom.server.operations.registry import Arguments, OperationError, operation
from certloom.server.rooms import Rooms
from certloom.store import certificates as statements
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate

REASONS = {
    "unspecified": 0,
    "keyCompromise": 1,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
"""RFC 5280 section 5.3.1."""
_REASON_NAMES = {number: name for name, number in REASONS.items()}
_Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Listing(Arguments, frozen=True):
    name: str | None = None
    """Only certificates for this name."""
    limit: _Limit = 100
    before: int | None = None
    """Only those with a lower id: the next page."""


class Chosen(Arguments, frozen=True):
    certificate: str
    """An id (at most 12 digits) or a serial number in hexadecimal."""


class Revoked(Chosen, frozen=True):
    reason: str = "unspecified"


class Replaced(Chosen, frozen=True):
    why: Annotated[str, msgspec.Meta(max_length=500)] = ""
    undo: bool = False


class Blocked(Arguments, frozen=True):
    spki_sha256: str
    """In hexadecimal."""
    why: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


@operation("certificate.list", Listing)
async def listing(rooms: Rooms, arguments: Listing, origin: Origin) -> list[dict[str, Any]]:
    def unit(tx: Tx) -> list[dict[str, Any]]:
        if arguments.name is not None:
            found = statements.by_name(tx, _named(arguments.name), arguments.limit)
        else:
            found = statements.newest(tx, arguments.limit, arguments.before)
        return [_summary(tx, certificate, rooms.clock.now()) for certificate in found]

    return await rooms.store.scan(unit)


@operation("certificate.show", Chosen)
async def show(rooms: Rooms, arguments: Chosen, origin: Origin) -> dict[str, Any]:
    certificate = await _find(rooms, arguments.certificate)
    summary = await rooms.store.read(lambda tx: _summary(tx, certificate, rooms.clock.now()))
    facts = parse_certificate(certificate.der)
    return {
        **summary,
        "subject": format_name(facts.subject),
        "sha256": facts.sha256.hex(),
        "spki_sha256": certificate.spki_sha256.hex(),
        "requester": certificate.requester,
        "request": certificate.request_id,
        "profile_version": certificate.profile_version,
        "crl_shard": certificate.crl_shard,
        "replace_since": certificate.replace_since,
        "replace_why": certificate.replace_why,
        "replaced_by": certificate.replaced_by,
        "certificate": to_pem(certificate.der).decode(),
    }


@operation("certificate.revoke", Revoked)
async def revoke(rooms: Rooms, arguments: Revoked, origin: Origin) -> dict[str, Any]:
    reason = REASONS.get(arguments.reason)
    if reason is None:
        raise OperationError("bad-revocation-reason", f"the reason is one of {', '.join(REASONS)}")
    certificate = await _find(rooms, arguments.certificate)
    revoked = await rooms.revoker.revoke(certificate.id, reason, origin, by_operator=True)
    return await rooms.store.read(lambda tx: _summary(tx, revoked, rooms.clock.now()))


@operation("certificate.replace", Replaced)
async def replace(rooms: Rooms, arguments: Replaced, origin: Origin) -> dict[str, Any]:
    """Mark for replacement: clients that know ARI (RFC 9773) renew it now."""
    id = (await _find(rooms, arguments.certificate)).id

    def unit(tx: Tx) -> dict[str, Any]:
        if arguments.undo:
            ledger.unmark_for_replacement(tx, rooms.clock, id, origin)
        else:
            ledger.mark_for_replacement(tx, rooms.clock, id, arguments.why, origin)
        certificate = statements.get(tx, id)
        assert certificate is not None
        return _summary(tx, certificate, rooms.clock.now())

    return await rooms.store.write(unit)


@operation("key.block", Blocked)
async def block_key(rooms: Rooms, arguments: Blocked, origin: Origin) -> dict[str, Any]:
    """Never certify this key again. Certificates that have it stay as they are; they are counted."""
    if not re.fullmatch("[0-9a-fA-F]{64}", arguments.spki_sha256):
        raise OperationError("bad-arguments", "a key is named by the SHA-256 of its SPKI, 64 hex digits")
    digest = bytes.fromhex(arguments.spki_sha256)

    def unit(tx: Tx) -> dict[str, Any]:
        new = statements.block_key(tx, digest, arguments.why, rooms.clock.now())
        if new:
            record(
                tx,
                rooms.clock.now_ms(),
                "key.blocked",
                f"key:{digest.hex()}",
                origin,
                {"why": arguments.why},
            )
        live = [c.id for c in statements.by_key(tx, digest) if c.revoked is None]
        return {"spki_sha256": digest.hex(), "was_blocked": not new, "unrevoked_certificates": live}

    return await rooms.store.write(unit)


def _named(text: str) -> Identifier:
    """A DNS name or an address."""
    for parse in (parse_ip, parse_dns):
        with contextlib.suppress(IdentifierError):
            return parse(text)
    raise OperationError("bad-arguments", f"{text!r} is neither a DNS name nor an IP address")


async def _find(rooms: Rooms, text: str) -> StoredCertificate:
    """Raises ``OperationError``."""
    if re.fullmatch("[0-9]{1,12}", text):
        id = int(text)
        found = await rooms.store.read(lambda tx: statements.get(tx, id))
    else:
        digits = text.replace(":", "").strip()
        if not re.fullmatch("[0-9a-fA-F]{13,42}", digits):
            raise OperationError("bad-arguments", f"{text!r} is neither an id nor a serial number")
        number = int(digits, 16)
        serial = number.to_bytes((number.bit_length() + 7) // 8, "big")
        names = [row.name for row in rooms.books.authority_rows()]

        def unit(tx: Tx) -> StoredCertificate | None:
            every = (statements.by_serial(tx, name, serial) for name in names)
            return next((certificate for certificate in every if certificate is not None), None)

        found = await rooms.store.read(unit)
    if found is None:
        raise OperationError("unknown-certificate", f"there is no certificate {text}")
    return found


def _summary(tx: Tx, c: StoredCertificate, now: int) -> dict[str, Any]:
    state = "valid"
    if c.revoked is not None:
        state = "revoked"
    elif c.not_after < now:
        state = "expired"
    elif c.replaced_by is not None:
        state = "replaced"
    elif c.replace_since is not None:
        state = "to be replaced"
    return {
        "id": c.id,
        "state": state,
        "names": list(c.names),
        "authority": c.authority,
        "serial": c.serial.hex(),
        "profile": c.profile,
        "not_before": c.not_before,
        "not_after": c.not_after,
        "revoked": c.revoked,
        "reason": None if c.revocation_reason is None else _REASON_NAMES.get(c.revocation_reason, "other"),
    }
