"""/fullcmc (RFC 7030 section 4.3): full PKI requests of CMC (RFC 5272, updated by RFC 6402).

    SignedData ─▶ PKIData ─▶ who signed it? ─▶ who is that here? ─▶ each control and request by itself
                                                                 ─▶ PKIResponse, signed, with what was issued

A message whose signature, sender or controls do not do is refused as a whole, about body part 0, and nothing
of it is done. Otherwise each body part gets its own status: one bad request of several spoils no other. A
registration authority may send messages of others within its own (BatchRequests, section 6.12); each is
answered by a response of its own within the answer.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec
import structlog

from certloom.enrollment.asks import requester_text
from certloom.pki import cms
from certloom.pki.cms import CMSError
from certloom.protocols.est import messages
from certloom.protocols.est.authentication import Authenticated
from certloom.protocols.est.cmc_controls import (
    BatchRequests,
    BatchResponses,
    CMCFailInfo,
    CMCStatus,
    CMCStatusInfoV2,
    ConfirmCertAcceptance,
    Control,
    DataReturn,
    Identification,
    IdentityProofV2,
    LraPOPWitness,
    PendInfo,
    PopLinkRandom,
    QueryPending,
    RecipientNonce,
    RegInfo,
    RevokeRequest,
    SenderNonce,
    TransactionID,
)
from certloom.protocols.est.cmc_identity import identify, verify_sender
from certloom.protocols.est.cmc_messages import (
    ID_CCT_PKI_DATA,
    ID_CCT_PKI_RESPONSE,
    CMCError,
    PKIData,
    TaggedAttribute,
    TaggedContentInfo,
    decode_pki_data,
    encode_pki_response,
)
from certloom.protocols.est.cmc_requests import Issued, Pending, process, revoke
from certloom.protocols.est.exchange import Answer, Call
from certloom.protocols.est.problems import ESTProblem
from certloom.protocols.est.service import ESTService
from certloom.protocols.est.transactions import issued

_DEEPEST = 2
"""A batch within a batch is not taken."""
_MOST_IN_BATCH = 32
_NONCE_SIZE = 16
_HEEDED = (
    BatchRequests,
    ConfirmCertAcceptance,
    DataReturn,
    Identification,
    IdentityProofV2,
    LraPOPWitness,
    PopLinkRandom,
    QueryPending,
    RecipientNonce,
    RegInfo,
    RevokeRequest,
    SenderNonce,
    TransactionID,
)
"""Controls that are understood; with any other the whole is refused (section 3.2.1.1)."""

_log = structlog.get_logger("certloom.est")


class _Draft(msgspec.Struct):
    """A response in the making."""

    statuses: list[CMCStatusInfoV2] = []
    certificates: list[bytes] = []
    responses: list[bytes] = []
    """Of a batch: complete messages."""
    echoed: list[Control] = []
    lent: bool = False
    """Whether its sender is known only as somebody whom a registration authority vouches for."""

    def failed(self, error: CMCError) -> None:
        self.statuses.append(
            CMCStatusInfoV2(CMCStatus.failed, tuple(error.body_parts), str(error)[:500], int(error.fail_info))
        )

    @property
    def did_nothing(self) -> bool:
        return bool(self.statuses) and all(status.status == CMCStatus.failed for status in self.statuses)


async def full_cmc(service: ESTService, call: Call) -> Answer:
    """A response in CMC to whatever could be read; 200 where anything of it was done or waits."""
    draft = await _process(service, call, call.body, None, 1)
    body = await _signed(service, call, draft)
    status = 200
    if draft.did_nothing:
        infos = {info.other for info in draft.statuses}
        status = 403 if infos & {int(CMCFailInfo.badIdentity), int(CMCFailInfo.badCertId)} else 400
        _log.info("est.cmc_refused", trace=call.trace, why=[info.text for info in draft.statuses])
    return Answer(messages.encode_body(body, folded=call.folded), messages.CMC_RESPONSE, status)


async def _process(
    service: ESTService, call: Call, body: bytes, outer: Authenticated | None, depth: int
) -> _Draft:
    draft = _Draft()
    try:
        signed = cms.parse_signed_data(body)
        if signed.content_type != ID_CCT_PKI_DATA or signed.content is None:
            raise CMCError("bad-request", "the message holds no PKIData (RFC 5272 section 3.2.1)")
        data = decode_pki_data(signed.content)
    except CMSError as error:
        if depth == 1:
            raise ESTProblem(400, f"not a full PKI request in CMS: {error}") from None
        draft.failed(CMCError("malformed", str(error)))
        return draft
    except CMCError as error:
        draft.failed(error)
        return draft
    _echo(draft, data)
    try:
        _check_controls(data)
        sender = verify_sender(signed, data)
        who = await identify(service, call, data, sender, outer)
    except CMCError as error:
        draft.failed(error)
        return draft
    # Whom a registration authority vouches for may have what is asked for, but is nobody who could do more.
    draft.lent = who is outer
    try:
        vouched = _vouched_for(data, who, draft)
    except CMCError as error:
        draft.failed(error)
        return draft
    await _process_parts(service, call, data, who, draft, vouched, depth)
    return draft


def _check_controls(data: PKIData) -> None:
    """Raise ``CMCError`` for what is not understood (section 3.2.1.1), or there twice."""
    seen: set[type[Control]] = set()
    for tagged in data.controls:
        kind = type(tagged.control)
        if not isinstance(tagged.control, _HEEDED):
            raise CMCError(
                "bad-control",
                f"the control {kind.__name__} is not supported",
                CMCFailInfo.badRequest,
                (tagged.body_part_id,),
            )
        if kind in seen and kind not in (RevokeRequest, LraPOPWitness, QueryPending, ConfirmCertAcceptance):
            raise CMCError("bad-control", f"two controls {kind.__name__}", body_parts=(tagged.body_part_id,))
        seen.add(kind)
    if data.other:
        raise CMCError(
            "bad-request", "other messages are not known here", body_parts=(data.other[0].body_part_id,)
        )


def _echo(draft: _Draft, data: PKIData) -> None:
    """What an answer repeats: the transaction, the sender's nonce as the recipient's (section 6.6), data that
    is to come back (section 6.4)."""
    for tagged in data.controls:
        if isinstance(tagged.control, TransactionID | DataReturn):
            draft.echoed.append(tagged.control)
        elif isinstance(tagged.control, SenderNonce):
            draft.echoed.append(RecipientNonce(tagged.control.value))


def _is_ra(who: Authenticated, draft: _Draft) -> bool:
    return who.certificate is not None and who.certificate.is_ra and not draft.lent


def _vouched_for(data: PKIData, who: Authenticated, draft: _Draft) -> set[int]:
    """The requests whose senders a registration authority has seen to have their keys (section 6.8).

    Raises ``CMCError`` where anybody else says so.
    """
    found: set[int] = set()
    for tagged in data.controls:
        if isinstance(tagged.control, LraPOPWitness):
            if not _is_ra(who, draft):
                raise CMCError(
                    "bad-request",
                    "only a registration authority vouches for possession (RFC 5272 section 6.8)",
                    CMCFailInfo.popFailed,
                    (tagged.body_part_id,),
                )
            if tagged.control.pki_data != 0:
                why = "possession is vouched for in the message that has the request"
                raise CMCError("bad-request", why, body_parts=(tagged.body_part_id,))
            found |= set(tagged.control.body_parts)
    return found


async def _process_parts(
    service: ESTService,
    call: Call,
    data: PKIData,
    who: Authenticated,
    draft: _Draft,
    vouched: set[int],
    depth: int,
) -> None:
    done: list[int] = []
    for request in data.requests:
        number = request.body_part_id
        try:
            outcome = await process(service, call, who, request, vouched=number in vouched)
        except CMCError as error:
            draft.failed(error)
            continue
        if isinstance(outcome, Issued):
            draft.certificates.append(outcome.certificate)
            done.append(number)
        else:
            draft.statuses.append(_pending(service, call, (number,), outcome))
    for tagged in data.controls:
        number, control = tagged.body_part_id, tagged.control
        try:
            if isinstance(control, RevokeRequest | QueryPending) and draft.lent:
                raise CMCError(
                    "bad-identity", "this takes an identity of one's own", CMCFailInfo.badIdentity, (number,)
                )
            if isinstance(control, RevokeRequest):
                await revoke(service, call, who, number, control)
                done.append(number)
            elif isinstance(control, QueryPending):
                await _query(service, call, who, number, control, draft)
            elif isinstance(control, ConfirmCertAcceptance):
                done.append(number)
            elif isinstance(control, BatchRequests):
                await _batch(service, call, who, number, control, data, draft, depth)
        except CMCError as error:
            draft.failed(error)
    if done:
        draft.statuses.insert(0, CMCStatusInfoV2(CMCStatus.success, tuple(done)))
    if not draft.statuses and not draft.responses:
        draft.failed(CMCError("bad-request", "the message asks for nothing"))


def _pending(service: ESTService, call: Call, parts: tuple[int, ...], pending: Pending) -> CMCStatusInfoV2:
    again = service.clock.now() + call.channel.poll_seconds
    return CMCStatusInfoV2(
        CMCStatus.pending, parts, "the request waits to be decided on", PendInfo(pending.token, again)
    )


async def _query(
    service: ESTService, call: Call, who: Authenticated, number: int, query: QueryPending, draft: _Draft
) -> None:
    """What became of a request (section 6.14), for who made it. Raises ``CMCError``."""
    outcome = None
    if len(query.token) == hashlib.sha256().digest_size:
        outcome = await service.transactions.known(call.channel, query.token)
    if outcome is None or outcome.request.requester != requester_text(who.requester):
        raise CMCError("bad-request", "no request of yours has this token", body_parts=(number,))
    try:
        certificate = issued(call.channel, outcome)
    except ESTProblem as problem:
        raise CMCError("refused", problem.detail, body_parts=(number,)) from None
    if certificate is None:
        draft.statuses.append(_pending(service, call, (number,), Pending(query.token)))
    else:
        draft.certificates.append(certificate.der)
        draft.statuses.append(CMCStatusInfoV2(CMCStatus.success, (number,)))


async def _batch(
    service: ESTService,
    call: Call,
    who: Authenticated,
    number: int,
    batch: BatchRequests,
    data: PKIData,
    draft: _Draft,
    depth: int,
) -> None:
    """Messages of others, sent by a registration authority (section 6.12). Raises ``CMCError``."""
    if not _is_ra(who, draft):
        raise CMCError(
            "bad-request",
            "only a registration authority sends requests of others (RFC 6402 section 2.10)",
            CMCFailInfo.badIdentity,
            (number,),
        )
    if depth >= _DEEPEST or len(batch.body_parts) > _MOST_IN_BATCH:
        raise CMCError(
            "bad-request", f"a batch within a batch, or of more than {_MOST_IN_BATCH}", body_parts=(number,)
        )
    inner = {tagged.body_part_id: tagged.der for tagged in data.cms}
    missing = [part for part in batch.body_parts if part not in inner]
    if missing or len(set(batch.body_parts)) != len(batch.body_parts):
        raise CMCError("bad-request", "the batch names what is not there, or twice", body_parts=(number,))
    for part in batch.body_parts:
        answered = await _process(service, call, inner[part], who, depth + 1)
        draft.responses.append(await _signed(service, call, answered))


async def _signed(service: ESTService, call: Call, draft: _Draft) -> bytes:
    """The response (section 4.2), with the certificates in no order, as CMS has them."""
    nonce = SenderNonce(secrets.token_bytes(_NONCE_SIZE))
    controls: list[Control] = [*draft.statuses, *draft.echoed, nonce]
    first_response = len(controls) + 2
    parts = tuple(range(first_response, first_response + len(draft.responses)))
    if parts:
        controls.append(BatchResponses(parts))
    content = encode_pki_response(
        [TaggedAttribute(number, control) for number, control in enumerate(controls, 1)],
        [TaggedContentInfo(number, der) for number, der in zip(parts, draft.responses, strict=True)],
    )
    authority = service.profile(call.channel).authority
    chain = service.chain(authority)
    return await service.signer.sign(authority, ID_CCT_PKI_RESPONSE, content, (*draft.certificates, *chain))
