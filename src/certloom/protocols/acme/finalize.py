"""Finalizing an order (RFC 8555 section 7.4): from a CSR to a certificate, at once where the authority can.

The same CSR once more, while the order is ``processing`` or ``valid``, gets the order: a client whose
connection broke, or that finalizes until it sees ``valid``, is asking for the same thing. Anything else on an
order that is not ``ready`` is ``orderNotReady``.
"""

from __future__ import annotations

import asyncio

import msgspec

from certloom.enrollment.asks import Ask
from certloom.enrollment.errors import EnrollmentError
from certloom.pki.csr import CertificateRequest, CSRError, parse_csr
from certloom.pki.identifiers import Identifier, IdentifierError, IdentifierType, parse_dns, parse_ip
from certloom.pki.keys import KeyRejected, check_fit
from certloom.policy.decisions import Requester
from certloom.protocols.acme import base64url, messages
from certloom.protocols.acme.authorizations import NOT_VOUCHED, Vouched, read_vouched, still_holds
from certloom.protocols.acme.challenges import check_caa
from certloom.protocols.acme.exchange import Answer, Exchange, location
from certloom.protocols.acme.jwk import AccountKey
from certloom.protocols.acme.messages import HeldChallenge, IdentifierObject
from certloom.protocols.acme.orders import OrderState, own_order, polling, read_order, show
from certloom.protocols.acme.problems import (
    Problem,
    ProblemType,
    Subproblem,
    from_identifiers,
    malformed,
    of_enrollment,
    subproblem,
)
from certloom.protocols.acme.service import ACMEService, by_account
from certloom.protocols.acme.states import OrderStatus, order_status
from certloom.store import acme as statements
from certloom.store import requests as request_statements
from certloom.store.acme import StoredAccount, StoredAuthorization, StoredOrder
from certloom.store.base import Tx
from certloom.store.requests import EnrolmentRequest, RequestState
from certloom.validation import ValidationFailed

_CAA_GOOD_FOR = 8 * 3600
"""Seconds for which a look at CAA may be relied on (CA/B Forum BR section 4.2.2.1; RFC 8659 section 3)."""
_LONGEST_CSR = 65_536

_identifiers = msgspec.json.Decoder(tuple[IdentifierObject, ...]).decode


class _Loaded(msgspec.Struct, frozen=True):
    state: OrderState | None
    request: EnrolmentRequest | None
    """What it was finalized with."""
    authorizations: tuple[StoredAuthorization, ...] = ()
    """Only where they have to be looked at again: for CAA, or because the account has a credential."""
    vouched: Vouched = NOT_VOUCHED


async def finalize(service: ACMEService, x: Exchange, id: str) -> Answer:
    """Issue, or answer a repeat. Always 200 with Location: clients read nothing else."""
    now = service.clock.now()
    caa = x.channel.caa

    def load(tx: Tx, account: StoredAccount) -> _Loaded:
        state = read_order(tx, id, now)
        if state is None:
            return _Loaded(None, None)
        order = state.order
        request = request_statements.get(tx, order.request_id) if order.request_id is not None else None
        if (caa or account.credential_id is not None) and state.status is OrderStatus.READY:
            rests_on = statements.authorizations(tx, order.authorization_ids.split())
            return _Loaded(state, request, tuple(rests_on), read_vouched(service, tx, account))
        return _Loaded(state, request)

    signed = await by_account(service, x, load)
    state = own_order(signed.loaded.state, signed.account)
    der = _der(messages.read(messages.Finalize, signed.payload).csr)
    if state.status is not OrderStatus.READY:
        known = signed.loaded.request
        if known is not None and known.csr == der and state.status is not OrderStatus.INVALID:
            return _answer(x, state)
        raise Problem("orderNotReady", f"the order is {state.status}, not ready")
    order = state.order
    offered = signed.loaded.vouched.offers(x.channel)
    if order.profile not in offered or not service.books.has_profile(order.profile):
        raise Problem("invalidProfile", f"the profile {order.profile} is no longer offered")
    csr = _check_csr(der, order, signed.key)
    _check_vouched(signed.loaded)
    if caa:
        await _check_caa(service, x, signed.loaded.authorizations, signed.account.id, now)
    vouched = signed.loaded.vouched
    requester = Requester("acme-account", order.account_id, vouched.owner, vouched.team)
    return await _submit(service, x, order, csr, requester)


def _der(text: str) -> bytes:
    try:
        der = base64url.decode(text)
    except ValueError:
        raise malformed("the CSR is not base64url without padding") from None
    if len(der) > _LONGEST_CSR:
        raise Problem("badCSR", f"the CSR has more than {_LONGEST_CSR} octets")
    return der


def _check_csr(der: bytes, order: StoredOrder, key: AccountKey) -> CertificateRequest:
    """RFC 8555 sections 7.4 and 11.1: exactly the order's names, and a key of its own."""
    try:
        csr = parse_csr(der)
        check_fit(csr.key)
    except (CSRError, KeyRejected, IdentifierError) as error:
        raise Problem("badCSR", str(error)) from None
    if csr.key.spki == key.spki:
        raise Problem("badCSR", "the CSR has the account's key; a certificate must have a key of its own")
    if csr.must_staple:
        raise Problem("badCSR", "the CSR asks for OCSP must-staple, which cannot be promised here")
    wanted = {(o.type, o.value) for o in _identifiers(order.identifiers)}
    named = {(i.type.value, i.value) for i in csr.identifiers}
    if csr.common_name:
        named.add(_common_name(csr.common_name, wanted))
    if named != wanted:
        found = [
            subproblem("badCSR", "in the CSR, not in the order", *name) for name in sorted(named - wanted)
        ]
        found += [
            subproblem("badCSR", "in the order, not in the CSR", *name) for name in sorted(wanted - named)
        ]
        raise from_identifiers(found, "the CSR's names are not the order's")
    return csr


def _common_name(text: str, wanted: set[tuple[str, str]]) -> tuple[str, str]:
    """The name that a common name is: an address where it reads as one (certbot writes those), else DNS."""
    try:
        identifier: Identifier = parse_ip(text)
    except IdentifierError:
        try:
            identifier = parse_dns(text)
        except IdentifierError:
            raise Problem(
                "badCSR", f"the common name {text[:100]!r} is not one of the order's names"
            ) from None
    return identifier.type.value, identifier.value


def _check_vouched(loaded: _Loaded) -> None:
    """Raises ``unauthorized`` for names that the account's credential let pass, and does not any more."""
    lost = [a for a in loaded.authorizations if not still_holds(a, loaded.vouched)]
    if lost:
        raise from_identifiers([_lost(authorization) for authorization in lost])


def _lost(authorization: StoredAuthorization) -> Subproblem:
    value = ("*." if authorization.wildcard else "") + authorization.identifier_value
    detail = f"the external account that this account is bound to does not stand for {value} any more"
    return subproblem("unauthorized", detail, authorization.identifier_type, value)


async def _check_caa(
    service: ACMEService,
    x: Exchange,
    authorizations: tuple[StoredAuthorization, ...],
    account_id: str,
    now: int,
) -> None:
    """Ask again what was asked too long ago, or (for a name that was vouched for) never."""
    account_url = x.site.account + account_id

    async def refusal(authorization: StoredAuthorization) -> Subproblem | None:
        held = _valid(authorization)
        checked = held.caa_checked if held is not None else None
        if checked is not None and checked + _CAA_GOOD_FOR > now:
            return None
        method = held.type if held is not None and held.caa_checked is not None else ""
        try:
            await check_caa(service, x.channel, authorization, method, account_url)
        except ValidationFailed as failed:
            value = ("*." if authorization.wildcard else "") + authorization.identifier_value
            code: ProblemType = "caa" if failed.code == "caa" else "dns"
            return subproblem(code, failed.detail, authorization.identifier_type, value)
        return None

    found = await asyncio.gather(*[refusal(authorization) for authorization in authorizations])
    if refusals := [cause for cause in found if cause is not None]:
        raise from_identifiers(refusals)


def _valid(authorization: StoredAuthorization) -> HeldChallenge | None:
    for held in messages.read_challenges(authorization.challenges):
        if held.status == "valid":
            return held
    return None


async def _submit(
    service: ACMEService, x: Exchange, order: StoredOrder, csr: CertificateRequest, requester: Requester
) -> Answer:
    now = service.clock.now()

    def link(tx: Tx, request: EnrolmentRequest) -> None:
        # What was read is checked again by the writer: nothing may have been deactivated meanwhile.
        state = read_order(tx, order.id, now)
        if state is None or state.status is not OrderStatus.READY:
            raise Problem("orderNotReady", "the order is not ready any more")
        if not statements.set_order_request(tx, order.id, request.id):
            raise Problem("orderNotReady", "the order has been finalized already")

    ask = Ask(
        protocol="acme",
        channel=x.channel.name,
        profile=order.profile,
        requester=requester,
        csr=csr,
        identifiers=tuple(
            Identifier(IdentifierType(o.type), o.value) for o in _identifiers(order.identifiers)
        ),
        origin=x.origin(order.account_id),
        idempotency_key=f"acme-order:{order.id}",
        not_before=order.not_before,
        not_after=order.not_after,
        replaces=order.replaces_certificate,
    )
    try:
        request = await service.enrollment.submit(ask, link)
    except EnrollmentError as error:
        raise of_enrollment(error) from error
    finalized = msgspec.structs.replace(order, request_id=request.id)
    status = order_status((), request.state, failed=False, expired=False)
    reached = RequestState(request.state, request.certificate_id, request.reasons, request.updated)
    return _answer(x, OrderState(finalized, status, reached))


def _answer(x: Exchange, state: OrderState) -> Answer:
    return Answer(show(x, state), location(x.site.order + state.order.id), *polling(state.status))
