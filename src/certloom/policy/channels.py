"""Channels: one enrolment address of one protocol, bound to profiles. Each protocol has its own struct."""

from __future__ import annotations

from typing import Annotated

import msgspec


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most ``count`` in any ``seconds``."""

    count: Annotated[int, msgspec.Meta(ge=1)]
    seconds: Annotated[int, msgspec.Meta(ge=1)]


class ACMEChannel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="acme", tag_field="protocol"
):
    """One ACME server at ``/acme/<name>/directory``."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
    profiles: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Certificate profiles offered; the first is used when the client names none."""
    profile_descriptions: dict[str, str] = {}
    """Text per profile for the directory's ``meta.profiles``; where missing, the profile's description."""
    challenges: tuple[str, ...] = ("http-01", "dns-01", "tls-alpn-01")
    """Of http-01, dns-01, tls-alpn-01, dns-account-01, dns-persist-01."""
    eab_required: bool = False
    caa: bool = False
    """Whether CAA records are checked (RFC 8659); needs ``caa_identities``."""
    caa_identities: tuple[str, ...] = ()
    """Issuer domain names of this CA, for CAA and dns-persist-01."""
    new_authz: bool = True
    """Whether pre-authorization (RFC 8555 section 7.4.1) is offered."""
    orders_per_account: RateLimit | None = None
    accounts_per_address: RateLimit | None = None
    failed_validations_per_account: RateLimit | None = None
    explanation_url: str = ""
    """Given with ARI windows that were moved."""


Channel = ACMEChannel
