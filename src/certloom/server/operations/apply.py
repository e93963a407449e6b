"""``certloom apply``: profiles, channels, credentials and authorities as one document declares them.

Everything is checked before anything is written, and written in one unit: all or nothing. What a document
does not mention stays as it is. A profile gets a new version only if it differs from its newest one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from certloom.audit import Origin, record
from certloom.authorities.creation import NewCA, make_local_ca, open_key
from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.identity.credentials import EABCredential
from certloom.pki.certificates import parse_certificate
from certloom.pki.keys import PrivateKey
from certloom.pki.names import BadName, Name, format_name, parse_name
from certloom.policy.channels import ACMEChannel
from certloom.policy.profiles import Profile, ProfileError, encode_profile, parse_profile
from certloom.server.operations.credentials import check_names, shown_once
from certloom.server.operations.registry import Arguments, OperationError, operation
from certloom.server.rooms import Rooms
from certloom.store import authorities as authority_statements
from certloom.store import configuration
from certloom.store import credentials as credential_statements
from certloom.store.authorities import StoredAuthority
from certloom.store.base import Tx

_NAME = msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")
_CHALLENGES = frozenset({"http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"})
_encode = msgspec.json.Encoder(order="deterministic").encode


class DeclaredCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An external account binding of an id that its operator chose; its key is made here and shown once."""

    id: Annotated[str, _NAME]
    channel: str
    names: tuple[str, ...] = ()
    preauthorized: bool = False
    uses: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many accounts it may bind, counted from when it is made."""
    expires: datetime | None = None


class DeclaredAuthority(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A local CA. What it is cannot change once it is made."""

    name: Annotated[str, _NAME]
    subject: str
    """Such as ``CN=Devices CA, O=Example``."""
    issuer: str | None = None
    """The authority above it; none makes a root."""
    key: str = "P-256"
    days: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 3650
    crl_shards: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file declares. Profiles stay tables until ``parse_profile`` reads them."""

    authorities: tuple[DeclaredAuthority, ...] = ()
    profiles: tuple[dict[str, Any], ...] = ()
    channels: tuple[ACMEChannel, ...] = ()
    credentials: tuple[DeclaredCredential, ...] = ()


class Apply(Arguments, frozen=True):
    document: dict[str, Any]
    dry_run: bool = False


class Change(msgspec.Struct, frozen=True):
    """What became, or would become, of one thing."""

    kind: str
    name: str
    change: str
    """``created``, ``changed`` or ``unchanged``."""
    details: tuple[str, ...] = ()


class _DryRun(Exception):
    """Rolls the unit back."""


@operation("apply", Apply)
async def apply(rooms: Rooms, arguments: Apply, origin: Origin) -> dict[str, Any]:
    document, profiles = _read(arguments.document)
    await rooms.refresh()
    _check(rooms, document, profiles)
    new_cas = {} if arguments.dry_run else await _make_cas(rooms, document)
    changes: list[Change] = []
    made: list[EABCredential] = []

    def unit(tx: Tx) -> None:
        changes.clear()
        made.clear()
        for authority in document.authorities:
            changes.append(_put_authority(tx, rooms, authority, new_cas, origin))
        for profile in profiles:
            changes.append(_put_profile(tx, rooms, profile, origin))
        for channel in document.channels:
            changes.append(_put_channel(tx, rooms, channel, origin))
        for credential in document.credentials:
            changes.append(_put_credential(tx, rooms, credential, made, origin))
        if any(change.change != "unchanged" for change in changes):
            configuration.touch(tx)
        if arguments.dry_run:
            raise _DryRun

    try:
        await rooms.store.write(unit)
        await rooms.refresh()
    except _DryRun:
        made.clear()
    return {
        "dry_run": arguments.dry_run,
        "changes": msgspec.to_builtins(changes),
        "secrets": [shown_once(eab) for eab in made],
    }


def _read(tree: dict[str, Any]) -> tuple[Document, list[Profile]]:
    try:
        document = msgspec.convert(tree, Document, strict=False)
    except msgspec.ValidationError as error:
        raise OperationError("bad-document", str(error)) from None
    profiles = []
    for i, table in enumerate(document.profiles):
        try:
            profiles.append(parse_profile(table))
        except ProfileError as error:
            path = f"$.profiles[{i}]{error.path.removeprefix('$')}"
            raise OperationError("bad-document", f"{error.message} - at `{path}`") from None
    return document, profiles


def _check(rooms: Rooms, document: Document, profiles: list[Profile]) -> None:
    """Raises ``OperationError`` for what refers to nothing, or could not work."""
    for kind, names in (
        ("authorities", [a.name for a in document.authorities]),
        ("profiles", [p.name for p in profiles]),
        ("channels", [c.name for c in document.channels]),
        ("credentials", [c.id for c in document.credentials]),
    ):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise OperationError("bad-document", f"{kind} declares {sorted(twice)[0]!r} twice")
    authorities = {row.name for row in rooms.books.authority_rows()}
    for i, authority in enumerate(document.authorities):
        _subject(authority, i)
        if authority.issuer is not None and authority.issuer not in authorities:
            raise _bad(f"authorities[{i}].issuer", f"there is no authority {authority.issuer!r}")
        authorities.add(authority.name)
    for i, profile in enumerate(profiles):
        if profile.authority not in authorities:
            raise _bad(f"profiles[{i}].authority", f"there is no authority {profile.authority!r}")
    known = {profile.name for profile in profiles} | rooms.books.profiles().keys()
    for i, channel in enumerate(document.channels):
        _check_channel(channel, f"channels[{i}]", known)
    channels = {channel.name for channel in document.channels}
    for i, credential in enumerate(document.credentials):
        if credential.channel not in channels and rooms.books.acme_channel(credential.channel) is None:
            raise _bad(f"credentials[{i}].channel", f"there is no ACME channel {credential.channel!r}")
        check_names(credential.names, credential.preauthorized, f"$.credentials[{i}]")
        if credential.expires is not None and credential.expires.tzinfo is None:
            raise _bad(f"credentials[{i}].expires", "a time without its zone")


def _check_channel(channel: ACMEChannel, path: str, profiles: set[str]) -> None:
    for name in channel.profiles:
        if name not in profiles:
            raise _bad(f"{path}.profiles", f"there is no profile {name!r}")
    for name in channel.profile_descriptions:
        if name not in channel.profiles:
            raise _bad(f"{path}.profile_descriptions", f"the channel does not offer {name!r}")
    unknown = [name for name in channel.challenges if name not in _CHALLENGES]
    if unknown:
        raise _bad(f"{path}.challenges", f"{unknown[0]!r} is none of {', '.join(sorted(_CHALLENGES))}")
    if not channel.caa_identities and (channel.caa or "dns-persist-01" in channel.challenges):
        raise _bad(f"{path}.caa_identities", "needed for CAA and dns-persist-01")


def _bad(path: str, what: str) -> OperationError:
    return OperationError("bad-document", f"{what} - at `$.{path}`")


def _subject(authority: DeclaredAuthority, index: int) -> Name:
    try:
        return parse_name(authority.subject)
    except BadName as error:
        raise _bad(f"authorities[{index}].subject", str(error)) from None


async def _make_cas(rooms: Rooms, document: Document) -> dict[str, NewCA]:
    """Make the CAs that are not there yet, outside the unit: keys take their time."""
    made: dict[str, NewCA] = {}
    there = {row.name: row for row in rooms.books.authority_rows()}
    for i, declared in enumerate(document.authorities):
        if declared.name in there:
            continue
        issuer: tuple[StoredAuthority, PrivateKey] | None = None
        if declared.issuer is not None:
            above = made.get(declared.issuer)
            if above is not None:
                issuer = (above.authority, above.private_key)
            else:
                issuer = await _issuer(rooms, there[declared.issuer])
        try:
            made[declared.name] = make_local_ca(
                rooms.data_key,
                rooms.clock,
                URLs(rooms.origins.http),
                name=declared.name,
                subject=_subject(declared, i),
                days=declared.days,
                algorithm=declared.key,
                crl_shards=declared.crl_shards,
                issuer=issuer,
            )
        except ValueError as error:
            raise _bad(f"authorities[{i}]", str(error)) from None
    return made


async def _issuer(rooms: Rooms, row: StoredAuthority) -> tuple[StoredAuthority, PrivateKey]:
    key_id = row.key_id
    key = await rooms.store.read(lambda tx: authority_statements.key(tx, key_id)) if key_id else None
    if key is None:
        raise OperationError("no-key", f"the key of authority {row.name!r} is not here")
    return row, open_key(rooms.data_key, key)


def _put_authority(
    tx: Tx, rooms: Rooms, declared: DeclaredAuthority, new: dict[str, NewCA], origin: Origin
) -> Change:
    row = next((a for a in authority_statements.every(tx) if a.name == declared.name), None)
    if row is not None:
        same = (
            row.kind == KIND
            and row.issuer == declared.issuer
            and row.crl_shards == declared.crl_shards
            and msgspec.json.decode(row.body, type=LocalBody).generate_as == declared.key
            and parse_certificate(row.certificate).subject == parse_name(declared.subject)
        )
        if not same:
            raise OperationError(
                "immutable",
                f"authority {declared.name!r} exists and is not what is declared; it cannot change",
            )
        return Change("authority", declared.name, "unchanged")
    ca = new.get(declared.name)
    if ca is not None:
        authority_statements.insert_key(tx, ca.key)
        authority_statements.insert(tx, ca.authority)
        _record(tx, rooms, "authority.created", f"authority:{declared.name}", origin)
    return Change("authority", declared.name, "created", (format_name(parse_name(declared.subject)),))


def _put_profile(tx: Tx, rooms: Rooms, profile: Profile, origin: Origin) -> Change:
    version, body = configuration.current_profiles(tx).get(profile.name, (0, ""))
    new = encode_profile(profile)
    # Compared as it would be stored today: a default that came later is no difference.
    if body and encode_profile(parse_profile(body)) == new:
        return Change("profile", profile.name, "unchanged", (f"version {version}",))
    configuration.add_profile_version(tx, profile.name, version + 1, new, rooms.clock.now())
    what = "changed" if version else "created"
    _record(tx, rooms, f"profile.{what}", f"profile:{profile.name}", origin, {"version": version + 1})
    details = (f"version {version + 1}", *_differences(body, new)) if version else (f"version {version + 1}",)
    return Change("profile", profile.name, what, details)


def _put_channel(tx: Tx, rooms: Rooms, channel: ACMEChannel, origin: Origin) -> Change:
    stored = {name: body for protocol, name, body in configuration.channels(tx) if protocol == "acme"}
    new, body = _encode(channel).decode(), stored.get(channel.name)
    if body is not None and msgspec.json.decode(body, type=ACMEChannel) == channel:
        return Change("channel", channel.name, "unchanged")
    configuration.put_channel(tx, "acme", channel.name, new, rooms.clock.now())
    what = "created" if body is None else "changed"
    _record(
        tx, rooms, f"channel.{what}", f"channel:acme/{channel.name}", origin, msgspec.to_builtins(channel)
    )
    return Change("channel", channel.name, what, () if body is None else _differences(body, new))


def _put_credential(
    tx: Tx, rooms: Rooms, declared: DeclaredCredential, made: list[EABCredential], origin: Origin
) -> Change:
    expires = None if declared.expires is None else int(declared.expires.timestamp())
    stored = credential_statements.get(tx, declared.id)
    if stored is None:
        made.append(
            rooms.credentials.create_eab(
                tx,
                id=declared.id,
                channel=declared.channel,
                names=declared.names,
                preauthorized=declared.preauthorized,
                uses=declared.uses,
                expires=expires,
                origin=origin,
            )
        )
        return Change("credential", declared.id, "created", (f"channel {declared.channel}",))
    if stored.kind != "acme-eab" or stored.channel != declared.channel or stored.revoked is not None:
        raise OperationError(
            "immutable", f"credential {declared.id!r} exists and is of another kind or channel, or revoked"
        )
    was = {"names": stored.names, "preauthorized": stored.preauthorized, "expires": stored.expires}
    now = {"names": declared.names, "preauthorized": declared.preauthorized, "expires": expires}
    if was == now:
        return Change("credential", declared.id, "unchanged")
    credential_statements.set_terms(tx, declared.id, declared.names, declared.preauthorized, expires)
    _record(tx, rooms, "credential.changed", f"credential:{declared.id}", origin, now)
    return Change("credential", declared.id, "changed", _differences(_encode(was), _encode(now)))


def _record(
    tx: Tx, rooms: Rooms, kind: str, subject: str, origin: Origin, data: dict[str, Any] | None = None
) -> None:
    record(tx, rooms.clock.now_ms(), kind, subject, origin, data)


def _differences(was: str | bytes, now: str | bytes) -> tuple[str, ...]:
    """``field: old -> new`` of each field that differs."""
    old, new = msgspec.json.decode(was), msgspec.json.decode(now)
    return tuple(
        f"{field}: {_short(old.get(field))} -> {_short(new.get(field))}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    )


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 100 else text[:97] + "..."
