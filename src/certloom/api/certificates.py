"""Certificates: searched, shown, downloaded, revoked, held, marked for replacement."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem, declare
from certloom.api.routing import (
    JSON,
    JSON_LINES,
    Answer,
    Call,
    Media,
    Page,
    Paging,
    RowId,
    Stream,
    Time,
    at,
    at_or_none,
    route,
)
from certloom.enrollment.books import UnknownName
from certloom.enrollment.errors import Refused
from certloom.enrollment.revoke import OPERATOR_REASONS, REQUESTER_REASONS
from certloom.enrollment.server_keys import encrypted
from certloom.inventory import ledger
from certloom.inventory.search import find, thing_of, walk
from certloom.pki.certificates import parse_certificate
from certloom.pki.containers import certs_only, trust_store
from certloom.pki.identifiers import Identifier, IdentifierError, parse, parse_dns, parse_ip
from certloom.pki.keys import LeafPrivateKey
from certloom.pki.names import format_name
from certloom.pki.pem import to_pem
from certloom.store import certificates as statements
from certloom.store.base import Tx
from certloom.store.certificate_search import Filters, Listed, Sort, State, state_of
from certloom.store.certificates import StoredCertificate

_PEM = "application/x-pem-file"
_CHAIN = "application/pem-certificate-chain"
_DER = "application/pkix-cert"
_PKCS7 = "application/pkcs7-mime"
_PKCS12 = "application/x-pkcs12"
REASONS = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
"""RFC 5280 section 5.3.1."""
_REASON_NAMES = {number: name for name, number in REASONS.items()}

NO_KEY = declare("no-private-key", 410, "The private key of this certificate is not here, or no longer")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
Hex = Annotated[
    str, msgspec.Meta(pattern="^[0-9a-fA-F:]{1,130}$", description="Hexadecimal; colons may be in it.")
]
NameText = Annotated[
    str, msgspec.Meta(min_length=1, max_length=2100, description="`type:value`, a DNS name or an IP address.")
]


class CertificatePath(msgspec.Struct, frozen=True):
    """Which certificate."""

    id: RowId


class CertificateQuery(Paging, frozen=True, kw_only=True):
    """Which certificates; all that is given must fit."""

    name: NameText | None = None
    under: (
        Annotated[str, msgspec.Meta(max_length=253, description="A domain: it and all names in it.")] | None
    ) = None
    serial: Hex | None = None
    fingerprint: Annotated[Hex, msgspec.Meta(description="SHA-256 of the DER.")] | None = None
    spki: Annotated[Hex, msgspec.Meta(description="SHA-256 of the public key.")] | None = None
    profile: Text | None = None
    authority: Text | None = None
    requester: Annotated[Text, msgspec.Meta(description="`kind:id`.")] | None = None
    owner: Text | None = None
    team: Text | None = None
    key_type: Text | None = None
    state: State | None = None
    expires_after: Annotated[Time, msgspec.Meta(description="At this moment or after it.")] | None = None
    expires_before: Time | None = None
    issued_after: Annotated[Time, msgspec.Meta(description="At this moment or after it.")] | None = None
    issued_before: Time | None = None
    sort: (
        Annotated[
            Literal["issued", "-issued", "expires", "-expires"],
            msgspec.Meta(
                description="`-`: the latest first. `-issued`, or `expires` where expiry is filtered."
            ),
        ]
        | None
    ) = None


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate of the inventory."""

    id: int
    state: State
    names: tuple[str, ...]
    """Each as `type:value`."""
    authority: str
    serial: str
    """Hexadecimal."""
    profile: str
    profile_version: int
    key_type: str
    fingerprint: str
    """SHA-256 of the DER, hexadecimal."""
    spki_sha256: str
    requester: str
    owner: str | None
    team: str | None
    channel: str
    """`protocol/name`."""
    request: str
    """The enrolment request it came from."""
    not_before: datetime
    not_after: datetime
    issued: datetime
    revoked: datetime | None
    """Since when it is revoked or on hold."""
    reason: str | None
    """A CRLReason of RFC 5280."""
    replace_since: datetime | None
    """When it was marked for replacement."""
    replace_why: str | None
    replaced_by: int | None
    """Its successor."""


class CertificateInFull(Certificate, frozen=True, kw_only=True):
    """A certificate with all that is known of it."""

    subject: str
    crl_shard: int
    certificate_pem: str


class FormQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As what to download it."""

    format: Literal["pem", "der", "chain", "pkcs7"] = "pem"
    """`chain` is PEM with the issuers behind it, `pkcs7` the same as a certs-only CMS."""


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is revoked."""

    reason: Literal[
        "unspecified",
        "keyCompromise",
        "affiliationChanged",
        "superseded",
        "cessationOfOperation",
        "privilegeWithdrawn",
    ] = "unspecified"


class Replacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it shall be replaced."""

    why: Annotated[str, msgspec.Meta(max_length=500)] = ""


class PKCS12Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a PKCS#12 is to be."""

    password: Annotated[str, msgspec.Meta(min_length=8, max_length=256)]
    """It is encrypted under this."""
    key: bool = False
    """With the private key, where it was made here and still is."""

    def __repr__(self) -> str:
        return f"PKCS12Wanted(key={self.key})"


@route(
    "GET",
    "/certificates",
    permission="certificate.read",
    summary="Search certificates",
    query=CertificateQuery,
    answers={200: (Page[Certificate], Media((JSON_LINES,)))},
    problems=(problems.INVALID,),
    tag="certificates",
)
async def listing(call: Call[None, CertificateQuery, None]) -> Answer:
    """All filters given must fit. A page may be short of `limit`, or empty, and yet have a `next`: follow it.

    With `Accept: application/jsonl` everything that matches comes as a stream, a certificate a line.
    """
    services, query = call.services, call.query
    filters = _filters(query)
    order = query.sort or ("expires" if query.expires_after or query.expires_before else "-issued")
    sort, descending = Sort(order.removeprefix("-")), order.startswith("-")
    position = call.position(tuple[int, int])
    now = services.clock.now()
    if call.accepts(JSON, JSON_LINES) == JSON_LINES:
        every = walk(
            services.store,
            services.clock,
            call.principal,
            filters,
            sort,
            after=position,
            descending=descending,
        )
        return Answer(Stream(_lines(every, now)), media=JSON_LINES)
    found = await services.store.scan(
        lambda tx: find(
            tx,
            call.principal,
            filters,
            sort,
            call.limit,
            now=now,
            after=position,
            descending=descending,
        )
    )
    cursor = None if found.after is None else call.cursor(found.after)
    return Answer(Page(tuple(_shown(row, now) for row in found.certificates), cursor))


async def _lines(every: AsyncIterator[Listed], now: int) -> AsyncGenerator[Certificate, None]:
    async for row in every:
        yield _shown(row, now)


@route(
    "GET",
    "/certificates/{id}",
    permission="certificate.read",
    summary="Show a certificate",
    path=CertificatePath,
    answers={200: CertificateInFull},
    problems=(problems.NOT_FOUND,),
    tag="certificates",
)
async def show(call: Call[CertificatePath, None, None]) -> Answer:
    found = await call.services.store.read(lambda tx: _get(call, tx, "certificate.read"))
    return Answer(_in_full(call, found))


@route(
    "GET",
    "/certificates/{id}/download",
    permission="certificate.read",
    summary="Download a certificate",
    path=CertificatePath,
    query=FormQuery,
    answers={200: Media((_PEM, _DER, _CHAIN, _PKCS7))},
    problems=(problems.NOT_FOUND,),
    tag="certificates",
)
async def download(call: Call[CertificatePath, FormQuery, None]) -> Answer:
    found = await call.services.store.read(lambda tx: _get(call, tx, "certificate.read"))
    form = "pem" if call.query is None else call.query.format
    match form:
        case "pem":
            data, media, ending = to_pem(found.der), _PEM, "pem"
        case "der":
            data, media, ending = found.der, _DER, "cer"
        case "chain":
            data, media, ending = b"".join(map(to_pem, _chain(call, found))), _CHAIN, "pem"
        case "pkcs7":
            data, media, ending = certs_only(_chain(call, found)), _PKCS7, "p7c"
    named = ("content-disposition", f'attachment; filename="certificate-{found.id}.{ending}"')
    return Answer(data, media=media, headers=(named,))


@route(
    "POST",
    "/certificates/{id}/pkcs12",
    permission="certificate.read",
    summary="Download a certificate as PKCS#12",
    path=CertificatePath,
    body=PKCS12Wanted,
    answers={200: Media((_PKCS12,))},
    problems=(problems.NOT_FOUND, problems.INVALID, NO_KEY),
    keyed=False,
    tag="certificates",
)
async def pkcs12(call: Call[CertificatePath, None, PKCS12Wanted]) -> Answer:
    """With its chain and, for those who may, its private key, under a password that is kept nowhere."""
    wanted, keys = call.body, call.services.server_keys

    def with_key(tx: Tx) -> tuple[StoredCertificate, LeafPrivateKey]:
        found = _get(call, tx, "certificate.key")
        return found, keys.open(tx, found.request_id, call.origin)

    try:
        if wanted.key:
            found, key = await call.write(with_key)
            label = found.names[0].partition(":")[2] if found.names else str(found.id)
            data = await encrypted(key, wanted.password, "pkcs12", _chain(call, found), label)
        else:
            found = await call.services.store.read(lambda tx: _get(call, tx, "certificate.read"))
            data = await asyncio.to_thread(trust_store, _chain(call, found), wanted.password)
    except Refused as refused:
        code = NO_KEY if refused.code == "key-gone" else problems.INVALID
        raise Problem(code, str(refused), reasons=refused.reasons) from None
    return Answer(data, media=_PKCS12)


@route(
    "POST",
    "/certificates/{id}/revoke",
    permission="certificate.revoke",
    summary="Revoke a certificate",
    path=CertificatePath,
    body=Revocation,
    answers={200: CertificateInFull},
    problems=(problems.NOT_FOUND, problems.CONFLICT, problems.INVALID),
    tag="certificates",
)
async def revoke(call: Call[CertificatePath, None, Revocation]) -> Answer:
    """For ever. With `keyCompromise` its key is blocked for ever too. One on hold can be revoked as well.

    To withdraw a privilege is for those who may put certificates on hold.
    """
    reason = REASONS[call.body.reason]

    def unit(tx: Tx) -> Answer:
        found = _get(call, tx, "certificate.revoke")
        allowed = OPERATOR_REASONS if call.may("certificate.hold", thing_of(found)) else REQUESTER_REASONS
        if reason not in allowed:
            raise Problem(problems.INVALID, f"the reason {call.body.reason} is not yours to give")
        return Answer(_in_full(call, call.services.revoker.revoke_in(tx, found.id, reason, call.origin)))

    return await _act(call, unit)


@route(
    "POST",
    "/certificates/{id}/hold",
    permission="certificate.hold",
    summary="Put a certificate on hold",
    path=CertificatePath,
    answers={200: CertificateInFull},
    problems=(problems.NOT_FOUND, problems.CONFLICT),
    tag="certificates",
)
async def hold(call: Call[CertificatePath, None, None]) -> Answer:
    """It is revoked (certificateHold) until it is released, or revoked for another reason."""

    def unit(tx: Tx) -> Answer:
        found = _get(call, tx, "certificate.hold")
        return Answer(_in_full(call, call.services.revoker.hold_in(tx, found.id, call.origin)))

    return await _act(call, unit)


@route(
    "POST",
    "/certificates/{id}/release",
    permission="certificate.hold",
    summary="Release a certificate from hold",
    path=CertificatePath,
    answers={200: CertificateInFull},
    problems=(problems.NOT_FOUND, problems.CONFLICT),
    tag="certificates",
)
async def release(call: Call[CertificatePath, None, None]) -> Answer:
    """It leaves the CRL. Only what is on hold can be released: a revocation is for ever."""

    def unit(tx: Tx) -> Answer:
        found = _get(call, tx, "certificate.hold")
        return Answer(_in_full(call, call.services.revoker.release_in(tx, found.id, call.origin)))

    return await _act(call, unit)


@route(
    "POST",
    "/certificates/{id}/replace",
    permission="certificate.replace",
    summary="Mark a certificate for replacement",
    path=CertificatePath,
    body=Replacement,
    answers={200: CertificateInFull},
    problems=(problems.NOT_FOUND,),
    tag="certificates",
)
async def replace(call: Call[CertificatePath, None, Replacement]) -> Answer:
    """Clients that know ARI (RFC 9773) renew it now."""

    def unit(tx: Tx) -> Answer:
        found = _get(call, tx, "certificate.replace")
        ledger.mark_for_replacement(tx, call.services.clock, found.id, call.body.why, call.origin)
        return Answer(_in_full(call, _again(tx, found)))

    return await call.create(unit)


@route(
    "DELETE",
    "/certificates/{id}/replace",
    permission="certificate.replace",
    summary="Take the mark for replacement away",
    path=CertificatePath,
    answers={200: CertificateInFull},
    problems=(problems.NOT_FOUND,),
    tag="certificates",
)
async def keep(call: Call[CertificatePath, None, None]) -> Answer:
    def unit(tx: Tx) -> Answer:
        found = _get(call, tx, "certificate.replace")
        ledger.unmark_for_replacement(tx, call.services.clock, found.id, call.origin)
        return Answer(_in_full(call, _again(tx, found)))

    return await call.write(unit)


async def _act(call: Call[Any, Any, Any], unit: Callable[[Tx], Answer]) -> Answer:
    try:
        return await call.create(unit)
    except Refused as refused:
        raise Problem(problems.CONFLICT, str(refused), reasons=refused.reasons) from None


def _get(call: Call[CertificatePath, Any, Any], tx: Tx, permission: str) -> StoredCertificate:
    """The certificate of the path, if they may do this with it. Raises ``Problem``."""
    found = statements.get(tx, call.path.id)
    if found is None:
        raise Problem(problems.NOT_FOUND, "there is no such thing, or it is not yours to see")
    call.allow(permission, thing_of(found))
    if found.profile_version == 0 and permission != "certificate.read":
        # A CA's: everything below stands and falls with it.
        call.allow_shared("authority.write")
    return found


def _again(tx: Tx, certificate: StoredCertificate) -> StoredCertificate:
    now = statements.get(tx, certificate.id)
    assert now is not None
    return now


def _chain(call: Call[Any, Any, Any], certificate: StoredCertificate) -> list[bytes]:
    """Its DER and those of its issuers, as far as they are known here."""
    try:
        authority = call.services.books.authority(certificate.authority)
        return [certificate.der, *authority.chains(certificate.generation)[0]]
    except UnknownName:
        return [certificate.der]


def _fields(c: Listed | StoredCertificate, now: int) -> dict[str, Any]:
    return {
        "id": c.id,
        "state": state_of(c, now),
        "names": c.names,
        "authority": c.authority,
        "serial": c.serial.hex(),
        "profile": c.profile,
        "profile_version": c.profile_version,
        "key_type": c.key_type,
        "fingerprint": c.fingerprint.hex(),
        "spki_sha256": c.spki_sha256.hex(),
        "requester": c.requester,
        "owner": c.owner,
        "team": c.team,
        "channel": c.channel,
        "request": c.request_id,
        "not_before": at(c.not_before),
        "not_after": at(c.not_after),
        "issued": at(c.issued),
        "revoked": at_or_none(c.revoked),
        "reason": None if c.revocation_reason is None else _REASON_NAMES.get(c.revocation_reason, "other"),
        "replace_since": at_or_none(c.replace_since),
        "replace_why": c.replace_why,
        "replaced_by": c.replaced_by,
    }


def _shown(row: Listed, now: int) -> Certificate:
    return Certificate(**_fields(row, now))


def _in_full(call: Call[Any, Any, Any], c: StoredCertificate) -> CertificateInFull:
    return CertificateInFull(
        **_fields(c, call.services.clock.now()),
        subject=format_name(parse_certificate(c.der).subject),
        crl_shard=c.crl_shard,
        certificate_pem=to_pem(c.der).decode(),
    )


def _filters(query: CertificateQuery) -> Filters:
    try:
        under = None if query.under is None else parse_dns(query.under, wildcard=False).value
        name = None if query.name is None else _name(query.name)
    except IdentifierError as error:
        raise Problem(problems.INVALID, str(error)) from None
    return Filters(
        name=name,
        under=under,
        serial=None if query.serial is None else _serial(query.serial),
        fingerprint=None if query.fingerprint is None else _digest("fingerprint", query.fingerprint),
        spki_sha256=None if query.spki is None else _digest("spki", query.spki),
        profile=query.profile,
        authority=query.authority,
        requester=query.requester,
        owner=query.owner,
        team=query.team,
        key_type=query.key_type,
        state=query.state,
        expires_from=_seconds(query.expires_after),
        expires_before=_seconds(query.expires_before),
        issued_from=_seconds(query.issued_after),
        issued_before=_seconds(query.issued_before),
    )


def _name(text: str) -> Identifier:
    """Raises ``IdentifierError``."""
    type, colon, value = text.partition(":")
    if colon and type in ("dns", "ip", "email", "uri"):
        return parse(type, value)
    with contextlib.suppress(IdentifierError):
        return parse_ip(text)
    return parse_dns(text)


def _serial(text: str) -> bytes:
    """Big-endian, without leading zeros. Raises ``Problem``."""
    digits = text.replace(":", "")
    if not digits or len(digits) > 42:
        raise Problem(problems.INVALID, "a serial number has 1 to 20 octets, in hexadecimal")
    number = int(digits, 16)
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")


def _digest(what: str, text: str) -> bytes:
    """Raises ``Problem``."""
    digits = text.replace(":", "")
    if len(digits) != 64:
        raise Problem(problems.INVALID, f"{what} is a SHA-256: 64 hexadecimal digits")
    return bytes.fromhex(digits)


def _seconds(moment: datetime | None) -> int | None:
    """The first whole second not before it."""
    return None if moment is None else math.ceil(moment.timestamp())
