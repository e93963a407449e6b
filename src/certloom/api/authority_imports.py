"""What of an authority comes from elsewhere: a CA with its key, a certificate, cross-certificates."""

from __future__ import annotations

from base64 import b64decode
from datetime import datetime
from typing import Annotated

import msgspec

from certloom.api.authorities import (
    AuthorityPath,
    AuthorityShown,
    check_free,
    find,
    refuse_taken,
    shown,
)
from certloom.api.authority_edits import (
    AuthorityOptions,
    Days,
    PathLength,
    Texts,
    TokenURI,
    read_usages,
    told,
    with_options,
)
from certloom.api.edits import invalid
from certloom.api.problems import CONFLICT, NOT_FOUND, REFUSED, UNAVAILABLE, Problem
from certloom.api.routing import Answer, Call, Name, at, route
from certloom.audit import record
from certloom.authorities import crossing
from certloom.authorities.creation import KeyPlace
from certloom.authorities.generations import CATerms
from certloom.authorities.importing import Material, import_ca, read_pem, read_pkcs12
from certloom.authorities.local import LocalBody
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import format_name
from certloom.pki.pem import to_pem
from certloom.store import configuration
from certloom.store.base import Tx

PEMText = Annotated[str, msgspec.Meta(max_length=1 << 20)]


class ImportedAuthority(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A CA with its key. Either ``certificate`` with ``key`` or ``key_in``, or ``pkcs12``."""

    name: Name
    certificate: PEMText = ""
    """PEM; those above it may follow."""
    key: PEMText = ""
    """Its private key, PEM."""
    pkcs12: Annotated[str, msgspec.Meta(max_length=1 << 20)] = ""
    """Base64 of a PKCS#12 file."""
    password: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    """Of the key or the PKCS#12 file."""
    key_in: TokenURI = ""
    """The PKCS#11 URI of the key, where that is in a token already."""
    chain: PEMText = ""
    """Certificates above it, up to the root, where they are not known here."""
    crl_shards: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    """None: 1 for a root, 16 for others."""
    options: AuthorityOptions = AuthorityOptions()

    def __repr__(self) -> str:
        return f"ImportedAuthority({self.name})"


class Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A CA certificate, and those above it."""

    certificate: PEMText
    """PEM; those above it, up to the root, follow where they are not known here."""


class CrossSigned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another CA, by its certificate or its CSR, and what it gets from ours."""

    certificate: PEMText = ""
    csr: PEMText = ""
    days: Days = 1825
    path_length: PathLength = 0
    permitted: Texts = ()
    excluded: Texts = ()
    policies: Texts = ()
    cps: str = ""
    extended_key_usage: Texts = ()


class CrossCertificate(msgspec.Struct, frozen=True):
    """A CA certificate that was issued for another CA."""

    id: int
    """In the inventory."""
    issuer: str
    subject: str
    not_after: datetime
    sha256: str
    certificate: str
    """PEM."""


class CrossPath(msgspec.Struct, frozen=True):
    name: Name
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


@route(
    "POST",
    "/authority-imports",
    permission="authority.write",
    summary="Take in a CA with its key",
    body=ImportedAuthority,
    answers={201: AuthorityShown},
    problems=(CONFLICT, UNAVAILABLE),
    tag="authorities",
)
async def take_in(call: Call[None, None, ImportedAuthority]) -> Answer:
    """Its key, its certificate and the way to its root are checked. What it issued before is not known here:
    its revocations go on only once its old certificates are in the inventory."""
    services, given = call.services, call.body
    call.allow_shared("authority.write")
    await services.refresh()
    await check_free(call, given.name)
    options = with_options(LocalBody(), given.options.given(), "$.options")
    place = KeyPlace(given.key_in, attach=True) if given.key_in else None
    if place is not None and (given.key or given.pkcs12):
        raise invalid("either the key is given, or it is in a token", "$.key_in")
    with told():
        ca = await import_ca(
            services.store,
            services.signing,
            services.clock,
            name=given.name,
            material=await _material(given),
            crl_shards=given.crl_shards,
            options=options,
            place=place,
        )

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        refuse_taken(tx, given.name)
        ca.store(tx, call.origin)
        facts = parse_certificate(ca.authority.certificate)
        data = {
            "before": None,
            "after": {
                "subject": format_name(facts.subject),
                "sha256": facts.sha256.hex(),
                "issuer": ca.authority.issuer,
                "key_in": given.key_in,
                "options": given.options.given(),
            },
        }
        subject = f"authority:{given.name}"
        record(tx, services.clock.now_ms(), "authority.imported", subject, call.origin, data)
        configuration.touch(tx)
        return shown(tx, find(tx, given.name), 201)

    answer = await call.create(unit)
    await services.refresh()
    return answer


async def _material(given: ImportedAuthority) -> Material:
    """Raises ``HierarchyError`` and ``Problem``."""
    more = given.chain.encode()
    if given.pkcs12:
        if given.certificate or given.key:
            raise invalid("either a PKCS#12 file, or a certificate and its key", "$.pkcs12")
        try:
            return await read_pkcs12(b64decode(given.pkcs12, validate=True), given.password, more)
        except ValueError:
            raise invalid("this is not base64", "$.pkcs12") from None
    key = given.key.encode() if given.key else None
    return await read_pem(given.certificate.encode(), key, given.password, more)


@route(
    "POST",
    "/authorities/{name}/certificate",
    permission="authority.write",
    summary="Install the certificate that a CSR got",
    path=AuthorityPath,
    body=Chain,
    answers={200: AuthorityShown},
    problems=(CONFLICT,),
    tag="authorities",
)
async def install(call: Call[AuthorityPath, None, Chain]) -> Answer:
    """Checked: key, subject, that it is a CA's, and the way to a root. A pending authority is active then."""
    services = call.services
    call.allow_shared("authority.write")
    with told():
        material = await read_pem(call.body.certificate.encode())

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        row = find(tx, call.path.name, lock=True)
        with told():
            crossing.install(tx, row, material, services.clock.now(), call.origin)
        configuration.touch(tx)
        return shown(tx, find(tx, row.name))

    answer = await call.create(unit)
    await services.refresh()
    return answer


@route(
    "POST",
    "/authorities/{name}/cross-signatures",
    permission="authority.write",
    summary="Certify another CA",
    path=AuthorityPath,
    body=CrossSigned,
    answers={201: CrossCertificate},
    problems=(CONFLICT, REFUSED, UNAVAILABLE),
    tag="authorities",
)
async def cross_sign(call: Call[AuthorityPath, None, CrossSigned]) -> Answer:
    """A cross-certificate under this authority, for the name and key in a CA's certificate or CSR."""
    services, given = call.services, call.body
    call.allow_shared("authority.write")
    row = await services.store.read(lambda tx: find(tx, call.path.name))
    terms = CATerms(
        path_length=given.path_length,
        permitted=given.permitted,
        excluded=given.excluded,
        policies=given.policies,
        cps=given.cps,
        extended_key_usage=read_usages(given.extended_key_usage),
    )
    now = services.clock.now()
    with told():
        if bool(given.certificate) == bool(given.csr):
            raise invalid("either the other CA's certificate or its CSR", "$.certificate")
        if given.csr:
            subject = crossing.subject_of_csr(_request(given.csr))
        else:
            material = await read_pem(given.certificate.encode())
            subject = crossing.subject_of_certificate(material.certificate, now)
        made = await crossing.cross_sign(services.certifier, row, subject, given.days, terms, now)

    def unit(tx: Tx) -> Answer:
        with told():
            id = made.enter(tx, now, call.origin)
        facts = parse_certificate(made.der)
        value = CrossCertificate(
            id,
            row.name,
            format_name(facts.subject),
            at(facts.not_after),
            facts.sha256.hex(),
            to_pem(made.der).decode(),
        )
        return Answer(value, 201, location=f"/certificates/{id}")

    return await call.create(unit)


def _request(text: str) -> bytes:
    lines = text.strip().splitlines()
    if len(lines) < 3 or not lines[0].startswith("-----BEGIN"):
        raise invalid("a CSR in PEM is wanted", "$.csr")
    try:
        return b64decode("".join(line.strip() for line in lines[1:-1]), validate=True)
    except ValueError:
        raise invalid("a CSR in PEM is wanted", "$.csr") from None


@route(
    "POST",
    "/authorities/{name}/cross-certificates",
    permission="authority.write",
    summary="Take in a cross-certificate",
    path=AuthorityPath,
    body=Chain,
    answers={200: AuthorityShown},
    problems=(CONFLICT,),
    tag="authorities",
)
async def take_cross(call: Call[AuthorityPath, None, Chain]) -> Answer:
    """Another CA's certificate for this authority's name and key: offered as an alternate chain from now
    on (RFC 8555 section 7.4.2)."""
    services = call.services
    call.allow_shared("authority.write")
    with told():
        material = await read_pem(call.body.certificate.encode())

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        row = find(tx, call.path.name, lock=True)
        with told():
            crossing.take_cross_certificate(tx, row, material, services.clock.now(), call.origin)
        configuration.touch(tx)
        return shown(tx, row)

    answer = await call.create(unit)
    await services.refresh()
    return answer


@route(
    "DELETE",
    "/authorities/{name}/cross-certificates/{sha256}",
    permission="authority.write",
    summary="Offer a cross-certificate no longer",
    path=CrossPath,
    answers={204: None},
    tag="authorities",
)
async def drop_cross(call: Call[CrossPath, None, None]) -> Answer:
    """Also a link certificate. It stays valid; its issuer can revoke it."""
    services = call.services
    call.allow_shared("authority.write")

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        row = find(tx, call.path.name, lock=True)
        fingerprint = bytes.fromhex(call.path.sha256)
        if not crossing.drop_cross_certificate(tx, row.name, fingerprint, services.clock.now(), call.origin):
            raise Problem(NOT_FOUND, "there is no such cross-certificate")
        configuration.touch(tx)
        return Answer(None, 204)

    answer = await call.write(unit)
    await services.refresh()
    return answer
