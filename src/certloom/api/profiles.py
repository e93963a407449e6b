"""Profiles: looked at, and given new versions. Versions are kept for ever, since certificates name them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from certloom.api import edits
from certloom.api.problems import NOT_FOUND, Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, at, etag, route
from certloom.identity.principals import Thing
from certloom.policy.profiles import Profile, parse_profile
from certloom.store import authorities as authority_statements
from certloom.store import configuration
from certloom.store.base import Tx

Version = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1, description="A version's number.")]
ProfileTable = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="A profile's fields; durations as seconds or as text such as `90d`."
        " `name` may be left out.",
        examples=[
            {
                "authority": "issuing",
                "keys": [{"type": "ec"}],
                "names": {"types": ["dns"]},
                "extended_key_usage": ["serverAuth"],
                "validity": {"default": "90d"},
            }
        ],
    ),
]


class ProfilePath(msgspec.Struct, frozen=True):
    name: Name


class VersionPath(msgspec.Struct, frozen=True):
    name: Name
    version: Version


class ProfileSummary(msgspec.Struct, frozen=True):
    """One line of a listing."""

    name: str
    version: int
    """The newest, which counts."""
    authority: str
    description: str
    created: datetime
    """When that version was made."""


class ProfileVersion(msgspec.Struct, frozen=True):
    """One version of a profile. Durations are in seconds."""

    name: str
    version: int
    created: datetime
    profile: Profile


class VersionSummary(msgspec.Struct, frozen=True):
    """One line of a profile's history."""

    version: int
    created: datetime


@route(
    "GET",
    "/profiles",
    permission="profile.read",
    summary="List profiles",
    query=Paging,
    answers={200: Page[ProfileSummary]},
    tag="profiles",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """The newest version of each, by name."""
    after = call.position(str) or ""
    rows = await call.services.store.scan(lambda tx: configuration.newest_profiles(tx, after, call.limit + 1))
    shown = []
    for name, version, body, created in rows:
        profile = parse_profile(body)
        shown.append(ProfileSummary(name, version, profile.authority, profile.description, at(created)))
    return call.page(
        shown, lambda row: row.name, lambda row: call.may("profile.read", Thing(profile=row.name))
    )


@route(
    "GET",
    "/profiles/{name}",
    permission="profile.read",
    summary="Show a profile",
    path=ProfilePath,
    answers={200: ProfileVersion},
    etag=True,
    tag="profiles",
)
async def show(call: Call[ProfilePath, None, None]) -> Answer:
    """Its newest version; the ETag is for changing it."""
    name = call.path.name
    call.allow("profile.read", Thing(profile=name))

    def unit(tx: Tx) -> Answer:
        found = configuration.newest_profile(tx, name)
        return _shown(tx, name, None if found is None else found[0])

    return await call.services.store.read(unit)


@route(
    "GET",
    "/profiles/{name}/versions",
    permission="profile.read",
    summary="List a profile's versions",
    path=ProfilePath,
    query=Paging,
    answers={200: Page[VersionSummary]},
    tag="profiles",
)
async def versions(call: Call[ProfilePath, Paging, None]) -> Answer:
    """The newest first."""
    call.allow("profile.read", Thing(profile=call.path.name))
    before = call.position(int)
    rows = await call.services.store.scan(
        lambda tx: configuration.versions_before(tx, call.path.name, before, call.limit + 1)
    )
    if not rows and before is None:
        raise _missing(call.path.name)
    return call.page([VersionSummary(v, at(created)) for v, created in rows], lambda row: row.version)


@route(
    "GET",
    "/profiles/{name}/versions/{version}",
    permission="profile.read",
    summary="Show one version of a profile",
    path=VersionPath,
    answers={200: ProfileVersion},
    tag="profiles",
)
async def show_version(call: Call[VersionPath, None, None]) -> Answer:
    call.allow("profile.read", Thing(profile=call.path.name))
    return await call.services.store.read(
        lambda tx: msgspec.structs.replace(_shown(tx, call.path.name, call.path.version), etag=None)
    )


@route(
    "PUT",
    "/profiles/{name}",
    permission="profile.write",
    summary="Make or change a profile",
    path=ProfilePath,
    body=ProfileTable,
    answers={200: ProfileVersion, 201: ProfileVersion},
    edits=True,
    tag="profiles",
)
async def put(call: Call[ProfilePath, None, dict[str, Any]]) -> Answer:
    """Adds a version that counts from now on; certificates keep the version they were made by.

    Nothing is changed where the profile is as it was. A profile cannot be deleted; take it out of its
    channels, and nobody can ask for it there.
    """
    services, name = call.services, call.path.name
    call.allow_shared("profile.write", profile=name)
    table = {"name": name, **call.body}
    if table["name"] != name:
        raise edits.invalid(f"this is the profile {name!r}", "$.name")
    profile = edits.read_profile(table)

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        found = configuration.newest_profile(tx, name)
        call.require_match(None if found is None else etag(name, found[0]))
        edits.check_profile(profile, [row.name for row in authority_statements.every(tx)])
        change, version = edits.put_profile(tx, services, profile, call.origin)
        if change.change != "unchanged":
            configuration.touch(tx)
        return _shown(tx, name, version, 201 if found is None else 200)

    answer = await call.write(unit)
    await services.refresh()
    return answer


def _shown(tx: Tx, name: str, version: int | None, status: int = 200) -> Answer:
    found = None if version is None else configuration.profile_version(tx, name, version)
    if found is None or version is None:
        raise _missing(name, version)
    body, created = found
    shown = ProfileVersion(name, version, at(created), parse_profile(body))
    location = f"/profiles/{name}" if status == 201 else None
    return Answer(shown, status, etag=etag(name, version), location=location)


def _missing(name: str, version: int | None = None) -> Problem:
    what = f"there is no profile {name!r}" + (f" version {version}" if version else "")
    return Problem(NOT_FOUND, what)
