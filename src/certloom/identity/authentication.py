"""Who somebody is, by what they hold: an API token, a session, a client certificate.

Each way is a few point reads, looks everything up anew (a disabled person, a revoked token, a role taken
away count from the next request on) and answers None for whatever is not plainly good. That something was
used is noted at most once a minute.
"""

from __future__ import annotations

import hashlib

import msgspec
import structlog

from certloom.clock import Clock
from certloom.identity.delegation import intersect
from certloom.identity.grants import held
from certloom.identity.principals import Principal
from certloom.settings.schema import API
from certloom.store import certificates as certificate_statements
from certloom.store import credentials as credential_statements
from certloom.store import people as people_statements
from certloom.store import sessions as session_statements
from certloom.store.base import Store, Tx
from certloom.store.credentials import StoredCredential
from certloom.store.people import ACTIVE, StoredPerson

API_TOKEN = "api-token"  # noqa: S105 - the name of a kind, not a secret
CLIENT_CERTIFICATE = "client-certificate"
TOKEN_PREFIX = "clt_"  # noqa: S105 - what every token begins with
SERVICE = "service:"
"""What an owner begins with that is no person."""

_MOST_SECRET = 128
_NOTED_SECONDS = 60

_log = structlog.get_logger("certloom.identity")


class Session(msgspec.Struct, frozen=True):
    """A session that is good now. Times are Unix seconds."""

    principal: Principal
    created: int
    expires: int
    """The absolute end; it may end before by idleness."""


class Authentication:
    """Tells who presents a secret or a certificate. Raises nothing but ``StoreError``."""

    def __init__(self, store: Store, clock: Clock, settings: API) -> None:
        self._store = store
        self._clock = clock
        self._idle = settings.session_idle_seconds
        # Never so seldom that a session in use looks idle.
        self._note_after = min(_NOTED_SECONDS, self._idle // 2)

    async def token(self, secret: str) -> Principal | None:
        """Who an API token (``clt_...``) acts for and what it may do; None if it is not good now."""
        if not secret.startswith(TOKEN_PREFIX) or len(secret) > _MOST_SECRET or not secret.isascii():
            return None
        digest = hashlib.sha256(secret.encode()).digest()
        now = self._clock.now()

        def unit(tx: Tx) -> tuple[StoredCredential, Principal] | None:
            found = credential_statements.by_secret_hash(tx, digest)
            if found is None:
                found = credential_statements.by_previous_hash(tx, digest, now)
            if found is None or found.kind != API_TOKEN or not _good(found, now):
                return None
            principal = acting(tx, found, "token")
            return None if principal is None else (found, principal)

        return await self._seen(await self._store.read(unit), now)

    async def certificate(self, der: bytes) -> Principal | None:
        """Who a client certificate stands for, that its holder proved to hold (TLS); None if it is not good.

        It must be in the inventory, be neither revoked nor on hold nor out of its time, and exactly one
        identity that is in use must name its key, or its profile and one of its names.
        """
        fingerprint = hashlib.sha256(der).digest()
        now = self._clock.now()

        def unit(tx: Tx) -> tuple[StoredCredential, Principal] | None:
            certificate = certificate_statements.by_fingerprint(tx, fingerprint)
            if (
                certificate is None
                or certificate.revoked is not None
                or not certificate.not_before <= now < certificate.not_after
                or certificate_statements.is_blocked(tx, certificate.spki_sha256)
            ):
                return None
            found = {c.id: c for c in credential_statements.by_spki(tx, certificate.spki_sha256)}
            for name in certificate.names:
                named = credential_statements.by_subject(tx, certificate.profile, name)
                found |= {c.id: c for c in named}
            usable = [c for c in found.values() if c.kind == CLIENT_CERTIFICATE and _good(c, now)]
            if len(usable) > 1:
                _log.warning("a client certificate fits several identities", identities=sorted(found))
            if len(usable) != 1:
                return None
            principal = acting(tx, usable[0], "client-certificate")
            return None if principal is None else (usable[0], principal)

        return await self._seen(await self._store.read(unit), now)

    async def _seen(self, found: tuple[StoredCredential, Principal] | None, now: int) -> Principal | None:
        if found is None:
            return None
        credential, principal = found
        before = now - _NOTED_SECONDS
        if credential.last_used is None or credential.last_used <= before:
            await self._store.write(lambda tx: credential_statements.seen(tx, credential.id, now, before))
        return principal

    async def session(self, secret: str) -> Principal | None:
        """Whose session this is; None if it is over, or its person was disabled."""
        session = await self.session_of(secret)
        return None if session is None else session.principal

    async def session_of(self, secret: str) -> Session | None:
        """As ``session``, with when it began and when it ends."""
        if not secret or len(secret) > _MOST_SECRET or not secret.isascii():
            return None
        digest = hashlib.sha256(secret.encode()).digest()
        now = self._clock.now()

        def unit(tx: Tx) -> tuple[int, Session] | None:
            found = session_statements.get(tx, digest)
            if found is None or found.expires <= now or found.last_used + self._idle <= now:
                return None
            principal = person_principal(tx, found.person_id)
            if principal is None:
                return None
            return found.last_used, Session(principal, found.created, found.expires)

        read = await self._store.read(unit)
        if read is None:
            return None
        last_used, session = read
        if last_used + self._note_after <= now:
            await self._store.write(lambda tx: session_statements.used(tx, digest, now))
        return session


def person_principal(tx: Tx, id: str) -> Principal | None:
    """A person as they may act now; None where there is none, or they are disabled."""
    person = people_statements.get(tx, id)
    if person is None or person.state != ACTIVE:
        return None
    return as_principal(tx, person)


def as_principal(tx: Tx, person: StoredPerson) -> Principal:
    """What a person is and holds, whatever their state."""
    return Principal(
        kind="person",
        id=person.id,
        name=person.display or person.name,
        owner=person.id,
        teams=teams_of(person),
        held=held(tx, person.grants, person.oidc_grants),
    )


def teams_of(person: StoredPerson) -> tuple[str, ...]:
    """The teams given here, then those from the identity provider."""
    given = msgspec.json.decode(person.teams, type=tuple[str, ...])
    return tuple(dict.fromkeys(given + msgspec.json.decode(person.oidc_teams, type=tuple[str, ...])))


def acting(tx: Tx, credential: StoredCredential, kind: str) -> Principal | None:
    """Who acts with a credential: for a person at most what they may themselves now, or for a service."""
    own = held(tx, credential.grants)
    name = credential.label or f"{kind} {credential.id[:8]}"
    teams = () if credential.team is None else (credential.team,)
    owner = credential.owner
    if owner is None or owner.startswith(SERVICE):
        return Principal(
            kind=kind,
            id=credential.id,
            name=name,
            owner=owner or f"{kind}:{credential.id}",
            teams=teams,
            held=own,
        )
    person = person_principal(tx, owner)
    if person is None:
        return None
    return Principal(
        kind=kind,
        id=credential.id,
        name=f"{person.name} ({name})",
        owner=person.owner,
        teams=tuple(team for team in person.teams if team in teams) if teams else person.teams,
        held=intersect(person.held, own),
    )


def _good(credential: StoredCredential, now: int) -> bool:
    return credential.revoked is None and (credential.expires is None or credential.expires > now)
