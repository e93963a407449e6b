"""Changes of the configuration, as units: what ``PUT`` of one thing and a whole declaration have in common.

Each puts one thing into the database if it differs from what is there, records an event with what was before
and after, and says what became of it. The caller has checked what the thing refers to, and calls
``configuration.touch`` once something changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import msgspec

from certloom.api.problems import INVALID, Problem
from certloom.api.services import Services
from certloom.audit import Origin, record
from certloom.authorities.certifying import PROFILE as CA_PROFILE
from certloom.authorities.registration import PROFILE as RA_PROFILE
from certloom.policy.anchors import AnchorError, TrustAnchors, certificates_of
from certloom.policy.channels import EST_OPERATIONS, ACMEChannel, Channel, ESTChannel, protocol_of
from certloom.policy.profiles import Profile, ProfileError, encode_profile, parse_profile
from certloom.status.ocsp_responders import PROFILE as OCSP_PROFILE
from certloom.store import configuration
from certloom.store.base import Tx

_CHALLENGES = frozenset({"http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"})
_encode = msgspec.json.Encoder(order="deterministic").encode


class Change(msgspec.Struct, frozen=True):
    """What became, or would become, of one thing."""

    kind: str
    """``profile``, ``channel``, ``authority``, ``credential`` ..."""
    name: str
    change: str
    """``created``, ``changed`` or ``unchanged``."""
    details: tuple[str, ...] = ()
    """For people: ``field: old -> new``."""


def invalid(what: str, path: str) -> Problem:
    """422, with the place in the document."""
    return Problem(INVALID, f"{what} - at `{path}`")


# -- profiles --------------------------------------------------------------------------------------------


_TAKEN = {
    CA_PROFILE: "CA certificates",
    OCSP_PROFILE: "OCSP responders' certificates",
    RA_PROFILE: "registration authorities' certificates",
}


def read_profile(table: dict[str, Any], path: str = "$") -> Profile:
    """A profile out of a table. Raises ``Problem``."""
    try:
        return parse_profile(table)
    except ProfileError as error:
        raise invalid(error.message, path + error.path.removeprefix("$")) from None


def check_profile(profile: Profile, authorities: Collection[str], path: str = "$") -> None:
    """Raises ``Problem`` where it names an authority that is not there, or has a name that is taken."""
    if profile.name in _TAKEN:
        raise invalid(f"{profile.name!r} stands for {_TAKEN[profile.name]} in the inventory", f"{path}.name")
    if profile.authority not in authorities:
        raise invalid(f"there is no authority {profile.authority!r}", f"{path}.authority")


def put_profile(tx: Tx, services: Services, profile: Profile, origin: Origin) -> tuple[Change, int]:
    """Add a version of a profile if it differs from the newest; answers the version in force."""
    version, body = configuration.newest_profile(tx, profile.name) or (0, "")
    new = encode_profile(profile)
    # Compared as it would be stored today: a default that came later is no difference.
    if body and encode_profile(parse_profile(body)) == new:
        return Change("profile", profile.name, "unchanged", (f"version {version}",)), version
    configuration.add_profile_version(tx, profile.name, version + 1, new, services.clock.now())
    what = "changed" if version else "created"
    data = {"version": version + 1, **before_and_after(body or None, new)}
    record(tx, services.clock.now_ms(), f"profile.{what}", f"profile:{profile.name}", origin, data)
    details = differences(body, new) if version else ()
    return Change("profile", profile.name, what, (f"version {version + 1}", *details)), version + 1


# -- channels --------------------------------------------------------------------------------------------


def encode_channel(channel: Channel) -> str:
    """As it is stored."""
    return _encode(channel).decode()


def check_channel(
    channel: Channel, profiles: Collection[str], anchors: Collection[str], path: str = "$"
) -> None:
    """Raises ``Problem`` for what refers to nothing, or could not work."""
    if isinstance(channel, ESTChannel):
        _check_est(channel, profiles, anchors, path)
    else:
        _check_acme(channel, profiles, path)


def _check_est(channel: ESTChannel, profiles: Collection[str], anchors: Collection[str], path: str) -> None:
    if channel.name in EST_OPERATIONS:
        # RFC 7030 section 3.2.2.
        raise invalid("an operation of EST is called so: no channel can be", f"{path}.name")
    if channel.profile not in profiles:
        raise invalid(f"there is no profile {channel.profile!r}", f"{path}.profile")
    for i, name in enumerate(channel.profiles_accepted):
        if name not in profiles:
            raise invalid(f"there is no profile {name!r}", f"{path}.profiles_accepted[{i}]")
    for i, name in enumerate(channel.anchors):
        if name not in anchors:
            raise invalid(f"there are no trust anchors {name!r}", f"{path}.anchors[{i}]")
    if len(set(channel.accept)) != len(channel.accept):
        raise invalid("a way is here twice", f"{path}.accept")
    if channel.anchors and "certificate" not in channel.accept and "both" not in channel.accept:
        raise invalid("certificates are not accepted here", f"{path}.anchors")


def _check_acme(channel: ACMEChannel, profiles: Collection[str], path: str) -> None:
    for name in channel.profiles:
        if name not in profiles:
            raise invalid(f"there is no profile {name!r}", f"{path}.profiles")
    for name in channel.profile_descriptions:
        if name not in channel.profiles:
            raise invalid(f"the channel does not offer {name!r}", f"{path}.profile_descriptions")
    unknown = [name for name in channel.challenges if name not in _CHALLENGES]
    if unknown:
        raise invalid(f"{unknown[0]!r} is none of {', '.join(sorted(_CHALLENGES))}", f"{path}.challenges")
    if not channel.caa_identities and (channel.caa or "dns-persist-01" in channel.challenges):
        raise invalid("needed for CAA and dns-persist-01", f"{path}.caa_identities")


def put_channel(tx: Tx, services: Services, channel: Channel, origin: Origin) -> Change:
    """Make or change a channel."""
    protocol = protocol_of(channel)
    new, body = encode_channel(channel), configuration.channel(tx, protocol, channel.name)
    if body is not None and msgspec.json.decode(body, type=Channel) == channel:
        return Change("channel", channel.name, "unchanged")
    configuration.put_channel(tx, protocol, channel.name, new, services.clock.now())
    what = "created" if body is None else "changed"
    subject = f"channel:{protocol}/{channel.name}"
    record(tx, services.clock.now_ms(), f"channel.{what}", subject, origin, before_and_after(body, new))
    return Change("channel", channel.name, what, () if body is None else differences(body, new))


# -- trust anchors ---------------------------------------------------------------------------------------


def check_anchors(anchors: TrustAnchors, path: str = "$") -> None:
    """Raises ``Problem`` for what is no CA's certificate."""
    try:
        certificates_of(anchors)
    except AnchorError as error:
        raise invalid(str(error), path + error.path.removeprefix("$")) from None


def put_anchors(tx: Tx, services: Services, anchors: TrustAnchors, origin: Origin) -> Change:
    """Make or change a set of trust anchors."""
    body = configuration.anchor_set(tx, anchors.name)
    if body is not None and msgspec.json.decode(body, type=TrustAnchors) == anchors:
        return Change("trust-anchors", anchors.name, "unchanged")
    new = _encode(anchors).decode()
    configuration.put_anchors(tx, anchors.name, new, services.clock.now())
    what = "created" if body is None else "changed"
    before, after = None if body is None else told_of_anchors(body), told_of_anchors(new)
    data = {"before": before, "after": after}
    subject = f"trust-anchors:{anchors.name}"
    record(tx, services.clock.now_ms(), f"trust-anchors.{what}", subject, origin, data)
    if before is None:
        return Change("trust-anchors", anchors.name, what)
    return Change("trust-anchors", anchors.name, what, differences(_encode(before), _encode(after)))


def told_of_anchors(body: str) -> dict[str, Any]:
    """A set as events tell it: the certificates by their fingerprints."""
    anchors = msgspec.json.decode(body, type=TrustAnchors)
    fingerprints = [hashlib.sha256(der).hexdigest() for der in certificates_of(anchors)]
    return {"description": anchors.description, "sha256": fingerprints}


# -- for people and for the audit log --------------------------------------------------------------------


def before_and_after(was: str | bytes | None, now: str | bytes) -> dict[str, Any]:
    """An edit as events tell it: of what was changed, what it was and what it became."""
    new = msgspec.json.decode(now)
    if was is None:
        return {"before": None, "after": new}
    old = msgspec.json.decode(was)
    changed = [field for field in sorted(old.keys() | new.keys()) if old.get(field) != new.get(field)]
    return {
        "before": {field: old.get(field) for field in changed},
        "after": {field: new.get(field) for field in changed},
    }


def differences(was: str | bytes, now: str | bytes) -> tuple[str, ...]:
    """``field: old -> new`` of each field that differs."""
    told = before_and_after(was, now)
    return tuple(
        f"{field}: {_short(old)} -> {_short(told['after'][field])}" for field, old in told["before"].items()
    )


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 100 else text[:97] + "..."
