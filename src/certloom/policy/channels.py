"""Channels: one enrolment address of one protocol, bound to profiles. Each protocol has its own struct."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

ChannelName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
_DAY = 86_400


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most ``count`` in any ``seconds``."""

    count: Annotated[int, msgspec.Meta(ge=1)]
    seconds: Annotated[int, msgspec.Meta(ge=1)]


class ACMEChannel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="acme", tag_field="protocol"
):
    """One ACME server at ``/acme/<name>/directory``."""

    name: ChannelName
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


Proof = Literal["credential", "certificate", "both"]
"""How a requester proves itself: by a password or token, by a TLS client certificate, or by the two
together."""

EST_OPERATIONS = ("cacerts", "simpleenroll", "simplereenroll", "fullcmc", "serverkeygen", "csrattrs")
"""The last part of an address (RFC 7030 section 3.2.2); no channel may be called so."""


class ESTChannel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="est", tag_field="protocol"
):
    """One EST server at ``/.well-known/est/<name>`` and ``/<name>/.well-known/est``; the one that is called
    ``default`` also without a name (RFC 7030 section 3.2.2)."""

    name: ChannelName
    profile: str
    """Of the certificates that it issues."""
    accept: Annotated[tuple[Proof, ...], msgspec.Meta(min_length=1, max_length=3)] = (
        "credential",
        "certificate",
    )
    """Any one of these ways will do."""
    anchors: Annotated[tuple[str, ...], msgspec.Meta(max_length=20)] = ()
    """Trust anchors by name, whose certificates let a client in: those of manufacturers (IDevID) or
    partners."""
    profiles_accepted: Annotated[tuple[str, ...], msgspec.Meta(max_length=20)] = ()
    """Profiles whose certificates, issued here, also let a client in and are renewed; the channel's own
    profile's always do."""
    certificate_names: Literal["same", "profile"] = "same"
    """What a client that has only its certificate to show may ask for at first: what stands in that
    certificate, or whatever the profile allows."""
    renew_expired: Annotated[int, msgspec.Meta(ge=0, le=3660 * _DAY)] = 0
    """Seconds after its end for which a certificate may still be renewed with itself."""
    channel_binding: Literal["optional", "required"] = "optional"
    """Whether a request must be bound to its TLS session (RFC 7030 section 3.5), which TLS 1.2 alone can.
    What is bound is verified in any case."""
    encrypt_keys: bool = False
    """Whether keys that are made here leave encrypted only (RFC 7030 section 4.4.2)."""
    poll_seconds: Annotated[int, msgspec.Meta(ge=1, le=_DAY)] = 60
    """When a client that waits for people shall ask again."""
    repeat_seconds: Annotated[int, msgspec.Meta(ge=0, le=7 * _DAY)] = 3600
    """For how long after it was answered the same ask gets the same answer."""

    @property
    def profiles(self) -> tuple[str, ...]:
        """Those it issues by."""
        return (self.profile,)


Channel = ACMEChannel | ESTChannel


def protocol_of(channel: Channel) -> str:
    """``acme`` or ``est``."""
    return str(channel.__struct_config__.tag)
