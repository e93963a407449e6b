"""Looking at profiles, channels and authorities."""

from __future__ import annotations

from typing import Any

import msgspec

from certloom.audit import Origin
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import format_name
from certloom.pki.pem import to_pem
from certloom.server.operations.registry import Arguments, OperationError, operation
from certloom.server.rooms import Rooms
from certloom.store.authorities import StoredAuthority


class Named(Arguments, frozen=True):
    name: str


class ProfileNamed(Named, frozen=True):
    version: int | None = None


@operation("profile.list", Arguments)
async def list_profiles(rooms: Rooms, arguments: Arguments, origin: Origin) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "version": version,
            "authority": profile.authority,
            "description": profile.description,
        }
        for name, (profile, version) in sorted(rooms.books.profiles().items())
    ]


@operation("profile.show", ProfileNamed)
async def show_profile(rooms: Rooms, arguments: ProfileNamed, origin: Origin) -> dict[str, Any]:
    profile, version = rooms.books.profile(arguments.name, arguments.version)
    return {"version": version, **msgspec.to_builtins(profile)}


@operation("channel.list", Arguments)
async def list_channels(rooms: Rooms, arguments: Arguments, origin: Origin) -> list[dict[str, Any]]:
    return [
        {
            "name": channel.name,
            "protocol": "acme",
            "profiles": channel.profiles,
            "directory": f"{rooms.origins.https}/acme/{channel.name}/directory",
        }
        for channel in rooms.books.channels()
    ]


@operation("channel.show", Named)
async def show_channel(rooms: Rooms, arguments: Named, origin: Origin) -> Any:
    channel = rooms.books.acme_channel(arguments.name)
    if channel is None:
        raise OperationError("not-found", f"there is no channel {arguments.name!r}")
    return msgspec.to_builtins(channel)


@operation("authority.list", Arguments)
async def list_authorities(rooms: Rooms, arguments: Arguments, origin: Origin) -> list[dict[str, Any]]:
    return [_summary(row) for row in rooms.books.authority_rows()]


@operation("authority.show", Named)
async def show_authority(rooms: Rooms, arguments: Named, origin: Origin) -> dict[str, Any]:
    row = rooms.books.authority_row(arguments.name)
    return {
        **_summary(row),
        "crl_shards": row.crl_shards,
        "options": msgspec.json.decode(row.body),
        "certificate": to_pem(row.certificate).decode(),
    }


def _summary(row: StoredAuthority) -> dict[str, Any]:
    facts = parse_certificate(row.certificate)
    return {
        "name": row.name,
        "kind": row.kind,
        "issuer": row.issuer,
        "state": row.state,
        "subject": format_name(facts.subject),
        "not_after": facts.not_after,
        "sha256": facts.sha256.hex(),
    }
