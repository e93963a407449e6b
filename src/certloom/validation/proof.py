"""What is to be proved, what came of it, and how a failure is put into words."""

from __future__ import annotations

import msgspec

from certloom.pki.identifiers import Identifier, IdentifierType

EXCERPT_LIMIT = 64
"""Characters of somebody else's bytes that an error detail may show."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One challenge of one authorization, ready to be checked."""

    identifier: Identifier
    """The identifier of the authorization; a leading ``*.`` is tolerated and means ``wildcard``."""
    type: str
    """http-01, dns-01, tls-alpn-01, dns-account-01 or dns-persist-01."""
    wildcard: bool = False
    token: str = ""
    key_authorization: str = ""
    """RFC 8555 section 8.1: token, a dot, and the account key's thumbprint."""
    account_url: str = ""
    """The account's URL exactly as the Location header of newAccount gave it."""
    issuer_domains: tuple[str, ...] = ()
    """dns-persist-01: the challenge's issuerDomainNames, lower-case A-labels without a trailing dot."""
    account_hash_prefix: str = ""
    """dns-persist-01: the directory's accountHashPrefix (draft-ietf-acme-dns-persist-02 section 4.1). Empty
    means that this channel still speaks draft -01, where ``accounturi`` is the account's URL itself."""
    key_thumbprints: tuple[str, ...] = ()
    """dns-persist-01: unpadded base64url SHA-256 JWK thumbprints of every key the account ever had, newest
    first (section 4.2). Empty means the current key alone, taken from ``key_authorization``."""

    @property
    def base_name(self) -> str:
        """The identifier's value without ``*.``: what DNS and connections are asked about."""
        value = self.identifier.value
        return value[2:] if self.identifier.is_wildcard else value

    @property
    def is_wildcard(self) -> bool:
        """Whether a wildcard name is to be proved."""
        return self.wildcard or self.identifier.is_wildcard

    @property
    def is_ip(self) -> bool:
        """Whether an address is to be proved (RFC 8738)."""
        return self.identifier.type is IdentifierType.IP


class ValidationRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One step that was taken: a request made or a record looked up. Encodes to the members that other
    ACME servers show in a challenge's ``validationRecord``."""

    hostname: str
    url: str = ""
    port: int = 0
    addresses_resolved: tuple[str, ...] = ()
    address_used: str = ""


class Validated(msgspec.Struct, frozen=True):
    """Control was proved."""

    records: tuple[ValidationRecord, ...] = ()
    valid_until: int | None = None
    """Unix seconds after which this proof must not be relied on (``persistUntil``); None: no such bound."""


class ValidationFailed(Exception):
    """Control was not proved.

    ``code`` is the ACME error type without its URN (RFC 8555 section 6.7): connection, dns, tls,
    unauthorized, incorrectResponse, caa or malformed. ``detail`` is fit for the requester's eyes: printable,
    bounded, with at most ``EXCERPT_LIMIT`` characters of what the other side sent. ``retryable`` says whether
    the same check may succeed a little later without the requester doing anything.
    """

    def __init__(self, code: str, detail: str, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retryable = retryable


def excerpt(data: bytes | str, limit: int = EXCERPT_LIMIT) -> str:
    """``data`` in quotes, everything but printable ASCII replaced, cut after ``limit`` characters."""
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    shown = "".join(c if " " <= c <= "~" and c != '"' else "?" for c in text[:limit])
    return f'"{shown}"' + (f" and {len(text) - limit} more" if len(text) > limit else "")
