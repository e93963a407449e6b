"""Changes of the configuration, as units: what ``PUT`` of one thing and a whole declaration have in common.

Each puts one thing into the database if it differs from what is there, records an event with what was before
and after, and says what became of it. The caller has checked what the thing refers to, and calls
``configuration.touch`` once something changed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import msgspec

from certloom.api.problems import CONFLICT, INVALID, UNAVAILABLE, Problem
from certloom.api.routing import Name
from certloom.api.services import Services
from certloom.audit import Origin, record
from certloom.authorities.creation import NewCA, make_local_ca
from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.pki import names as x501
from certloom.pki.certificates import parse_certificate
from certloom.policy.channels import Channel
from certloom.policy.profiles import Profile, ProfileError, encode_profile, parse_profile
from certloom.signing import SigningRefused, SigningUnavailable
from certloom.store import authorities as authority_statements
from certloom.store import configuration
from certloom.store.authorities import StoredAuthority
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


class DeclaredAuthority(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A local CA. What it is cannot change once it is made."""

    name: Name
    subject: str
    """Such as ``CN=Devices CA, O=Example``."""
    issuer: str | None = None
    """The authority above it; none makes a root."""
    key: str = "P-256"
    """``P-256``, ``P-384``, ``RSA-3072``, ``ML-DSA-65`` ..."""
    days: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 3650
    """How long its certificate is valid, unless its issuer's ends before."""
    crl_shards: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    """Over how many CRLs its certificates are spread."""


def invalid(what: str, path: str) -> Problem:
    """422, with the place in the document."""
    return Problem(INVALID, f"{what} - at `{path}`")


# -- profiles --------------------------------------------------------------------------------------------


def read_profile(table: dict[str, Any], path: str = "$") -> Profile:
    """A profile out of a table. Raises ``Problem``."""
    try:
        return parse_profile(table)
    except ProfileError as error:
        raise invalid(error.message, path + error.path.removeprefix("$")) from None


def check_profile(profile: Profile, authorities: Collection[str], path: str = "$") -> None:
    """Raises ``Problem`` where it names an authority that is not there."""
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


def check_channel(channel: Channel, profiles: Collection[str], path: str = "$") -> None:
    """Raises ``Problem`` for what refers to nothing, or could not work."""
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
    new, body = encode_channel(channel), configuration.channel(tx, "acme", channel.name)
    if body is not None and msgspec.json.decode(body, type=Channel) == channel:
        return Change("channel", channel.name, "unchanged")
    configuration.put_channel(tx, "acme", channel.name, new, services.clock.now())
    what = "created" if body is None else "changed"
    subject = f"channel:acme/{channel.name}"
    record(tx, services.clock.now_ms(), f"channel.{what}", subject, origin, before_and_after(body, new))
    return Change("channel", channel.name, what, () if body is None else differences(body, new))


# -- authorities -----------------------------------------------------------------------------------------


def read_subject(declared: DeclaredAuthority, path: str = "$") -> x501.Name:
    """Its distinguished name. Raises ``Problem``."""
    try:
        return x501.parse_name(declared.subject)
    except x501.BadName as error:
        raise invalid(str(error), f"{path}.subject") from None


async def make_ca(
    services: Services, declared: DeclaredAuthority, above: NewCA | None = None, path: str = "$"
) -> NewCA:
    """Make a CA's key and certificate, outside any unit: keys take their time. Raises ``Problem``."""
    issuer: StoredAuthority | None = None
    if above is not None:
        issuer = above.authority
    elif declared.issuer is not None:
        issuer = services.books.authority_row(declared.issuer)
    try:
        return await make_local_ca(
            services.signing,
            services.clock,
            URLs(services.origins.http),
            name=declared.name,
            subject=read_subject(declared, path),
            days=declared.days,
            algorithm=declared.key,
            crl_shards=declared.crl_shards,
            issuer=issuer,
        )
    except SigningUnavailable as error:
        raise Problem(UNAVAILABLE, str(error)) from error
    except SigningRefused as error:
        if error.code == "bad-request":
            raise invalid(str(error), path) from None
        raise Problem(CONFLICT, str(error)) from error


def put_authority(
    tx: Tx, services: Services, declared: DeclaredAuthority, ca: NewCA | None, origin: Origin
) -> Change:
    """Store a new CA, or see that there is one like it. Raises ``Problem`` for one that is not."""
    row = authority_statements.get(tx, declared.name)
    if row is not None:
        same = (
            row.kind == KIND
            and row.issuer == declared.issuer
            and row.crl_shards == declared.crl_shards
            and msgspec.json.decode(row.body, type=LocalBody).generate_as == declared.key
            and parse_certificate(row.certificate).subject == x501.parse_name(declared.subject)
        )
        if not same:
            raise Problem(
                CONFLICT, f"authority {declared.name!r} exists and is not what is declared; it cannot change"
            )
        return Change("authority", declared.name, "unchanged")
    if ca is not None:
        ca.store(tx)
        data = before_and_after(None, _encode(declared))
        subject = f"authority:{declared.name}"
        record(tx, services.clock.now_ms(), "authority.created", subject, origin, data)
    details = (x501.format_name(x501.parse_name(declared.subject)),)
    return Change("authority", declared.name, "created", details)


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
