"""Generations of authorities, and rolling over from one to the next."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from certloom.api.authorities import AuthorityPath, AuthorityShown, csr_pem, find, shown
from certloom.api.authority_edits import (
    Days,
    PathLength,
    Texts,
    TokenURI,
    read_subject,
    read_usages,
    told,
)
from certloom.api.problems import CONFLICT, REFUSED, UNAVAILABLE
from certloom.api.routing import Answer, Call, Name, Page, at, at_or_none, route
from certloom.authorities import rollover, standing
from certloom.authorities.certifying import HierarchyError
from certloom.authorities.generations import PAST, CATerms, body_of, is_root
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import decode, format_name
from certloom.pki.pem import to_pem
from certloom.store import authorities as statements
from certloom.store import configuration
from certloom.store.authorities import StoredAuthority, StoredGeneration
from certloom.store.base import Tx


class GenerationPath(msgspec.Struct, frozen=True):
    name: Name
    generation: Annotated[int, msgspec.Meta(ge=1, le=99999)]


class OtherCertificate(msgspec.Struct, frozen=True):
    """Another certificate for a generation's name and key."""

    kind: Literal["link", "cross-certificate"]
    """A link certificate is by another generation of the same authority (RFC 9810 section 4.4)."""
    issuer: str
    """Its issuer's name (RFC 4514)."""
    not_after: datetime
    sha256: str
    certificate: str
    """PEM."""


class Generation(msgspec.Struct, frozen=True):
    """A key of an authority, and the CA certificate for it."""

    generation: int
    state: str
    """``next``, ``current`` (issued from), ``past`` (its CRLs and OCSP answers go on) or ``retired``."""
    root: bool
    """Whether clients are to trust its certificate as it is."""
    issuer: str | None
    """The authority above it; null for a root, and where it is a stranger."""
    subject: str
    key: str
    key_in: str
    not_after: datetime | None
    created: datetime
    published: datetime | None
    """Since when its certificate is given out."""
    activated: datetime | None
    ended: datetime | None
    sha256: str
    certificate: str
    """PEM; empty while it has none."""
    csr: str
    """PEM, while it waits for its certificate."""
    others: tuple[OtherCertificate, ...]


class NextGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a next generation is to be like; what is left out is as in the current one."""

    key: str | None = None
    """``P-256``, ``rsa-3072``, ``ml-dsa-65`` ..."""
    key_in: TokenURI | Literal["software"] | None = None
    """The PKCS#11 URI of its key; needed where the current key is in a token."""
    attach: bool = False
    """The key is in the token already."""
    days: Days | None = None
    subject: str | None = None
    path_length: PathLength | Literal["unlimited"] | None = None
    permitted: Texts | None = None
    excluded: Texts | None = None
    policies: Texts | None = None
    cps: str | None = None
    extended_key_usage: Texts | None = None
    by_request: bool = False
    """Make a CSR, although its issuer is here."""


class Force(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether to do it although something stands against it."""

    force: bool = False


class Dependents(msgspec.Struct, frozen=True):
    """Valid certificates of one profile."""

    profile: str
    certificates: int
    last_expires: datetime


class BelowIt(msgspec.Struct, frozen=True):
    """A CA with a certificate by this generation."""

    subject: str
    authority: str
    """Its name here; empty for a CA elsewhere."""
    generation: int
    last_expires: datetime


class Standing(msgspec.Struct, frozen=True):
    """A generation, and what stands on it."""

    generation: int
    state: str
    subject: str
    not_after: datetime | None
    certificates: tuple[Dependents, ...]
    authorities: tuple[BelowIt, ...]
    crls: int
    """How many of its CRLs are published."""
    ocsp_responders: int


class Rollover(msgspec.Struct, frozen=True):
    """Where a rollover stands."""

    authority: str
    step: Literal["prepare", "install", "activate", "retire"]
    """What comes next; ``prepare`` where none is under way."""
    generation: int | None
    """The one that the step is about."""
    ready: bool
    at: datetime | None
    """When it may be done at the earliest, as far as can be said."""
    waits_for: tuple[str, ...]
    generations: tuple[Standing, ...]


@route(
    "GET",
    "/authorities/{name}/generations",
    permission="authority.read",
    summary="List an authority's generations",
    path=AuthorityPath,
    answers={200: Page[Generation]},
    tag="authorities",
)
async def listing(call: Call[AuthorityPath, None, None]) -> Answer:
    """All of them, the oldest first."""
    call.allow("authority.read")

    def unit(tx: Tx) -> Answer:
        row = find(tx, call.path.name)
        return Answer(Page(tuple(_shown(g) for g in statements.generations(tx, row.name))))

    return await call.services.store.scan(unit)


@route(
    "POST",
    "/authorities/{name}/generations",
    permission="authority.write",
    summary="Prepare an authority's next generation",
    path=AuthorityPath,
    body=NextGeneration,
    answers={201: Generation},
    problems=(CONFLICT, REFUSED, UNAVAILABLE),
    tag="authorities",
)
async def prepare(call: Call[AuthorityPath, None, NextGeneration]) -> Answer:
    """A key, and a certificate by who issued the current one: itself, the authority above it, or, by way of a
    CSR, a CA elsewhere. A root gets link certificates too. Nothing is issued from it yet."""
    services, given = call.services, call.body
    call.allow_shared("authority.write")
    await services.refresh()
    row, here = await services.store.scan(lambda tx: _row(tx, call.path.name))
    current = next((g for g in here if g.generation == row.generation), here[-1])
    now = services.clock.now()
    with told():
        wish = rollover.Wish(
            algorithm=given.key,
            days=given.days,
            subject=None if given.subject is None else read_subject(given.subject),
            token=given.key_in,
            attach=given.attach,
            terms=_terms(body_of(current).terms, given),
            by_request=given.by_request,
        )
        made = await rollover.prepare(
            services.certifier,
            services.signing,
            services.clock,
            row,
            tuple(here),
            services.books.authority_row,
            wish,
        )

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        with told():
            stored = made.store(tx, now, call.origin)
        configuration.touch(tx)
        return Answer(_shown(stored), 201, location=f"/authorities/{row.name}/generations")

    answer = await call.create(unit)
    await services.refresh()
    if made.generation.certificate is not None:
        # Who meets its certificates will ask for them.
        await services.crls.refresh()
    return answer


@route(
    "POST",
    "/authorities/{name}/generations/{generation}/activation",
    permission="authority.write",
    summary="Issue from the next generation",
    path=GenerationPath,
    body=Force,
    answers={200: AuthorityShown},
    problems=(CONFLICT,),
    tag="authorities",
)
async def activate(call: Call[GenerationPath, None, Force]) -> Answer:
    """The current generation is a past one then. Refused, unless forced, while clients may not have the new
    root yet, or its CRLs are not published."""
    services = call.services
    call.allow_shared("authority.write")
    await services.refresh()
    await services.crls.refresh()

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        row = find(tx, call.path.name, lock=True)
        with told():
            rollover.activate(
                tx,
                row,
                call.path.generation,
                services.clock.now(),
                call.origin,
                force=call.body.force,
            )
        configuration.touch(tx)
        return shown(tx, find(tx, row.name))

    answer = await call.create(unit)
    await services.refresh()
    return answer


@route(
    "POST",
    "/authorities/{name}/generations/{generation}/retirement",
    permission="authority.write",
    summary="Sign nothing more with a generation",
    path=GenerationPath,
    body=Force,
    answers={200: AuthorityShown},
    problems=(CONFLICT,),
    tag="authorities",
)
async def retire(call: Call[GenerationPath, None, Force]) -> Answer:
    """A past one whose certificates have all expired or are revoked; with ``force``, also before: they lose
    their CRLs and OCSP answers. A next one that is not wanted after all."""
    services, number = call.services, call.path.generation
    call.allow_shared("authority.write")
    row = await services.store.read(lambda tx: find(tx, call.path.name))
    now = services.clock.now()
    if not call.body.force:
        with told():
            found = await standing.standing_of(services.store, row, number, now)
            against = standing.what_stands_on(found, now)
            if found.generation.state == PAST and against:
                raise HierarchyError("; ".join(["these still need it", *against]), conflict=True)

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        row = find(tx, call.path.name, lock=True)
        with told():
            rollover.retire_generation(tx, row, number, now, call.origin)
        configuration.touch(tx)
        return shown(tx, find(tx, row.name))

    answer = await call.create(unit)
    await services.refresh()
    return answer


@route(
    "GET",
    "/authorities/{name}/rollover",
    permission="authority.read",
    summary="Show where an authority's rollover stands",
    path=AuthorityPath,
    answers={200: Rollover},
    tag="authorities",
)
async def progress(call: Call[AuthorityPath, None, None]) -> Answer:
    """The next step, when it may be done, and what still stands on each generation."""
    services = call.services
    call.allow("authority.read")
    row = await services.store.read(lambda tx: find(tx, call.path.name))
    found = await standing.progress(services.store, row, services.clock.now())
    return Answer(
        Rollover(
            row.name,
            found.step,
            found.generation,
            found.ready,
            at_or_none(found.at),
            found.why,
            tuple(_standing(each) for each in found.standings),
        )
    )


def _row(tx: Tx, name: str) -> tuple[StoredAuthority, list[StoredGeneration]]:
    return find(tx, name), statements.generations(tx, name)


def _terms(now: CATerms, given: NextGeneration) -> CATerms:
    changed: dict[str, object] = {}
    if given.path_length is not None:
        changed["path_length"] = None if given.path_length == "unlimited" else given.path_length
    for field in ("permitted", "excluded", "policies", "cps"):
        value = getattr(given, field)
        if value is not None:
            changed[field] = value
    if given.extended_key_usage is not None:
        changed["extended_key_usage"] = read_usages(given.extended_key_usage)
    return msgspec.structs.replace(now, **changed)


def _standing(s: standing.Standing) -> Standing:
    g = s.generation
    facts = None if g.certificate is None else parse_certificate(g.certificate)
    return Standing(
        g.generation,
        g.state,
        body_of(g).subject if facts is None else format_name(facts.subject),
        None if facts is None else at(facts.not_after),
        tuple(Dependents(c.profile, c.certificates, at(c.last_expires)) for c in s.certificates),
        tuple(BelowIt(c.subject, c.authority, c.generation, at(c.last_expires)) for c in s.cas),
        s.crls,
        s.ocsp_responders,
    )


def _shown(g: StoredGeneration) -> Generation:
    facts = None if g.certificate is None else parse_certificate(g.certificate)
    body = body_of(g)
    others = []
    for other in body.others:
        about = parse_certificate(other.certificate)
        others.append(
            OtherCertificate(
                "link" if other.link else "cross-certificate",
                format_name(decode(about.issuer_der)),
                at(about.not_after),
                about.sha256.hex(),
                to_pem(other.certificate).decode(),
            )
        )
    key = body.algorithm
    if not key and facts is not None and facts.key is not None:
        key = facts.key.key_type
    return Generation(
        generation=g.generation,
        state=g.state,
        root=is_root(g),
        issuer=g.issuer,
        subject=body.subject if facts is None else format_name(facts.subject),
        key=key,
        key_in=body.token,
        not_after=None if facts is None else at(facts.not_after),
        created=at(g.created),
        published=None if facts is None else at(body.trusted_since or g.created),
        activated=at_or_none(g.activated),
        ended=at_or_none(g.ended),
        sha256="" if facts is None else facts.sha256.hex(),
        certificate="" if g.certificate is None else to_pem(g.certificate).decode(),
        csr="" if g.csr is None or g.certificate is not None else csr_pem(g.csr),
        others=tuple(others),
    )
