"""Orders (RFC 8555 sections 7.1.3 and 7.4): made and shown. For their statuses see ``states``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw, UnsetType

from certloom.audit import record
from certloom.enrollment.books import UnknownName
from certloom.pki.certificates import parse_certificate
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import PublicKeyFacts
from certloom.pki.names import Name
from certloom.policy.decide import decide
from certloom.policy.decisions import Facts, Reason, Requester
from certloom.protocols.acme import limits, messages
from certloom.protocols.acme.ari import BadCertID, find_certificate
from certloom.protocols.acme.authorizations import (
    make,
    parse_identifier,
    read_vouched,
    still_holds,
    why_not,
)
from certloom.protocols.acme.exchange import Answer, Exchange, Header, location, retry_after
from certloom.protocols.acme.messages import IdentifierObject
from certloom.protocols.acme.problems import (
    Problem,
    Subproblem,
    from_identifiers,
    malformed,
    of_reasons,
)
from certloom.protocols.acme.service import ACMEService, by_account, expect_get, require_terms
from certloom.protocols.acme.states import (
    AuthorizationStatus,
    OrderStatus,
    authorization_status,
    order_status,
)
from certloom.store import acme as statements
from certloom.store import certificates as certificate_statements
from certloom.store import history
from certloom.store import requests as request_statements
from certloom.store.acme import StoredAccount, StoredAuthorization, StoredOrder
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate
from certloom.store.ids import new_id
from certloom.store.requests import RequestState

_POLL_PENDING = 1
_POLL_PROCESSING = 5
_NO_KEY = PublicKeyFacts(spki=b"", spki_sha256=b"", algorithm="", bits=0)


class OrderState(msgspec.Struct, frozen=True, gc=False):
    """An order and what its status follows from."""

    order: StoredOrder
    status: OrderStatus
    request: RequestState | None = None


def read_order(tx: Tx, id: str, now: int) -> OrderState | None:
    """Three point reads at most."""
    order = statements.order(tx, id)
    return None if order is None else _state(tx, order, now)


def _state(tx: Tx, order: StoredOrder, now: int) -> OrderState:
    if order.request_id is not None:
        request = request_statements.state(tx, order.request_id)
        state = request.state if request is not None else "failed"
        return OrderState(order, order_status((), state, failed=False, expired=False), request)
    if order.error is not None or order.expires <= now:
        return OrderState(order, OrderStatus.INVALID)
    ids = order.authorization_ids.split()
    found = statements.authorization_states(tx, ids)
    statuses = [authorization_status(stored, expires, now) for stored, expires in found]
    if len(statuses) < len(ids):
        # Kept no longer than settings say; an order cannot outlive what it rests on.
        statuses.append(AuthorizationStatus.EXPIRED)
    return OrderState(order, order_status(statuses, None, failed=False, expired=False))


def read_order_states(tx: Tx, orders: Sequence[StoredOrder], now: int) -> list[OrderState]:
    """For listings."""
    return [_state(tx, order, now) for order in orders]


def own_order(state: OrderState | None, account: StoredAccount) -> OrderState:
    """Raises ``malformed`` (404) or ``unauthorized`` unless it exists and is the account's."""
    if state is None:
        raise malformed("there is no such order", 404)
    if state.order.account_id != account.id:
        raise Problem("unauthorized", "this order belongs to another account")
    return state


def show(x: Exchange, state: OrderState) -> bytes:
    """RFC 8555 section 7.1.3, RFC 9773 section 5, draft-ietf-acme-profiles."""
    order, status = state.order, state.status
    error: Raw | UnsetType = UNSET
    if order.error is not None:
        error = Raw(order.error.encode())
    elif status is OrderStatus.INVALID and state.request is not None:
        error = Raw(of_reasons(state.request.reasons).document())
    return messages.encode(
        messages.Order(
            status=status,
            expires=messages.format_time(order.expires),
            finalize=x.site.finalize + order.id,
            authorizations=[x.site.authorization + id for id in order.authorization_ids.split()],
            identifiers=Raw(order.identifiers.encode()),
            not_before=UNSET if order.not_before is None else messages.format_time(order.not_before),
            not_after=UNSET if order.not_after is None else messages.format_time(order.not_after),
            profile=order.profile,
            replaces=UNSET if order.replaces is None else order.replaces,
            certificate=x.site.certificate + order.id if status is OrderStatus.VALID else UNSET,
            error=error,
        )
    )


def polling(status: OrderStatus) -> tuple[Header, ...]:
    """When to ask again, for those states that change by themselves."""
    if status is OrderStatus.PROCESSING:
        return (retry_after(_POLL_PROCESSING),)
    if status is OrderStatus.PENDING:
        return (retry_after(_POLL_PENDING),)
    return ()


async def order(service: ACMEService, x: Exchange, id: str) -> Answer:
    """Fetch an order."""
    now = service.clock.now()
    signed = await by_account(service, x, lambda tx, _: read_order(tx, id, now))
    expect_get(signed.payload)
    state = own_order(signed.loaded, signed.account)
    return Answer(show(x, state), location(x.site.order + id), *polling(state.status))


class _Asked(msgspec.Struct, frozen=True):
    identifiers: tuple[Identifier, ...]
    not_before: int | None
    not_after: int | None
    profile: str


async def new_order(service: ACMEService, x: Exchange) -> Answer:
    """Ask for a certificate (RFC 8555 section 7.4)."""
    signed = await by_account(service, x, lambda tx, account: read_vouched(service, tx, account))
    account, vouched = signed.account, signed.loaded
    require_terms(service, account)
    payload = messages.read(messages.NewOrder, signed.payload)
    asked = _asked(service, x, payload, vouched.offers(x.channel))
    if wrong := [w for i in asked.identifiers if (w := why_not(x.channel, i, vouched)) is not None]:
        raise from_identifiers(wrong)
    requester = Requester("acme-account", account.id, vouched.owner, vouched.team)
    await _ask_policy(service, x, requester, asked, payload.profile is not None)
    predecessor = await _predecessor(service, account, payload.replaces, asked) if payload.replaces else None

    acme = service.settings.acme
    now, now_ms = service.clock.now(), service.clock.now_ms()
    id = new_id(now_ms)
    objects = [IdentifierObject(i.type.value, i.value) for i in asked.identifiers]
    identifiers = messages.encode(objects).decode()

    def unit(tx: Tx) -> OrderState:
        limits.check_new_order(tx, x.channel, account.id, acme.orders_open_per_account, now)
        if predecessor is not None:
            _check_not_replaced(tx, predecessor, now)
        rests_on: list[StoredAuthorization] = []
        for identifier in asked.identifiers:
            authorization = _reusable(tx, account.id, identifier, now) if acme.authorization_reuse else None
            if authorization is None or not still_holds(authorization, vouched):
                authorization = make(service, x.channel, account.id, id, identifier, vouched)
                statements.insert_authorization(tx, authorization)
            rests_on.append(authorization)
        made = StoredOrder(
            id=id,
            account_id=account.id,
            channel=x.channel.name,
            profile=asked.profile,
            identifiers=identifiers,
            authorization_ids=" ".join([a.id for a in rests_on]),
            not_before=asked.not_before,
            not_after=asked.not_after,
            replaces=payload.replaces if predecessor is not None else None,
            replaces_certificate=predecessor.id if predecessor is not None else None,
            request_id=None,
            error=None,
            created=now,
            expires=min(now + acme.order_lifetime, *[a.expires for a in rests_on]),
        )
        statements.insert_order(tx, made)
        record(
            tx,
            now_ms,
            "acme-order.created",
            f"acme-order:{id}",
            x.origin(account.id),
            {"names": [str(i) for i in asked.identifiers], "profile": asked.profile},
        )
        statuses = [AuthorizationStatus(a.status) for a in rests_on]
        return OrderState(made, order_status(statuses, None, failed=False, expired=False))

    state = await service.store.write(unit)
    return Answer(show(x, state), location(x.site.order + id), status=201)


def _reusable(tx: Tx, account_id: str, identifier: Identifier, now: int) -> StoredAuthorization | None:
    wildcard = identifier.is_wildcard
    value = identifier.value[2:] if wildcard else identifier.value
    # An hour, so that the order still can be finalized by somebody who takes his time.
    return statements.usable_authorization(tx, account_id, identifier.type.value, value, wildcard, now + 3600)


def _asked(service: ACMEService, x: Exchange, payload: messages.NewOrder, offered: tuple[str, ...]) -> _Asked:
    most = service.settings.acme.identifiers_per_order
    if not payload.identifiers:
        raise malformed("an order needs at least one identifier")
    if len(payload.identifiers) > most:
        raise malformed(f"an order may have at most {most} identifiers, not {len(payload.identifiers)}")
    profile = payload.profile or (offered[0] if offered else "")
    if profile not in offered or not service.books.has_profile(profile):
        raise Problem("invalidProfile", f"this channel does not offer you the profile {profile[:64]!r}")
    parsed = [parse_identifier(sent) for sent in payload.identifiers]
    if wrong := [p for p in parsed if isinstance(p, Subproblem)]:
        raise from_identifiers(wrong)
    return _Asked(
        # A name sent twice is one name; the order keeps the client's sequence.
        tuple(dict.fromkeys(p for p in parsed if isinstance(p, Identifier))),
        messages.parse_time(payload.not_before) if payload.not_before else None,
        messages.parse_time(payload.not_after) if payload.not_after else None,
        profile,
    )


async def _ask_policy(
    service: ACMEService, x: Exchange, requester: Requester, asked: _Asked, profile_named: bool
) -> None:
    """Say no now to what the policy would refuse at the end: names and times. The key is not known yet."""
    try:
        profile, version = service.books.profile(asked.profile)
    except UnknownName as error:
        raise Problem("invalidProfile", str(error)) from None
    now, rules = service.clock.now(), service.books.rules
    past = (
        await service.store.read(lambda tx: history.of_names(tx, asked.identifiers, now))
        if rules.needs_history
        else None
    )
    decision = decide(
        profile,
        version,
        Facts(
            now=now,
            protocol="acme",
            channel=x.channel.name,
            requester=requester,
            key=_NO_KEY,
            key_is_blocked=False,
            identifiers=asked.identifiers,
            csr_subject=Name(),
            not_before=asked.not_before,
            not_after=asked.not_after,
            history=past,
        ),
        rules,
    )
    known = [r for r in decision.reasons if _is_about_order(r)]
    if not known:
        return
    if profile_named and any(r.code == "identifier-type-not-allowed" for r in known):
        raise Problem("invalidProfile", f"the profile {asked.profile} is not for these identifiers")
    raise of_reasons(known)


def _is_about_order(reason: Reason) -> bool:
    return (
        reason.identifier is not None
        or reason.code.startswith("validity-")
        or reason.code in ("too-many-names", "authority-expired", "rule-refuses")
    )


async def _predecessor(
    service: ACMEService, account: StoredAccount, certificate_id: str, asked: _Asked
) -> StoredCertificate:
    """The certificate that ``replaces`` names (RFC 9773 section 5), if this account may replace it."""
    try:
        found = await service.store.read(lambda tx: find_certificate(service, tx, certificate_id))
    except BadCertID as error:
        raise malformed(f"replaces: {error}") from None
    if found is None:
        raise malformed("replaces: there is no such certificate")
    if found.requester != f"acme-account:{account.id}":
        raise Problem("unauthorized", "replaces: the certificate was issued to another account")
    if not set(asked.identifiers) & set(parse_certificate(found.der).identifiers):
        raise malformed("replaces: the certificate has none of the order's identifiers")
    return found


def _check_not_replaced(tx: Tx, predecessor: StoredCertificate, now: int) -> None:
    """RFC 9773 section 5: one successor, unless the order for it came to nothing."""
    locked = certificate_statements.get(tx, predecessor.id, lock=True)
    replaced = locked is not None and locked.replaced_by is not None
    if replaced or any(
        state.status is not OrderStatus.INVALID
        for state in read_order_states(tx, statements.orders_replacing(tx, predecessor.id), now)
    ):
        raise Problem("alreadyReplaced", "another order already replaces this certificate")
