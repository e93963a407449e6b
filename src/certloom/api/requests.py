"""Enrolment requests: asked, looked at, withdrawn; and the private keys that were made here for them."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem, declare
from certloom.api.routing import (
    NOT_SEEN,
    Answer,
    Call,
    Id,
    Media,
    Name,
    Page,
    Paging,
    RowId,
    Time,
    Upload,
    at,
    at_or_none,
    route,
)
from certloom.enrollment.asks import Ask, recall
from certloom.enrollment.books import UnknownName
from certloom.enrollment.errors import Refused
from certloom.enrollment.server_keys import MadeKey, encrypted
from certloom.enrollment.states import State
from certloom.identity.principals import Principal, Thing
from certloom.inventory.search import thing_of as thing_of_certificate
from certloom.pki.csr import CertificateRequest, CSRError, parse_csr
from certloom.pki.identifiers import Identifier, IdentifierError, IdentifierType, parse, parse_dns
from certloom.pki.names import BadName, parse_name
from certloom.pki.names import Name as Subject
from certloom.pki.pem import to_pem
from certloom.policy.decisions import Reason, Requester
from certloom.store import approvals as approval_statements
from certloom.store import certificates as certificate_statements
from certloom.store import requests as statements
from certloom.store.base import Tx
from certloom.store.request_search import Filters, find_requests
from certloom.store.requests import EnrolmentRequest

PROTOCOL = "rest"
CHANNEL = "api"
_TYPES = frozenset(type.value for type in IdentifierType)
_RETRY = 30
"""Seconds after which it is worth looking again at what waits for people."""
_DER = "application/pkcs10"
_PEM = "application/x-pem-file"
_PKCS12 = "application/x-pkcs12"
_PEM_REQUEST = re.compile(
    r"-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]{1,100000})"
    r"-----END (?:NEW )?CERTIFICATE REQUEST-----"
)

BAD_CSR = declare("bad-csr", 422, "The certificate request cannot be used")
NOT_YOURS = declare("names-not-allowed", 403, "These names are not yours to ask for")
TOO_MANY_WAITING = declare("too-many-waiting", 429, "Too many requests wait for people")
KEY_GONE = declare("key-gone", 410, "There is no private key to be had here")

NameText = Annotated[
    str, msgspec.Meta(min_length=1, max_length=2100, description="`type:value`, or a DNS name.")
]
Lifetime = Annotated[int, msgspec.Meta(ge=60, le=100 * 366 * 86400, description="Seconds.")]
ProfileName = Name


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made here."""

    algorithm: Annotated[str, msgspec.Meta(max_length=20)]
    """One that the profile's `server_keys` lists, such as `P-256`."""


class NewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An ask for one certificate: with a CSR (`csr` or `csr_der`), or for a key made here (`key`)."""

    profile: ProfileName
    csr: Annotated[str, msgspec.Meta(max_length=100_000)] | None = None
    """PEM."""
    csr_der: Annotated[str, msgspec.Meta(max_length=100_000)] | None = None
    """DER in base64."""
    key: NewKey | None = None
    names: Annotated[tuple[NameText, ...], msgspec.Meta(max_length=1000)] | None = None
    """What the certificate is to name; with a CSR they are taken in place of its own."""
    subject: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    """For a key made here: what a CSR's subject would be, as in RFC 4514."""
    not_before: Time | None = None
    not_after: Time | None = None
    lifetime: Lifetime | None = None
    """Instead of `not_after`: counted from when it is issued."""
    team: Name | None = None
    """The team it belongs to, one of yours; your first one unless you say."""
    comment: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """For those who have to agree."""
    replaces: RowId | None = None
    """The certificate that this one succeeds."""


class NewRequestQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For bodies that are a CSR and nothing else."""

    profile: ProfileName | None = None
    team: Name | None = None
    lifetime: Lifetime | None = None


class RequestPath(msgspec.Struct, frozen=True):
    id: Id


class RequestQuery(Paging, frozen=True, kw_only=True):
    state: State | None = None
    owner: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    team: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    profile: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    requester: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    approval: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class ChangeShown(msgspec.Struct, frozen=True):
    """What an approver changed."""

    by: str
    at: datetime
    lifetime_before: int | None
    lifetime: int | None
    names_before: tuple[str, ...] | None
    names: tuple[str, ...] | None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One ask for one certificate."""

    id: str
    state: str
    """`awaiting_approval`, `approved`, `issuing`, `issued`, `denied`, `failed` or `cancelled`."""
    protocol: str
    channel: str
    requester: str
    owner: str | None
    team: str | None
    profile: str
    profile_version: int
    names: tuple[str, ...]
    lifetime: int | None
    not_before: datetime | None
    not_after: datetime | None
    comment: str
    replaces: int | None
    reasons: tuple[Reason, ...]
    """Why it waits, or why it was not issued."""
    warnings: tuple[Reason, ...]
    """What policy rules wanted said."""
    approval: str | None
    """The approval it waits under, or was issued under."""
    certificate: int | None
    """The certificate's id, once it is issued."""
    server_key: bool
    """Whether its key was made here."""
    created: datetime
    updated: datetime
    expires: datetime | None
    """Until when it waits for people."""


class RequestInFull(Request, frozen=True, kw_only=True):
    """One ask for one certificate, with all there is to it."""

    changes: tuple[ChangeShown, ...] = ()
    """What approvers changed: the certificate is as they left it."""
    certificate_pem: str | None = None
    private_key_until: datetime | None = None
    """Until when its private key can be fetched."""


class KeyWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a private key is to leave."""

    password: Annotated[str, msgspec.Meta(min_length=8, max_length=256)]
    """It is encrypted under this."""
    format: Literal["pkcs8", "pkcs12"] = "pkcs8"
    """PEM of an encrypted PKCS#8, or PKCS#12 with the certificate and its chain."""


def thing_of(request: EnrolmentRequest) -> Thing:
    """What permissions are looked up for."""
    return Thing(
        owner=request.owner or "",
        team=request.team or "",
        profile=request.profile,
        channel=f"{request.protocol}/{request.channel}",
        names=recall(request).identifiers,
    )


def shown(request: EnrolmentRequest) -> Request:
    return Request(**_fields(request))


def _fields(request: EnrolmentRequest) -> dict[str, Any]:
    asked = recall(request)
    return {
        "id": request.id,
        "state": request.state,
        "protocol": request.protocol,
        "channel": request.channel,
        "requester": request.requester,
        "owner": request.owner,
        "team": request.team,
        "profile": request.profile,
        "profile_version": request.profile_version,
        "names": tuple(str(identifier) for identifier in asked.identifiers),
        "lifetime": asked.lifetime,
        "not_before": at_or_none(asked.not_before),
        "not_after": at_or_none(asked.not_after),
        "comment": asked.comment,
        "replaces": asked.replaces,
        "reasons": request.reasons,
        "warnings": asked.warnings,
        "approval": request.approval_id,
        "certificate": request.certificate_id,
        "server_key": not request.csr,
        "created": at(request.created),
        "updated": at(request.updated),
        "expires": at_or_none(request.expires),
    }


def _in_full(call: Call[Any, Any, Any], tx: Tx, request: EnrolmentRequest) -> RequestInFull:
    pem, approval = None, None
    if request.certificate_id is not None:
        certificate = certificate_statements.get(tx, request.certificate_id)
        pem = to_pem(certificate.der).decode() if certificate is not None else None
    if request.approval_id is not None:
        approval = approval_statements.get(tx, request.approval_id)
    until = call.services.server_keys.until(tx, request.id) if not request.csr else None
    return RequestInFull(
        **_fields(request),
        changes=tuple(
            ChangeShown(c.name, at(c.at), c.lifetime_before, c.lifetime, c.names_before, c.names)
            for c in (approval.changes if approval is not None else ())
        ),
        certificate_pem=pem,
        private_key_until=at_or_none(until),
    )


@route(
    "POST",
    "/requests",
    permission="request.create",
    summary="Ask for a certificate",
    query=NewRequestQuery,
    body=NewRequest,
    uploads=(_DER, _PEM),
    answers={201: RequestInFull, 202: RequestInFull},
    problems=(
        problems.REFUSED,
        problems.INVALID,
        problems.NOT_FOUND,
        problems.UNAVAILABLE,
        BAD_CSR,
        NOT_YOURS,
        TOO_MANY_WAITING,
    ),
    tag="requests",
)
async def create(call: Call[None, NewRequestQuery, NewRequest | Upload]) -> Answer:
    """201 with the certificate where it is issued at once; 202 where people, or an authority that takes its
    time, have yet to answer: look again at `Location` after `Retry-After` seconds.

    A body of type `application/pkcs10` (DER) or `application/x-pem-file` is a CSR and nothing else; the
    profile is then in the query.
    """
    wanted, csr = _wanted(call)
    times = _times(wanted)
    identifiers = _names(wanted, csr)
    team = _team(call.principal, wanted.team)
    _check_names(call.principal, wanted.profile, team, identifiers)
    made: MadeKey | None = None
    services = call.services
    if csr is None:
        assert wanted.key is not None
        try:
            profile, _ = services.books.profile(wanted.profile)
        except UnknownName as error:
            raise Refused(Reason("not-configured", str(error))) from None
        made = await services.server_keys.make(
            profile, wanted.key.algorithm, _subject(wanted.subject), identifiers
        )
        csr = made.request
    if wanted.replaces is not None:
        await _check_predecessor(call, wanted.replaces)
    principal = call.principal
    ask = Ask(
        protocol=PROTOCOL,
        channel=CHANNEL,
        profile=wanted.profile,
        requester=Requester(principal.kind, principal.id, principal.owner, team),
        csr=csr,
        identifiers=identifiers,
        origin=call.origin,
        not_before=times[0],
        not_after=times[1],
        replaces=wanted.replaces,
        lifetime=wanted.lifetime,
        comment=wanted.comment,
    )
    answers: list[Answer] = []

    def also(tx: Tx, request: EnrolmentRequest) -> None:
        if made is not None:
            services.server_keys.keep(tx, request.id, request.certificate_id, made)
        answer = _answer(_in_full(call, tx, request))
        call.remember(tx, answer)
        answers[:] = [answer]

    try:
        await services.enrollment.submit(ask, also)
    except Refused as refused:
        if refused.code == "too-many-waiting":
            raise Problem(TOO_MANY_WAITING, str(refused), reasons=refused.reasons, retry_after=3600) from None
        raise
    return answers[0]


def _answer(request: RequestInFull) -> Answer:
    issued = request.state == State.ISSUED
    return Answer(
        request,
        status=201 if issued else 202,
        location=f"/requests/{request.id}",
        retry_after=None if issued else _RETRY,
    )


def _wanted(
    call: Call[None, NewRequestQuery, NewRequest | Upload],
) -> tuple[NewRequest, CertificateRequest | None]:
    body, query = call.body, call.query
    if isinstance(body, Upload):
        if query.profile is None:
            raise Problem(problems.MALFORMED, "the query must name the profile")
        der = body.data if body.media == _DER else _from_pem(body.data.decode("latin-1"))
        return NewRequest(profile=query.profile, team=query.team, lifetime=query.lifetime), _csr(der)
    if (query.profile, query.team, query.lifetime) != (None, None, None):
        raise Problem(problems.MALFORMED, "with a body in JSON, all of it stands in the body")
    if sum(part is not None for part in (body.csr, body.csr_der, body.key)) != 1:
        raise Problem(problems.INVALID, "give exactly one of csr, csr_der and key")
    if body.key is not None:
        return body, None
    if body.subject is not None:
        raise Problem(problems.INVALID, "the subject is the CSR's to say")
    if body.csr is not None:
        return body, csr_of_pem(body.csr)
    try:
        return body, _csr(base64.b64decode((body.csr_der or "").encode(), validate=True))
    except (binascii.Error, ValueError):
        raise _bad_csr("malformed-csr", "csr_der is not base64") from None


def csr_of_pem(text: str) -> CertificateRequest:
    """A CSR as people have it. Raises ``Problem``: ``bad-csr``."""
    return _csr(_from_pem(text))


def _from_pem(text: str) -> bytes:
    found = _PEM_REQUEST.findall(text)
    if len(found) != 1:
        raise _bad_csr("malformed-csr", "not one PEM certificate request")
    try:
        return base64.b64decode("".join(found[0].split()), validate=True)
    except (binascii.Error, ValueError):
        raise _bad_csr("malformed-csr", "the PEM is not base64") from None


def _csr(der: bytes) -> CertificateRequest:
    try:
        return parse_csr(der)
    except CSRError as error:
        raise _bad_csr(error.code, str(error)) from None


def _bad_csr(code: str, message: str) -> Problem:
    return Problem(BAD_CSR, message, reasons=(Reason(code, message),))


def _times(wanted: NewRequest) -> tuple[int | None, int | None]:
    if wanted.lifetime is not None and wanted.not_after is not None:
        raise Problem(problems.INVALID, "give lifetime or not_after, not both")
    if wanted.lifetime is not None and wanted.not_before is not None:
        raise Problem(problems.INVALID, "with not_before, say the end with not_after")
    try:
        first, last = (
            None if moment is None else int(moment.timestamp())
            for moment in (wanted.not_before, wanted.not_after)
        )
    except (OverflowError, ValueError):
        raise Problem(problems.INVALID, "no certificate is for such a time") from None
    return first, last


def _names(wanted: NewRequest, csr: CertificateRequest | None) -> tuple[Identifier, ...]:
    if wanted.names is not None:
        return tuple(dict.fromkeys(_name(text) for text in wanted.names))
    if csr is None:
        return ()
    if not csr.identifiers and csr.common_name and "." in csr.common_name:
        # Old tools name the host in the common name only.
        try:
            return (parse_dns(csr.common_name),)
        except IdentifierError:
            pass
    return csr.identifiers


def _name(text: str) -> Identifier:
    type, colon, value = text.partition(":")
    try:
        if not colon:
            return parse_dns(text)
        if type not in _TYPES:
            raise IdentifierError(
                "unsupported-identifier-type", f"names are dns, ip, uri or email: {type[:20]!r}"
            )
        return parse(type, value)
    except IdentifierError as error:
        reason = Reason(error.code, str(error))
        raise Problem(problems.INVALID, f"names: {error}", reasons=(reason,)) from None


def _subject(text: str | None) -> Subject:
    try:
        return parse_name(text) if text else Subject()
    except BadName as error:
        raise Problem(problems.INVALID, f"subject: {error}") from None


def _team(principal: Principal, wanted: str | None) -> str | None:
    if wanted is None:
        return principal.teams[0] if principal.teams else None
    if wanted not in principal.teams and principal.kind != "local":
        raise Problem(problems.FORBIDDEN, "that is not a team of yours")
    return wanted


def _check_names(principal: Principal, profile: str, team: str | None, names: tuple[Identifier, ...]) -> None:
    """Raises 403, with a reason for each name that is not theirs."""

    def may(some: tuple[Identifier, ...] | None) -> bool:
        thing = Thing(
            owner=principal.owner,
            team=team or "",
            profile=profile,
            channel=f"{PROTOCOL}/{CHANNEL}",
            names=some,
        )
        return principal.may("request.create", thing)

    if may(names):
        return
    if not may(None):
        raise Problem(
            problems.FORBIDDEN, "this takes the permission request.create for that profile and team"
        )
    reasons = [
        Reason("name-not-yours", f"you may not ask for {name.value}", name)
        for name in names
        if not may((name,))
    ]
    raise Problem(NOT_YOURS, "these names are not yours to ask for, together", reasons=reasons)


async def _check_predecessor(call: Call[Any, Any, Any], id: int) -> None:
    found = await call.services.store.read(lambda tx: certificate_statements.get(tx, id))
    if found is not None and (
        found.owner == call.principal.owner or call.may("certificate.replace", thing_of_certificate(found))
    ):
        return
    raise Problem(problems.INVALID, "replaces: there is no such certificate of yours")


@route(
    "GET",
    "/requests",
    permission="request.read",
    summary="List enrolment requests",
    query=RequestQuery,
    answers={200: Page[Request]},
    tag="requests",
)
async def listing(call: Call[None, RequestQuery, None]) -> Answer:
    """Newest first. A page may be short, or empty, and still have a `next`."""
    query = call.query
    position = call.position(tuple[str])
    filters = Filters(
        state=query.state.value if query.state is not None else None,
        owner=query.owner,
        team=query.team,
        profile=query.profile,
        requester=query.requester,
        approval=query.approval,
    )
    within = call.principal.reach("request.read").within
    found = await call.services.store.scan(
        lambda tx: find_requests(tx, filters, within, call.limit, position)
    )
    seen = tuple(
        shown(request) for request in found.rows if call.principal.may("request.read", thing_of(request))
    )
    return Answer(Page(seen, call.cursor(found.after) if found.after is not None else None))


def _get(tx: Tx, id: str, *, lock: bool = False) -> EnrolmentRequest:
    request = statements.get(tx, id, lock=lock)
    if request is None:
        raise Problem(problems.NOT_FOUND, NOT_SEEN)
    return request


@route(
    "GET",
    "/requests/{id}",
    permission="request.read",
    summary="Show a request",
    path=RequestPath,
    answers={200: RequestInFull},
    problems=(problems.NOT_FOUND,),
    tag="requests",
)
async def show(call: Call[RequestPath, None, None]) -> Answer:
    """What became of an ask; with the certificate once it is issued."""

    def unit(tx: Tx) -> RequestInFull:
        request = _get(tx, call.path.id)
        call.allow("request.read", thing_of(request))
        return _in_full(call, tx, request)

    found = await call.services.store.read(unit)
    waits = found.state in (State.AWAITING_APPROVAL, State.APPROVED, State.ISSUING)
    return Answer(found, retry_after=_RETRY if waits else None)


@route(
    "POST",
    "/requests/{id}/cancel",
    permission="request.cancel",
    summary="Withdraw a request",
    path=RequestPath,
    answers={200: RequestInFull},
    problems=(problems.NOT_FOUND, problems.CONFLICT),
    tag="requests",
)
async def cancel(call: Call[RequestPath, None, None]) -> Answer:
    """As long as it is not issued. With the last request that waits under it an approval is withdrawn too."""

    def unit(tx: Tx) -> Answer:
        call.allow("request.cancel", thing_of(_get(tx, call.path.id)))
        try:
            cancelled = call.services.approvals.cancel_in(tx, call.path.id, call.origin)
        except Refused as refused:
            raise Problem(problems.CONFLICT, str(refused), reasons=refused.reasons) from None
        return Answer(_in_full(call, tx, cancelled))

    return await call.create(unit)


@route(
    "POST",
    "/requests/{id}/private-key",
    permission="certificate.key",
    summary="Fetch a private key that was made here",
    path=RequestPath,
    body=KeyWanted,
    answers={200: Media((_PEM, _PKCS12))},
    problems=(problems.NOT_FOUND, problems.INVALID, KEY_GONE),
    keyed=False,
    tag="requests",
)
async def private_key(call: Call[RequestPath, None, KeyWanted]) -> Answer:
    """Encrypted under a password of yours, until `private_key_until`; then it is wiped for good."""
    services, wanted = call.services, call.body

    def unit(tx: Tx) -> Any:
        request = _get(tx, call.path.id)
        call.allow("certificate.key", thing_of(request))
        key = services.server_keys.open(tx, request.id, call.origin)
        certificate = certificate_statements.get(tx, request.certificate_id or 0)
        return key, certificate

    try:
        key, certificate = await call.write(unit)
        chain: list[bytes] = []
        if certificate is not None:
            authority = services.books.authority(certificate.authority)
            chain = [certificate.der, *authority.chains(certificate.generation)[0]]
        label = certificate.names[0].partition(":")[2] if certificate and certificate.names else call.path.id
        data = await encrypted(key, wanted.password, wanted.format, chain, label)
    except Refused as refused:
        code = KEY_GONE if refused.code == "key-gone" else problems.INVALID
        raise Problem(code, str(refused), reasons=refused.reasons) from None
    return Answer(data, media=_PEM if wanted.format == "pkcs8" else _PKCS12)
