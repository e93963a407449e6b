"""Authorities: what signs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from certloom.api import edits
from certloom.api.edits import DeclaredAuthority
from certloom.api.problems import CONFLICT, NOT_FOUND, Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, at, route
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import format_name
from certloom.pki.pem import to_pem
from certloom.store import authorities as statements
from certloom.store import configuration
from certloom.store.authorities import StoredAuthority
from certloom.store.base import Tx


class AuthorityPath(msgspec.Struct, frozen=True):
    name: Name


class AuthoritySummary(msgspec.Struct, frozen=True):
    """One line of a listing."""

    name: str
    kind: str
    """``local``: its key is here."""
    issuer: str | None
    """The authority above it; null for a root."""
    state: str
    """``active`` or ``retired``."""
    subject: str
    not_after: datetime
    sha256: str
    """Of its certificate, hexadecimal."""


class AuthorityShown(AuthoritySummary, frozen=True):
    """An authority, with its certificate."""

    created: datetime
    crl_shards: int
    options: dict[str, Any]
    """What only its kind knows."""
    certificate: str
    """PEM."""


@route(
    "GET",
    "/authorities",
    permission="authority.read",
    summary="List authorities",
    query=Paging,
    answers={200: Page[AuthoritySummary]},
    tag="authorities",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """By name."""
    after = call.position(str) or ""
    rows = await call.services.store.scan(lambda tx: statements.after(tx, after, call.limit + 1))
    return call.page([AuthoritySummary(**_summary(row)) for row in rows], lambda row: row.name)


@route(
    "GET",
    "/authorities/{name}",
    permission="authority.read",
    summary="Show an authority",
    path=AuthorityPath,
    answers={200: AuthorityShown},
    tag="authorities",
)
async def show(call: Call[AuthorityPath, None, None]) -> Answer:
    call.allow("authority.read")
    row = await call.services.store.read(lambda tx: statements.get(tx, call.path.name))
    if row is None:
        raise Problem(NOT_FOUND, f"there is no authority {call.path.name!r}")
    return Answer(_shown(row))


@route(
    "POST",
    "/authorities",
    permission="authority.write",
    summary="Make a local CA",
    body=DeclaredAuthority,
    answers={201: AuthorityShown},
    problems=(CONFLICT,),
    tag="authorities",
)
async def create(call: Call[None, None, DeclaredAuthority]) -> Answer:
    """A key, and a certificate for it: its own signature, or that of the authority named as ``issuer``."""
    services, declared = call.services, call.body
    call.allow_shared("authority.write")
    await services.refresh()
    there = {row.name for row in services.books.authority_rows()}
    if declared.name in there:
        raise Problem(CONFLICT, f"there is an authority {declared.name!r}")
    if declared.issuer is not None and declared.issuer not in there:
        raise edits.invalid(f"there is no authority {declared.issuer!r}", "$.issuer")
    ca = await edits.make_ca(services, declared)

    def unit(tx: Tx) -> Answer:
        if statements.get(tx, declared.name) is not None:
            raise Problem(CONFLICT, f"there is an authority {declared.name!r}")
        edits.put_authority(tx, services, declared, ca, call.origin)
        configuration.touch(tx)
        return Answer(_shown(ca.authority), 201, location=f"/authorities/{declared.name}")

    answer = await call.create(unit)
    await services.refresh()
    return answer


def _summary(row: StoredAuthority) -> dict[str, Any]:
    facts = parse_certificate(row.certificate)
    return {
        "name": row.name,
        "kind": row.kind,
        "issuer": row.issuer,
        "state": row.state,
        "subject": format_name(facts.subject),
        "not_after": at(facts.not_after),
        "sha256": facts.sha256.hex(),
    }


def _shown(row: StoredAuthority) -> AuthorityShown:
    return AuthorityShown(
        **_summary(row),
        created=at(row.created),
        crl_shards=row.crl_shards,
        options=msgspec.json.decode(row.body),
        certificate=to_pem(row.certificate).decode(),
    )
