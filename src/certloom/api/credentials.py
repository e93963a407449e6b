"""Credentials of every kind: made, shown without their secrets, changed, rotated, revoked."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.routing import (
    Answer,
    Authenticated,
    Call,
    Id,
    Page,
    Paging,
    Time,
    at,
    at_or_none,
    etag,
    route,
)
from certloom.api.telling import told
from certloom.identity import issuing
from certloom.identity.authentication import CLIENT_CERTIFICATE, SERVICE
from certloom.identity.credentials import Made, Terms
from certloom.identity.grants import decode_grants
from certloom.identity.kinds import KINDS
from certloom.identity.principals import Grant
from certloom.pki.identifiers import IdentifierError, parse
from certloom.store import credentials as statements
from certloom.store.base import Tx
from certloom.store.credentials import StoredCredential

_PROBLEMS = ("not-found", "forbidden", "invalid", "conflict")
_READ = 500
_OWN = Authenticated("one's own tokens are one's own; others take credential.read or credential.write")

KindName = Literal[
    "acme-eab",
    "est-password",
    "est-token",
    "est-key",
    "cmc-secret",
    "scep-challenge",
    "cmp-secret",
    "api-token",
    "client-certificate",
]
_Texts = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=300)], ...], msgspec.Meta(max_length=200)]


class CredentialPath(msgspec.Struct, frozen=True):
    id: Id


class CredentialQuery(Paging, frozen=True, kw_only=True):
    kind: KindName | None = None
    in_use: bool = False
    """Leave out revoked ones."""


class ClientCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose certificates: of one key, or of a profile and a name."""

    spki_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the public key (SubjectPublicKeyInfo), in hex."""
    profile: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    name: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    """As `type:value`: `dns:robot.example.com`, `uri:spiffe://prod/robot`."""


class CredentialTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What can be changed of a credential. What is left out is emptied."""

    label: Annotated[str, msgspec.Meta(max_length=200)] = ""
    names: _Texts = ()
    """Name patterns it may be used for. None: the profile alone decides."""
    profiles: _Texts = ()
    """Profiles it may be used for. None: those of its channel."""
    preauthorized: bool = False
    """Whether its names need no further proof of control (ACME)."""
    uses: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None
    """How often it can still be used. Null: as often as one likes."""
    expires: Time | None = None
    team: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    grants: Annotated[tuple[Grant, ...], msgspec.Meta(max_length=100)] = ()
    """The roles it acts in: API tokens and client certificates only."""

    def terms(self) -> Terms:
        """As the room of credentials has them."""
        return Terms(
            label=self.label,
            names=self.names,
            profiles=self.profiles,
            preauthorized=self.preauthorized,
            uses=self.uses,
            expires=None if self.expires is None else int(self.expires.timestamp()),
            team=self.team,
            grants=self.grants,
        )


class NewCredential(CredentialTerms, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A credential to be made."""

    kind: KindName
    id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")] | None = None
    """A key id, user name or reference value of your choice."""
    channel: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    """Null: every channel of the kind's protocol, where it has that."""
    person: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """Whose it is, a person's id; oneself unless said otherwise."""
    service: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    """Whose it is, where that is no person: a name for the service."""
    certificate: ClientCertificate | None = None


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new secret."""

    overlap: Annotated[int, msgspec.Meta(ge=0, le=31_536_000)] = 0
    """Seconds that the old one stays good."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What a requester proves itself with. Never its secret."""

    id: str
    kind: str
    protocol: str | None
    channel: str | None
    label: str
    owner: str | None
    """A person's id, or `service:NAME`."""
    team: str | None
    names: tuple[str, ...]
    profiles: tuple[str, ...]
    preauthorized: bool
    uses_left: int | None
    grants: tuple[Grant, ...]
    certificate: ClientCertificate | None
    created: datetime
    created_by: str
    expires: datetime | None
    last_used: datetime | None
    rotated: datetime | None
    previous_until: datetime | None
    """Until when the secret before the last rotation is good."""
    revoked: datetime | None


class Secret(msgspec.Struct, frozen=True):
    """A credential with its secret, which is shown this once."""

    credential: Credential
    secret: str | None
    """Null for client certificates."""


class _Id(msgspec.Struct, frozen=True):
    id: str


class _Shown(msgspec.Struct, frozen=True):
    """Of a ``Secret``, whose it is."""

    credential: _Id


def shown(c: StoredCredential) -> Credential:
    """A credential as the API shows it."""
    certificate = None
    if c.kind == CLIENT_CERTIFICATE:
        spki = None if c.spki_sha256 is None else c.spki_sha256.hex()
        certificate = ClientCertificate(spki_sha256=spki, profile=c.subject_profile, name=c.subject_name)
    return Credential(
        id=c.id,
        kind=c.kind,
        protocol=c.protocol,
        channel=c.channel,
        label=c.label,
        owner=c.owner,
        team=c.team,
        names=c.names,
        profiles=c.profiles,
        preauthorized=c.preauthorized,
        uses_left=c.uses_left,
        grants=decode_grants(c.grants),
        certificate=certificate,
        created=at(c.created),
        created_by=c.created_by,
        expires=at_or_none(c.expires),
        last_used=at_or_none(c.last_used),
        rotated=at_or_none(c.rotated),
        previous_until=at_or_none(c.previous_until),
        revoked=at_or_none(c.revoked),
    )


@route(
    "GET",
    "/credentials",
    permission=_OWN,
    summary="List credentials",
    query=CredentialQuery,
    answers={200: Page[Credential]},
    tag="credentials",
)
async def listing(call: Call[None, CredentialQuery, None]) -> Answer:
    """The oldest first; one's own tokens, and what `credential.read` reaches. Never their secrets."""
    by, query = call.principal, call.query
    reach = by.reach("credential.read")
    owners = None if reach.everything else tuple({*reach.owners, by.owner})

    def unit(tx: Tx) -> list[StoredCredential]:
        found: list[StoredCredential] = []
        after = call.position(str) or ""
        while len(found) <= call.limit:
            rows = statements.listing(
                tx,
                _READ,
                after,
                kind=query.kind,
                owners=owners,
                teams=None if reach.everything else reach.teams,
                in_use=query.in_use,
            )
            found += [c for c in rows if issuing.may_see(by, c)]
            if len(rows) < _READ:
                break
            after = rows[-1].id
        return found

    rows = await call.services.store.scan(unit)
    return call.page([shown(row) for row in rows[: call.limit + 1]], lambda credential: credential.id)


async def _shown_again(call: Call[Any, Any, Any], body: bytes) -> None:
    """Who may no longer make or rotate such a credential is not told its secret once more."""
    id = msgspec.json.decode(body, type=_Shown).credential.id

    def unit(tx: Tx) -> None:
        found = statements.get(tx, id)
        if found is None:
            raise Problem(problems.NOT_FOUND, "there is no such credential any more")
        issuing.check_write(tx, call.services.people, call.principal, found)

    with told():
        await call.services.store.read(unit)


@route(
    "POST",
    "/credentials",
    permission=_OWN,
    summary="Make a credential",
    body=NewCredential,
    answers={201: Secret},
    problems=_PROBLEMS,
    etag=True,
    tag="credentials",
    again=_shown_again,
)
async def create(call: Call[None, None, NewCredential]) -> Answer:
    """The secret is in this answer and never shown again. A person makes tokens for themselves without any
    permission; everything else takes `credential.write`, and nobody gives more than they hold."""
    body = call.body
    kind = KINDS[body.kind]
    owner = _owner(call, body)
    spki, subject = _certificate(body)
    if kind.acts and not body.grants:
        raise Problem(problems.INVALID, "grants: name the roles it acts in; without any it may do nothing")

    def unit(tx: Tx) -> Answer:
        made = call.services.credentials.create(
            tx,
            body.kind,
            body.terms(),
            channel=body.channel,
            owner=owner,
            id=body.id,
            spki_sha256=spki,
            subject=subject,
            origin=call.origin,
        )
        issuing.check_write(tx, call.services.people, call.principal, made.credential)
        return _secret(made, 201)

    with told():
        return await call.create(unit)


@route(
    "GET",
    "/credentials/{id}",
    permission=_OWN,
    summary="Show a credential",
    path=CredentialPath,
    answers={200: Credential},
    problems=("not-found",),
    etag=True,
    tag="credentials",
)
async def show(call: Call[CredentialPath, None, None]) -> Answer:
    found = await call.services.store.read(lambda tx: _seen(call, tx))
    return Answer(shown(found), etag=_etag(found))


@route(
    "PUT",
    "/credentials/{id}",
    permission=_OWN,
    summary="Change a credential",
    path=CredentialPath,
    body=CredentialTerms,
    answers={200: Credential},
    problems=_PROBLEMS,
    edits=True,
    tag="credentials",
)
async def change(call: Call[CredentialPath, None, CredentialTerms]) -> Answer:
    """Its kind, channel, owner and secret stay; takes what making both the old and the new one would."""

    def unit(tx: Tx) -> Answer:
        was = _in_use(call, tx)
        call.require_match(_etag(was))
        issuing.check_write(tx, call.services.people, call.principal, was)
        changed = call.services.credentials.change(tx, was, call.body.terms(), call.origin)
        issuing.check_write(tx, call.services.people, call.principal, changed)
        return Answer(shown(changed), etag=_etag(changed))

    with told():
        return await call.write(unit)


@route(
    "POST",
    "/credentials/{id}/rotate",
    permission=_OWN,
    summary="Rotate a credential's secret",
    path=CredentialPath,
    body=Rotation,
    answers={200: Secret},
    problems=_PROBLEMS,
    etag=True,
    tag="credentials",
    again=_shown_again,
)
async def rotate(call: Call[CredentialPath, None, Rotation]) -> Answer:
    """A new secret, shown this once; the old one stays good for as long as `overlap` says."""

    def unit(tx: Tx) -> Answer:
        was = _in_use(call, tx)
        issuing.check_write(tx, call.services.people, call.principal, was)
        return _secret(call.services.credentials.rotate(tx, was, call.body.overlap, call.origin), 200)

    with told():
        return await call.create(unit)


@route(
    "DELETE",
    "/credentials/{id}",
    permission=_OWN,
    summary="Revoke a credential",
    path=CredentialPath,
    answers={204: None},
    problems=_PROBLEMS,
    tag="credentials",
)
async def revoke(call: Call[CredentialPath, None, None]) -> Answer:
    """Take it out of use for good; its row stays."""

    def unit(tx: Tx) -> None:
        was = _in_use(call, tx)
        issuing.check_revoke(call.principal, was)
        call.services.credentials.revoke(tx, was.id, call.origin)

    with told():
        await call.write(unit)
    return Answer(status=204)


def _owner(call: Call[Any, Any, NewCredential], body: NewCredential) -> str | None:
    if body.person is not None and body.service is not None:
        raise Problem(problems.INVALID, "person, service: it is one's or the other's")
    if body.person is not None:
        return body.person
    if body.service is not None:
        return SERVICE + body.service
    by = call.principal
    if by.kind == "local":
        if KINDS[body.kind].acts:
            raise Problem(problems.INVALID, "person, service: say whose it is; the local operator needs none")
        return None
    return by.owner


def _certificate(body: NewCredential) -> tuple[bytes | None, tuple[str, str] | None]:
    certificate = body.certificate
    if certificate is None:
        return None, None
    if certificate.spki_sha256 is not None:
        if certificate.profile is not None or certificate.name is not None:
            raise Problem(problems.INVALID, "certificate: either spki_sha256, or profile and name")
        return bytes.fromhex(certificate.spki_sha256), None
    if certificate.profile is None or certificate.name is None:
        raise Problem(problems.INVALID, "certificate: either spki_sha256, or profile and name")
    type, colon, value = certificate.name.partition(":")
    try:
        if not colon:
            raise IdentifierError("bad-name", "a name is written type:value, such as dns:a.example.com")
        return None, (certificate.profile, str(parse(type, value)))
    except IdentifierError as error:
        raise Problem(problems.INVALID, f"certificate.name: {error}") from None


def _seen(call: Call[CredentialPath, Any, Any], tx: Tx, *, lock: bool = False) -> StoredCredential:
    found = statements.get(tx, call.path.id, lock=lock)
    if found is None or not issuing.may_see(call.principal, found):
        raise Problem(problems.NOT_FOUND, "there is no such credential, or it is not yours to see")
    return found


def _in_use(call: Call[CredentialPath, Any, Any], tx: Tx) -> StoredCredential:
    found = _seen(call, tx, lock=True)
    if found.revoked is not None:
        raise Problem(problems.CONFLICT, "the credential is revoked")
    return found


def _secret(made: Made, status: int) -> Answer:
    location = f"/credentials/{made.credential.id}" if status == 201 else None
    value = Secret(shown(made.credential), made.secret)
    return Answer(value, status=status, etag=_etag(made.credential), location=location)


def _etag(c: StoredCredential) -> str:
    # Not what use alone changes, or nobody could edit what is busy.
    return etag("credential", c.id, c.revision)
