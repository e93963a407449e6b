"""Accounts (RFC 8555 section 7.3): made, found, updated, deactivated, re-keyed, and their orders listed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw

from certloom.audit import record
from certloom.identity.credentials import CredentialRefused, EABCredential
from certloom.policy.decisions import Requester
from certloom.protocols.acme import jws, limits, messages
from certloom.protocols.acme.exchange import Answer, Exchange, location
from certloom.protocols.acme.jwk import AccountKey, account_key
from certloom.protocols.acme.orders import read_order_states
from certloom.protocols.acme.problems import Problem, malformed
from certloom.protocols.acme.service import (
    ACMEService,
    Signed,
    by_account,
    expect_get,
    nothing,
    read_jws,
)
from certloom.protocols.acme.states import ACCOUNT, AccountStatus, Act, OrderStatus, after
from certloom.store import acme as statements
from certloom.store.acme import StoredAccount
from certloom.store.base import Conflict, Tx
from certloom.store.ids import new_id

_MOST_CONTACTS = 10
_PAGE = 100
_PAST_KEYS = 50
_ADDR_SPEC = re.compile(
    r"[A-Za-z0-9!#$&'*+\-/=?^_`{|}~.%]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
)
_ID = re.compile(r"[0-9a-f]{32}")


def check_contact(urls: Sequence[str] | None) -> tuple[str, ...]:
    """RFC 8555 section 7.3: only mailto, one address each, no header fields."""
    if not urls:
        return ()
    if len(urls) > _MOST_CONTACTS:
        raise Problem("invalidContact", f"at most {_MOST_CONTACTS} contacts can be kept")
    for url in urls:
        scheme, colon, address = url.partition(":")
        if not colon:
            raise Problem("invalidContact", f"the contact {url[:100]!r} is not a URL")
        if scheme.lower() != "mailto":
            raise Problem(
                "unsupportedContact", f"contacts of scheme {scheme[:32]!r} cannot be used, only mailto"
            )
        if "?" in address or "," in address:
            raise Problem("invalidContact", "a contact must be one address, without header fields")
        if not _ADDR_SPEC.fullmatch(address):
            raise Problem("invalidContact", f"the contact {url[:100]!r} is not a mail address")
    return tuple(urls)


def _show(service: ACMEService, x: Exchange, account: StoredAccount, binding: bytes | None = None) -> bytes:
    terms = service.settings.acme.terms_of_service
    return messages.encode(
        messages.Account(
            status=account.status,
            orders=x.site.orders + account.id,
            contact=account.contact or UNSET,
            terms_of_service_agreed=(account.terms == terms) if terms else UNSET,
            # Only in the answer that creates it: the acme library posts it back on every update if it can.
            external_account_binding=Raw(binding) if binding is not None else UNSET,
        )
    )


async def new_account(service: ACMEService, x: Exchange) -> Answer:
    """Make an account for a key, or find the one it has (RFC 8555 sections 7.3 and 7.3.1)."""
    request = read_jws(service, x)
    key = jws.own_key(request)
    jws.verify(request, key)
    payload = messages.read(messages.NewAccount, request.payload)
    binding = messages.given(payload.external_account_binding)
    bound = jws.read(binding) if binding is not None else None
    channel = x.channel.name

    def look(tx: Tx) -> tuple[StoredAccount | None, EABCredential | None]:
        account = statements.account_by_key(tx, channel, key.thumbprint)
        if account is not None or bound is None or bound.kid is None:
            return account, None
        return None, service.credentials.eab(tx, bound.kid, channel)

    known, credential = await service.store.read(look)
    if known is not None:
        return _found(service, x, known)
    if payload.only_return_existing:
        raise Problem("accountDoesNotExist", "this key has no account here")
    contact = check_contact(payload.contact)
    terms = service.settings.acme.terms_of_service
    if terms and not payload.terms_of_service_agreed:
        raise Problem(
            "userActionRequired",
            f"the terms of service must be agreed to: {terms}",
            instance=terms,
            links=(("terms-of-service", terms),),
        )
    if bound is not None:
        _check_binding(x, bound, credential, key)
    elif x.channel.eab_required:
        raise Problem(
            "externalAccountRequired", "this channel makes accounts only with external account binding"
        )
    now = service.clock.now()
    account = StoredAccount(
        id=new_id(service.clock.now_ms()),
        channel=channel,
        thumbprint=key.thumbprint,
        jwk=key.canonical,
        status=AccountStatus.VALID,
        contact=contact,
        terms=terms or None,
        credential_id=credential.id if credential is not None else None,
        address=limits.address_group(x.address),
        past_thumbprints="",
        created=now,
    )

    def unit(tx: Tx) -> None:
        limits.check_new_account(tx, x.channel, account.address, now)
        if credential is not None:
            service.credentials.use(tx, credential.id)
        statements.insert_account(tx, account)
        record(
            tx,
            service.clock.now_ms(),
            "acme-account.created",
            f"acme-account:{account.id}",
            x.origin(account.id),
            {"channel": channel, "credential": account.credential_id, "contact": contact},
        )

    try:
        await service.store.write(unit)
    except Conflict:
        # The same key at the same time: both get the one account (RFC 8555 section 7.3.1).
        known = await service.store.read(lambda tx: statements.account_by_key(tx, channel, key.thumbprint))
        if known is None:
            raise
        return _found(service, x, known)
    except CredentialRefused:
        raise Problem("unauthorized", "the external account key was used up or withdrawn") from None
    return Answer(_show(service, x, account, binding), location(x.site.account + account.id), status=201)


def _found(service: ACMEService, x: Exchange, account: StoredAccount) -> Answer:
    if account.status != AccountStatus.VALID:
        raise Problem("unauthorized", f"the account of this key is {account.status}", status=401)
    return Answer(_show(service, x, account), location(x.site.account + account.id))


def _check_binding(
    x: Exchange, bound: jws.Unverified, credential: EABCredential | None, key: AccountKey
) -> None:
    """RFC 8555 section 7.3.4. An unknown key identifier and a wrong MAC are answered alike."""
    if not jws.is_binding_algorithm(bound.algorithm):
        raise malformed("the external account binding must be made with HS256, HS384 or HS512")
    if bound.kid is None:
        raise malformed("the external account binding must name its key in kid")
    if bound.nonce is not None:
        raise malformed("the external account binding must not have a nonce")
    if bound.url != x.url:
        raise malformed("the external account binding must have the same url as the request around it")
    if credential is None or not _is_bound(bound, credential):
        raise Problem("unauthorized", "the external account binding's key is unknown, or its MAC is wrong")
    try:
        inner = account_key(bound.payload.decode())
    except UnicodeDecodeError:
        raise malformed("the external account binding's payload is not a JWK") from None
    if inner.thumbprint != key.thumbprint:
        raise malformed("the external account binding is for another account key")


def _is_bound(bound: jws.Unverified, credential: EABCredential) -> bool:
    """Whether the MAC is of the credential's key, or of the one before a rotation that is still good."""
    if jws.verify_binding(bound, credential.mac_key):
        return True
    return credential.previous_key is not None and jws.verify_binding(bound, credential.previous_key)


async def account(service: ACMEService, x: Exchange, id: str) -> Answer:
    """Fetch, update or deactivate (RFC 8555 sections 7.3.2 and 7.3.6)."""
    signed = await by_account(service, x, nothing)
    _own(signed, id)
    if not signed.payload:
        return Answer(_show(service, x, signed.account), location(x.site.account + id))
    payload = messages.read(messages.UpdateAccount, signed.payload)
    was = signed.account
    if payload.status == AccountStatus.DEACTIVATED:
        changed = await _deactivate(service, x, was)
    elif payload.status not in (None, AccountStatus.VALID):
        raise malformed("an account's status can only be set to deactivated")
    else:
        changed = await _update(service, x, was, payload)
    return Answer(_show(service, x, changed), location(x.site.account + id))


def _own(signed: Signed[None], id: str) -> None:
    if signed.account.id != id:
        raise Problem("unauthorized", "this resource belongs to another account")


async def _deactivate(service: ACMEService, x: Exchange, was: StoredAccount) -> StoredAccount:
    status = after(ACCOUNT, AccountStatus(was.status), Act.DEACTIVATE)

    def unit(tx: Tx) -> None:
        if statements.set_account_status(tx, was.id, was.status, status):
            subject = f"acme-account:{was.id}"
            record(tx, service.clock.now_ms(), "acme-account.deactivated", subject, x.origin(was.id))
            # RFC 8555 section 7.3.6: what the account still waits for is not to be done any more.
            service.enrollment.cancel_of(tx, Requester("acme-account", was.id), x.origin(was.id))

    await service.store.write(unit)
    return msgspec.structs.replace(was, status=status)


async def _update(
    service: ACMEService, x: Exchange, was: StoredAccount, payload: messages.UpdateAccount
) -> StoredAccount:
    contact = was.contact if payload.contact is None else check_contact(payload.contact)
    terms = was.terms
    if payload.terms_of_service_agreed:
        terms = service.settings.acme.terms_of_service or None
    if (contact, terms) == (was.contact, was.terms):
        return was

    def unit(tx: Tx) -> None:
        statements.update_account(tx, was.id, contact, terms)
        record(
            tx,
            service.clock.now_ms(),
            "acme-account.updated",
            f"acme-account:{was.id}",
            x.origin(was.id),
            {
                "before": {"contact": was.contact, "terms": was.terms},
                "after": {"contact": contact, "terms": terms},
            },
        )

    await service.store.write(unit)
    return msgspec.structs.replace(was, contact=contact, terms=terms)


async def key_change(service: ACMEService, x: Exchange) -> Answer:
    """Replace an account's key (RFC 8555 section 7.3.5). Its orders and authorizations stay."""
    signed = await by_account(service, x, nothing)
    was, channel = signed.account, x.channel.name
    inner = jws.read(signed.payload)
    jws.check_algorithm(inner)
    new = jws.own_key(inner)
    jws.verify(inner, new)
    if inner.nonce is not None:
        raise malformed("the inner JWS must not have a nonce")
    if inner.url != x.url:
        raise malformed("the inner JWS must have the same url as the outer one")
    payload = messages.read(messages.KeyChange, inner.payload)
    if payload.account != x.site.account + was.id:
        raise malformed("account in the inner payload is not the URL of the account that signed")
    try:
        old = account_key(bytes(payload.old_key).decode())
    except UnicodeDecodeError:
        raise malformed("oldKey in the inner payload is not a JWK") from None
    if old.thumbprint != was.thumbprint:
        raise malformed("oldKey in the inner payload is not the account's key")
    past = " ".join([signed.key.thumbprint_text, *was.past_thumbprints.split()][:_PAST_KEYS])

    def unit(tx: Tx) -> bool:
        if not statements.set_account_key(tx, was.id, was.thumbprint, new.thumbprint, new.canonical, past):
            return False
        record(
            tx,
            service.clock.now_ms(),
            "acme-account.rekeyed",
            f"acme-account:{was.id}",
            x.origin(was.id),
            {"before": {"key": signed.key.thumbprint_text}, "after": {"key": new.thumbprint_text}},
        )
        return True

    holder = was if new.thumbprint == was.thumbprint else None
    if holder is None:
        try:
            if not await service.store.write(unit):
                raise malformed("oldKey in the inner payload is not the account's key any more")
        except Conflict:
            holder = await service.store.read(
                lambda tx: statements.account_by_key(tx, channel, new.thumbprint)
            )
    if holder is not None:
        raise Problem(
            "malformed", "the new key has an account already", status=409, location=x.site.account + holder.id
        )
    changed = msgspec.structs.replace(was, thumbprint=new.thumbprint, jwk=new.canonical)
    return Answer(_show(service, x, changed), location(x.site.account + was.id))


async def orders_list(service: ACMEService, x: Exchange, id: str) -> Answer:
    """An account's orders, newest first, without the invalid ones (RFC 8555 section 7.1.2.1)."""
    cursor = x.query.removeprefix("cursor=") if x.query else None
    if cursor is not None and not _ID.fullmatch(cursor):
        raise malformed("the cursor is not one that this server gave out")
    signed = await by_account(service, x, nothing)
    expect_get(signed.payload)
    _own(signed, id)
    now = service.clock.now()
    page = await service.store.scan(
        lambda tx: read_order_states(tx, statements.orders_of(tx, id, cursor, _PAGE + 1), now)
    )
    urls = [x.site.order + o.order.id for o in page[:_PAGE] if o.status is not OrderStatus.INVALID]
    body = messages.encode(messages.OrdersList(urls))
    if len(page) <= _PAGE:
        return Answer(body)
    following = f"{x.site.orders}{id}?cursor={page[_PAGE - 1].order.id}"
    return Answer(body, (b"link", f'<{following}>;rel="next"'.encode()))
