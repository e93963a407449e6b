"""What clients send and what they get, as JSON (RFC 8555 section 7.1 and its extensions). Pure codec.

Payloads are read leniently: members that are not known, or that are null, are as good as absent (Caddy's
newOrder carries ``"authorizations": null`` and a date of the year 1). Resources are written in an order that
shell clients can parse: in a challenge the plain members come first, objects and arrays last.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Sequence
from datetime import UTC, datetime
from time import gmtime, strftime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from certloom.protocols.acme.problems import ProblemDocument, malformed

T = TypeVar("T", bound=msgspec.Struct)


class _Payload(msgspec.Struct, frozen=True, rename="camel"):
    pass


class IdentifierObject(_Payload, frozen=True):
    """RFC 8555 section 7.1.4, as sent and as written."""

    type: str
    value: str


class NewAccount(_Payload, frozen=True):
    """RFC 8555 section 7.3."""

    contact: list[str] | None = None
    terms_of_service_agreed: bool | None = None
    only_return_existing: bool | None = None
    external_account_binding: Raw | UnsetType = UNSET


class UpdateAccount(_Payload, frozen=True):
    """RFC 8555 sections 7.3.2 and 7.3.6."""

    contact: list[str] | None = None
    terms_of_service_agreed: bool | None = None
    status: str | None = None


class NewOrder(_Payload, frozen=True):
    """RFC 8555 section 7.4, RFC 9773 section 5, draft-ietf-acme-profiles."""

    identifiers: list[IdentifierObject]
    not_before: str | None = None
    not_after: str | None = None
    profile: str | None = None
    replaces: str | None = None


class NewAuthorization(_Payload, frozen=True):
    """RFC 8555 section 7.4.1."""

    identifier: IdentifierObject


class UpdateAuthorization(_Payload, frozen=True):
    """RFC 8555 section 7.5.2."""

    status: str | None = None


class Finalize(_Payload, frozen=True):
    """RFC 8555 section 7.4."""

    csr: str


class Revoke(_Payload, frozen=True):
    """RFC 8555 section 7.6."""

    certificate: str
    reason: int | None = None


class KeyChange(_Payload, frozen=True):
    """The inner payload of RFC 8555 section 7.3.5."""

    account: str
    old_key: Raw


class Anything(_Payload, frozen=True):
    """An object of which nothing is read, such as a challenge response (RFC 8555 section 7.5.1)."""


_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    type: msgspec.json.Decoder(type)
    for type in (
        NewAccount,
        UpdateAccount,
        NewOrder,
        NewAuthorization,
        UpdateAuthorization,
        Finalize,
        Revoke,
        KeyChange,
        Anything,
    )
}


def read(type: type[T], payload: bytes) -> T:
    """Decode a payload. Raises ``malformed``, and nothing else, whatever the bytes."""
    try:
        return _decoders[type].decode(payload)  # type: ignore[no-any-return]  # the decoder's own type is lost in the table
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise malformed(f"the payload cannot be read: {error}") from None


def given(raw: Raw | UnsetType) -> bytes | None:
    """An optional object's JSON; None where it is absent or null."""
    text = b"null" if raw is UNSET else bytes(raw)
    return None if text == b"null" else text


def parse_time(text: str) -> int:
    """RFC 3339 to Unix seconds, a fraction cut off. Raises ``malformed``."""
    try:
        if len(text) > 40 or "T" not in text.upper():
            raise ValueError
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            raise ValueError
        return timegm(moment.astimezone(UTC).timetuple())
    except (ValueError, OverflowError):
        raise malformed(f"{text[:40]!r} is not an RFC 3339 date and time") from None


def format_time(seconds: int) -> str:
    """Unix seconds to RFC 3339, UTC."""
    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(seconds))


class _Resource(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    pass


class Meta(_Resource, frozen=True):
    """RFC 8555 section 7.1.1, draft-ietf-acme-profiles, draft-ietf-acme-dns-persist section 3.2."""

    terms_of_service: str | UnsetType = UNSET
    website: str | UnsetType = UNSET
    caa_identities: tuple[str, ...] | UnsetType = UNSET
    external_account_required: bool = False
    profiles: dict[str, str] | UnsetType = UNSET
    issuer_domain_names: tuple[str, ...] | UnsetType = UNSET
    account_hash_prefix: str | UnsetType = UNSET


class Directory(_Resource, frozen=True):
    """RFC 8555 section 7.1.1, RFC 9773 section 3."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str
    key_change: str
    renewal_info: str
    new_authz: str | UnsetType = UNSET
    meta: Meta | UnsetType = UNSET


class Account(_Resource, frozen=True):
    """RFC 8555 section 7.1.2."""

    status: str
    orders: str
    contact: Sequence[str] | UnsetType = UNSET
    terms_of_service_agreed: bool | UnsetType = UNSET
    external_account_binding: Raw | UnsetType = UNSET


class OrdersList(_Resource, frozen=True):
    """RFC 8555 section 7.1.2.1."""

    orders: Sequence[str]


class Order(_Resource, frozen=True):
    """RFC 8555 section 7.1.3."""

    status: str
    expires: str
    finalize: str
    authorizations: Sequence[str]
    identifiers: Raw
    not_before: str | UnsetType = UNSET
    not_after: str | UnsetType = UNSET
    profile: str | UnsetType = UNSET
    replaces: str | UnsetType = UNSET
    certificate: str | UnsetType = UNSET
    error: Raw | ProblemDocument | UnsetType = UNSET


class Challenge(_Resource, frozen=True):
    """RFC 8555 section 7.1.5 and section 8; plain members before arrays and objects."""

    type: str
    url: str
    status: str
    token: str | UnsetType = UNSET
    validated: str | UnsetType = UNSET
    issuer_domain_names: tuple[str, ...] | UnsetType = UNSET
    validation_record: Raw | UnsetType = UNSET
    error: ProblemDocument | UnsetType = UNSET


class Authorization(_Resource, frozen=True):
    """RFC 8555 section 7.1.4."""

    status: str
    expires: str
    identifier: IdentifierObject
    challenges: Sequence[Challenge]
    wildcard: bool = False


class SuggestedWindow(_Resource, frozen=True):
    """RFC 9773 section 4.2."""

    start: str
    end: str


class RenewalInfo(_Resource, frozen=True):
    """RFC 9773 section 4.2."""

    suggested_window: SuggestedWindow
    explanation_url: str | UnsetType = msgspec.field(default=UNSET, name="explanationURL")


class HeldChallenge(msgspec.Struct, frozen=True, omit_defaults=True):
    """A challenge as the store holds it, inside its authorization."""

    type: str
    status: str
    validated: int | None = None
    caa_checked: int | None = None
    """When the domain's CAA records last let this CA issue; None where they were not asked."""
    error: ProblemDocument | None = None
    records: Raw | UnsetType = UNSET
    vouched: bool = False
    """Nothing was proved: the account's credential vouched for the name."""


encode: Final = msgspec.json.Encoder().encode
_held = msgspec.json.Decoder(tuple[HeldChallenge, ...])


def read_challenges(text: str) -> tuple[HeldChallenge, ...]:
    """From an authorization's column."""
    return _held.decode(text)


def write_challenges(challenges: Sequence[HeldChallenge]) -> str:
    """For an authorization's column."""
    return encode(challenges).decode()
