"""Authorities: what signs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from certloom.api.authority_edits import (
    AuthorityOptions,
    DeclaredAuthority,
    make_ca,
    put_authority,
    put_options,
)
from certloom.api.edits import invalid
from certloom.api.problems import CONFLICT, NOT_FOUND, Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, at, at_or_none, etag, route
from certloom.authorities.generations import NEXT, body_of
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import format_name
from certloom.pki.pem import to_pem
from certloom.store import authorities as statements
from certloom.store import configuration
from certloom.store.authorities import StoredAuthority, StoredGeneration
from certloom.store.base import Tx


class AuthorityPath(msgspec.Struct, frozen=True):
    name: Name


class AuthoritySummary(msgspec.Struct, frozen=True):
    """One line of a listing."""

    name: str
    kind: str
    """``local``: its key is here."""
    issuer: str | None
    """The authority above it; null for a root, and where it is a stranger."""
    state: str
    """``active``, ``retired`` (it issues no more) or ``pending`` (its CSR waits for a certificate)."""
    subject: str
    not_after: datetime | None
    """Null while it has no certificate."""
    sha256: str
    """Of its certificate, hexadecimal."""


class AuthorityShown(AuthoritySummary, frozen=True):
    """An authority, with its certificate."""

    created: datetime
    crl_shards: int
    generation: int
    """The one that is issued from."""
    key: str
    """The kind of its key: ``P-256`` ..."""
    key_in: str
    """The PKCS#11 URI of its key; empty for one in software."""
    options: dict[str, Any]
    """What can change."""
    certificate: str
    """PEM; empty while it has none."""
    csr: str
    """PEM, of what waits for a certificate; empty where nothing does."""


_FIXED = (
    "is in its certificate and cannot change; a next generation can have another (certloom authority prepare)"
)


class AuthorityChange(AuthorityOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to change."""

    state: Literal["active", "retired"] | UnsetType = UNSET
    """A retired authority issues no more; its CRLs and OCSP answers go on."""
    subject: Any = UNSET
    """Cannot change: it is in the certificate. So are ``key``, ``days``, ``path_length``, ``permitted`` and
    ``excluded``."""
    key: Any = UNSET
    days: Any = UNSET
    path_length: Any = UNSET
    permitted: Any = UNSET
    excluded: Any = UNSET
    issuer: Any = UNSET
    """Cannot change."""
    crl_shards: Any = UNSET
    """Cannot change: certificates name the CRL of their shard."""


_IN_CERTIFICATE = ("subject", "key", "days", "path_length", "permitted", "excluded")


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

    def unit(tx: Tx) -> list[AuthoritySummary]:
        rows = statements.after(tx, after, call.limit + 1)
        return [AuthoritySummary(**_summary(row, statements.generations(tx, row.name))) for row in rows]

    rows = await call.services.store.scan(unit)
    return call.page(rows, lambda row: row.name)


@route(
    "GET",
    "/authorities/{name}",
    permission="authority.read",
    summary="Show an authority",
    path=AuthorityPath,
    answers={200: AuthorityShown},
    etag=True,
    tag="authorities",
)
async def show(call: Call[AuthorityPath, None, None]) -> Answer:
    """The ETag is for changing it."""
    call.allow("authority.read")
    return await call.services.store.scan(lambda tx: shown(tx, find(tx, call.path.name)))


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
    """A key, and a certificate for it: its own signature, or that of the authority named as ``issuer``; or,
    with ``by_request``, a CSR for a CA elsewhere."""
    services, declared = call.services, call.body
    call.allow_shared("authority.write")
    await services.refresh()
    await check_free(call, declared.name)
    if declared.issuer is not None and declared.issuer not in {
        row.name for row in services.books.authority_rows()
    }:
        raise invalid(f"there is no authority {declared.issuer!r}", "$.issuer")
    ca = await make_ca(services, declared)

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        refuse_taken(tx, declared.name)
        put_authority(tx, services, declared, ca, call.origin)
        configuration.touch(tx)
        return shown(tx, find(tx, declared.name), 201)

    answer = await call.create(unit)
    await services.refresh()
    return answer


@route(
    "PATCH",
    "/authorities/{name}",
    permission="authority.write",
    summary="Change an authority",
    path=AuthorityPath,
    body=AuthorityChange,
    answers={200: AuthorityShown},
    problems=(CONFLICT,),
    edits=True,
    tag="authorities",
)
async def change(call: Call[AuthorityPath, None, AuthorityChange]) -> Answer:
    """Its options, and whether it issues. What is in its certificate stays as it is."""
    services, given = call.services, call.body.given()
    call.allow_shared("authority.write")
    for field in _IN_CERTIFICATE:
        if field in given:
            raise Problem(CONFLICT, f"{field} {_FIXED}")
    for field, why in (
        ("issuer", "who issued its certificate cannot change"),
        ("crl_shards", "the number of CRLs cannot change: certificates name the one of their shard"),
    ):
        if field in given:
            raise Problem(CONFLICT, why)

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        row = find(tx, call.path.name, lock=True)
        call.require_match(tag_of(row, statements.generations(tx, row.name)))
        changed = put_options(tx, services, row, given, call.origin)
        if changed.change != "unchanged":
            configuration.touch(tx)
        return shown(tx, find(tx, row.name))

    answer = await call.write(unit)
    await services.refresh()
    return answer


# -- for the other resources about authorities -----------------------------------------------------------


def find(tx: Tx, name: str, *, lock: bool = False) -> StoredAuthority:
    """Raises ``Problem``."""
    row = statements.get(tx, name, lock=lock)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no authority {name!r}")
    return row


async def check_free(call: Call[Any, Any, Any], name: str) -> None:
    """Before keys are made. Raises ``Problem`` where the name is taken."""
    await call.services.store.read(lambda tx: refuse_taken(tx, name))


def refuse_taken(tx: Tx, name: str) -> None:
    """Raises ``Problem``."""
    if statements.get(tx, name) is not None:
        raise Problem(CONFLICT, f"there is an authority {name!r}")


def tag_of(row: StoredAuthority, generations: Sequence[StoredGeneration]) -> str:
    """Its ETag."""
    states = [(g.generation, g.state, g.certificate is not None, g.body) for g in generations]
    return etag(row.name, row.state, row.body, row.generation, states)


def shown(tx: Tx, row: StoredAuthority, status: int = 200) -> Answer:
    """An authority as an answer."""
    generations = statements.generations(tx, row.name)
    waiting = next((g for g in generations if g.state == NEXT and g.certificate is None), None)
    current = next((g for g in generations if g.generation == row.generation), None)
    body = None if current is None else body_of(current)
    key = "" if body is None else body.algorithm
    if not key and row.certificate:
        facts = parse_certificate(row.certificate).key
        key = "" if facts is None else facts.key_type
    options = msgspec.json.decode(row.body)
    for hidden in ("generate_as", "cross_certificates"):
        options.pop(hidden, None)
    value = AuthorityShown(
        **_summary(row, generations),
        created=at(row.created),
        crl_shards=row.crl_shards,
        generation=row.generation,
        key=key,
        key_in="" if body is None else body.token,
        options=options,
        certificate=to_pem(row.certificate).decode() if row.certificate else "",
        csr="" if waiting is None or waiting.csr is None else csr_pem(waiting.csr),
    )
    location = f"/authorities/{row.name}" if status == 201 else None
    return Answer(value, status, etag=tag_of(row, generations), location=location)


def csr_pem(csr: bytes) -> str:
    """A PKCS #10 request as text (RFC 7468 section 7)."""
    return to_pem(csr, "CERTIFICATE REQUEST").decode()


def _summary(row: StoredAuthority, generations: Sequence[StoredGeneration]) -> dict[str, Any]:
    facts = parse_certificate(row.certificate) if row.certificate else None
    asked = body_of(generations[0]).subject if facts is None and generations else ""
    return {
        "name": row.name,
        "kind": row.kind,
        "issuer": row.issuer,
        "state": row.state,
        "subject": asked if facts is None else format_name(facts.subject),
        "not_after": at_or_none(None if facts is None else facts.not_after),
        "sha256": "" if facts is None else facts.sha256.hex(),
    }
