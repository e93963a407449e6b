"""Authorizations (RFC 8555 sections 7.1.4, 7.4.1 and 7.5): made, shown, reused, deactivated."""

from __future__ import annotations

from functools import lru_cache
from secrets import token_urlsafe
from typing import Final

import msgspec
from msgspec import UNSET

from certloom.audit import record
from certloom.identity.credentials import preauthorizes
from certloom.pki.identifiers import Identifier, IdentifierError, IdentifierType, parse
from certloom.policy.channels import ACMEChannel
from certloom.policy.name_rules import matches
from certloom.protocols.acme import limits, messages
from certloom.protocols.acme.exchange import Answer, Exchange, location, retry_after
from certloom.protocols.acme.messages import HeldChallenge, IdentifierObject
from certloom.protocols.acme.problems import Problem, Subproblem, from_identifiers, malformed, subproblem
from certloom.protocols.acme.service import ACMEService, by_account, require_terms
from certloom.protocols.acme.states import (
    AUTHORIZATION,
    Act,
    AuthorizationStatus,
    ChallengeStatus,
    after,
    authorization_status,
)
from certloom.store import acme as statements
from certloom.store import credentials as credential_statements
from certloom.store.acme import StoredAccount, StoredAuthorization
from certloom.store.base import Tx
from certloom.store.ids import new_id

_TYPES: Final = {
    IdentifierType.DNS: {"http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"},
    # RFC 8738 section 4: dns-01 MUST NOT be used for addresses; there is no name to ask about.
    IdentifierType.IP: {"http-01", "tls-alpn-01"},
}
_WILDCARD: Final = {"dns-01", "dns-account-01", "dns-persist-01"}
"""What proves more than one host: RFC 8555 section 8.3 and RFC 8737 section 3 exclude the other two."""
_TOKEN_BYTES = 24
_LONGEST_VALUE = 1_024


def offered(channel: ACMEChannel, identifier: Identifier) -> tuple[str, ...]:
    """The challenge types with which the channel lets this identifier be proved."""
    wildcard = identifier.is_wildcard
    possible = _TYPES.get(identifier.type, set())
    return tuple(
        type
        for type in channel.challenges
        if type in possible
        and (not wildcard or type in _WILDCARD)
        and (type != "dns-persist-01" or channel.caa_identities)
    )


@lru_cache(256)
def _pending(types: tuple[str, ...]) -> str:
    return messages.write_challenges([HeldChallenge(type, ChallengeStatus.PENDING) for type in types])


class Vouched(msgspec.Struct, frozen=True):
    """What an account's external account binding says about names and profiles."""

    only: tuple[str, ...] = ()
    """Patterns that every name must match; none means no such bound."""
    preauthorized: tuple[str, ...] = ()
    """Patterns of names that need no challenge."""
    owner: str | None = None
    """On whose behalf the account asks."""
    team: str | None = None
    profiles: tuple[str, ...] = ()
    """Profiles that it may be used for; none means those of the channel."""

    def offers(self, channel: ACMEChannel) -> tuple[str, ...]:
        """The channel's profiles that the account may use."""
        if not self.profiles:
            return channel.profiles
        return tuple(profile for profile in channel.profiles if profile in self.profiles)


NOT_VOUCHED: Final = Vouched()


def read_vouched(service: ACMEService, tx: Tx, account: StoredAccount) -> Vouched:
    """Read with the account, in one unit."""
    if account.credential_id is None:
        return NOT_VOUCHED
    credential = credential_statements.get(tx, account.credential_id)
    if credential is None:
        return NOT_VOUCHED
    if credential.preauthorized:
        # Its names are those it vouches for; all others are proved as by anyone.
        preauthorized = service.credentials.vouching(tx, account.credential_id)
        return Vouched((), preauthorized, credential.owner, credential.team, credential.profiles)
    return Vouched(credential.names, (), credential.owner, credential.team, credential.profiles)


def parse_identifier(sent: IdentifierObject) -> Identifier | Subproblem:
    """One identifier in canonical form, or what is wrong with it."""
    if sent.type not in ("dns", "ip"):
        detail = f"identifiers of type {sent.type[:32]!r} are not supported"
        return subproblem("unsupportedIdentifier", detail, sent.type, sent.value)
    try:
        if len(sent.value) > _LONGEST_VALUE:
            raise IdentifierError("too-long", "the identifier is too long")
        return parse(sent.type, sent.value)
    except IdentifierError as error:
        return subproblem("malformed", str(error), sent.type, sent.value)


def why_not(channel: ACMEChannel, identifier: Identifier, vouched: Vouched) -> Subproblem | None:
    """Why this channel cannot authorize an identifier for an account, if it cannot."""
    kind, value = identifier.type.value, identifier.value
    if vouched.only and not any(matches(pattern, identifier) for pattern in vouched.only):
        detail = f"the external account that this account is bound to may not have {value}"
        return subproblem("rejectedIdentifier", detail, kind, value)
    if not preauthorizes(vouched.preauthorized, identifier) and not offered(channel, identifier):
        detail = f"this channel has no challenge by which {value} could be proved"
        return subproblem("rejectedIdentifier", detail, kind, value)
    return None


def make(
    service: ACMEService,
    channel: ACMEChannel,
    account_id: str,
    order_id: str | None,
    identifier: Identifier,
    vouched: Vouched,
) -> StoredAuthorization:
    """A new authorization: pending, or valid at once where the account's credential vouches for the name."""
    acme = service.settings.acme
    now = service.clock.now()
    wildcard = identifier.is_wildcard
    types = offered(channel, identifier)
    if vouched.preauthorized and preauthorizes(vouched.preauthorized, identifier):
        status = AuthorizationStatus.VALID
        # One challenge, shown as done: clients that look for one to do (acme.sh, for wildcards) find it done.
        held = [HeldChallenge(type, ChallengeStatus.VALID, validated=now, vouched=True) for type in types[:1]]
        challenges, expires = messages.write_challenges(held), now + acme.order_lifetime
    else:
        status, challenges = AuthorizationStatus.PENDING, _pending(types)
        expires = now + acme.authorization_lifetime
    return StoredAuthorization(
        id=new_id(service.clock.now_ms()),
        account_id=account_id,
        order_id=order_id,
        identifier_type=identifier.type.value,
        identifier_value=identifier.value[2:] if wildcard else identifier.value,
        wildcard=int(wildcard),
        status=status,
        token=token_urlsafe(_TOKEN_BYTES),
        challenges=challenges,
        created=now,
        expires=expires,
    )


def still_holds(authorization: StoredAuthorization, vouched: Vouched) -> bool:
    """Whether a valid authorization can be relied on as the account's credential is now.

    What was proved can, unless the credential excludes the name. What the credential vouched for can only for
    as long as it does: to revoke a credential that has leaked is to stop all that it let happen.
    """
    type = IdentifierType(authorization.identifier_type)
    value = ("*." if authorization.wildcard else "") + authorization.identifier_value
    identifier = Identifier(type, value)
    if vouched.only and not any(matches(pattern, identifier) for pattern in vouched.only):
        return False
    held = messages.read_challenges(authorization.challenges)
    was_proved = any(h.status == ChallengeStatus.VALID and not h.vouched for h in held)
    return was_proved or preauthorizes(vouched.preauthorized, identifier)


def challenge_resource(
    x: Exchange, authorization: StoredAuthorization, held: HeldChallenge
) -> messages.Challenge:
    """RFC 8555 section 7.1.5."""
    persist = held.type == "dns-persist-01"
    return messages.Challenge(
        type=held.type,
        url=f"{x.site.challenge}{authorization.id}/{held.type}",
        status=held.status,
        # dns-persist-01 has no token (draft-ietf-acme-dns-persist section 3.1).
        token=UNSET if persist else authorization.token,
        validated=UNSET if held.validated is None else messages.format_time(held.validated),
        issuer_domain_names=x.channel.caa_identities[:10] if persist else UNSET,
        validation_record=held.records,
        error=UNSET if held.error is None else held.error,
    )


def show(x: Exchange, authorization: StoredAuthorization, now: int) -> bytes:
    """RFC 8555 section 7.1.4: one that is decided shows the challenge that decided it."""
    status = authorization_status(authorization.status, authorization.expires, now)
    held = messages.read_challenges(authorization.challenges)
    if status is AuthorizationStatus.VALID or status is AuthorizationStatus.INVALID:
        decided = tuple(challenge for challenge in held if challenge.status == status)
        held = decided or held
    return messages.encode(
        messages.Authorization(
            status=status,
            expires=messages.format_time(authorization.expires),
            identifier=IdentifierObject(authorization.identifier_type, authorization.identifier_value),
            challenges=[challenge_resource(x, authorization, challenge) for challenge in held],
            wildcard=authorization.wildcard == 1,
        )
    )


def own(authorization: StoredAuthorization | None, account: StoredAccount) -> StoredAuthorization:
    """Raises ``malformed`` (404) or ``unauthorized`` unless it exists and is the account's."""
    if authorization is None:
        raise malformed("there is no such authorization", 404)
    if authorization.account_id != account.id:
        raise Problem("unauthorized", "this authorization belongs to another account")
    return authorization


async def authorization(service: ACMEService, x: Exchange, id: str) -> Answer:
    """Fetch or deactivate (RFC 8555 sections 7.5 and 7.5.2)."""
    signed = await by_account(service, x, lambda tx, _: statements.authorization(tx, id))
    found = own(signed.loaded, signed.account)
    now = service.clock.now()
    if signed.payload:
        if messages.read(messages.UpdateAuthorization, signed.payload).status != "deactivated":
            raise malformed("an authorization's status can only be set to deactivated")
        found = await _deactivate(service, x, found)
    body = show(x, found, now)
    if found.status == AuthorizationStatus.PENDING and '"processing"' in found.challenges:
        return Answer(body, retry_after(1))
    return Answer(body)


async def _deactivate(service: ACMEService, x: Exchange, seen: StoredAuthorization) -> StoredAuthorization:
    def unit(tx: Tx) -> StoredAuthorization:
        was = statements.authorization(tx, seen.id, lock=True)
        if was is None:
            raise malformed("there is no such authorization", 404)
        status = authorization_status(was.status, was.expires, service.clock.now())
        if (status, Act.DEACTIVATE) not in AUTHORIZATION:
            if status is AuthorizationStatus.DEACTIVATED:
                return was
            raise malformed(f"an authorization that is {status} cannot be deactivated")
        new = after(AUTHORIZATION, status, Act.DEACTIVATE)
        statements.update_authorization(tx, was, new, was.challenges, was.expires)
        subject = f"acme-authorization:{was.id}"
        origin = x.origin(was.account_id)
        record(tx, service.clock.now_ms(), "acme-authorization.deactivated", subject, origin)
        return msgspec.structs.replace(was, status=new)

    return await service.store.write(unit)


async def new_authz(service: ACMEService, x: Exchange) -> Answer:
    """Authorize an identifier ahead of any order (RFC 8555 section 7.4.1)."""
    if not x.channel.new_authz:
        raise malformed("this channel has no pre-authorization", 404)
    signed = await by_account(service, x, lambda tx, account: read_vouched(service, tx, account))
    account, vouched = signed.account, signed.loaded
    require_terms(service, account)
    sent = messages.read(messages.NewAuthorization, signed.payload).identifier
    parsed = parse_identifier(sent)
    if isinstance(parsed, Subproblem):
        raise from_identifiers([parsed])
    identifier = parsed
    if identifier.is_wildcard:
        raise malformed("a wildcard name cannot be authorized ahead of an order")
    if (wrong := why_not(x.channel, identifier, vouched)) is not None:
        raise from_identifiers([wrong])
    now = service.clock.now()

    def unit(tx: Tx) -> tuple[StoredAuthorization, bool]:
        known = statements.usable_authorization(
            tx, account.id, identifier.type.value, identifier.value, False, now + 60, pending=True
        )
        if known is not None and (known.status != AuthorizationStatus.VALID or still_holds(known, vouched)):
            return known, False
        limits.check_failures(tx, x.channel, account.id, now)
        made = make(service, x.channel, account.id, None, identifier, vouched)
        statements.insert_authorization(tx, made)
        record(
            tx,
            service.clock.now_ms(),
            "acme-authorization.created",
            f"acme-authorization:{made.id}",
            x.origin(account.id),
            {"identifier": str(identifier), "status": made.status},
        )
        return made, True

    found, created = await service.store.write(unit)
    return Answer(
        show(x, found, now), location(x.site.authorization + found.id), status=201 if created else 200
    )
