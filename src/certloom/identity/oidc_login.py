"""From what an identity provider says to an account here, and to its roles and teams.

An account is found by (issuer, subject), which nobody chooses. By its name, which people may be able to
change at the provider, it is found only where settings say so, and only if it has no password and no other
link: or whoever takes a colleague's name there would be the colleague here. Roles and teams from groups are
set anew at each login; what was granted here stays beside them.
"""

from __future__ import annotations

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.identity.grants import encode_grants
from certloom.identity.login import LoggedIn, Logins
from certloom.identity.oidc import Identity, OIDCError, Provider
from certloom.identity.people import PersonError, StalePerson, check_name, described
from certloom.identity.principals import Grant
from certloom.settings.schema import OIDC
from certloom.store import people as statements
from certloom.store import roles as role_statements
from certloom.store.base import Conflict, Store, Tx
from certloom.store.ids import new_id
from certloom.store.people import ACTIVE, StoredPerson


class OIDCLogins:
    """Opens sessions for people whom the provider vouches for."""

    def __init__(
        self, store: Store, clock: Clock, logins: Logins, settings: OIDC, provider: Provider
    ) -> None:
        self.provider = provider
        self._store = store
        self._clock = clock
        self._logins = logins
        self._settings = settings

    async def login(self, identity: Identity, origin: Origin) -> LoggedIn:
        """Find, or make if settings allow it, the account; give it its roles and teams; open a session.

        Raises ``OIDCError`` with what the person should know.
        """
        try:
            return await self._store.write(lambda tx: self._unit(tx, identity, origin))
        except (Conflict, StalePerson):
            raise OIDCError("the account was changed in the meantime; log in again") from None

    def _unit(self, tx: Tx, identity: Identity, origin: Origin) -> LoggedIn:
        person = statements.by_oidc(tx, identity.issuer, identity.subject)
        if person is None:
            person = self._first(tx, identity, origin)
        if person.state != ACTIVE:
            raise OIDCError("the account is disabled here")
        return self._logins.open(tx, self._regrouped(tx, person, identity, origin), origin, "oidc")

    def _first(self, tx: Tx, identity: Identity, origin: Origin) -> StoredPerson:
        """The account for somebody who never came this way."""
        try:
            check_name(identity.name)
        except PersonError:
            raise OIDCError(
                f"the identity provider gives no name that an account can have (claim"
                f" {self._settings.name_claim})"
            ) from None
        found = statements.by_name(tx, identity.name)
        if found is not None:
            if not self._settings.link_by_name or found.password_hash is not None or found.oidc_subject:
                raise OIDCError(
                    f"the account {identity.name!r} is not linked to this identity; ask an administrator"
                )
            linked = msgspec.structs.replace(
                found, oidc_issuer=identity.issuer, oidc_subject=identity.subject, updated=self._clock.now()
            )
            return self._update(tx, "person.linked", found, linked, origin)
        if not self._settings.create_people:
            raise OIDCError(f"there is no account {identity.name!r} here; ask an administrator for one")
        now = self._clock.now()
        person = StoredPerson(
            id=new_id(self._clock.now_ms()),
            name=identity.name,
            display=_line(identity.display),
            email=_line(identity.email),
            state=ACTIVE,
            oidc_issuer=identity.issuer,
            oidc_subject=identity.subject,
            created=now,
            updated=now,
        )
        statements.insert(tx, person)
        self._record(tx, "person.created", person, origin, None)
        return person

    def _regrouped(self, tx: Tx, person: StoredPerson, identity: Identity, origin: Origin) -> StoredPerson:
        """What the groups give now; written, and told, only where it is not what they gave before."""
        roles = [r for group in identity.groups for r in self._settings.roles.get(group, ())]
        teams = [t for group in identity.groups for t in self._settings.teams.get(group, ())]
        there = tuple(t for t in dict.fromkeys(teams) if role_statements.team(tx, t) is not None)
        changed = msgspec.structs.replace(
            person,
            oidc_grants=encode_grants(Grant(role=role) for role in dict.fromkeys(roles)),
            oidc_teams=msgspec.json.encode(there).decode(),
        )
        if changed == person:
            return person
        changed = msgspec.structs.replace(changed, updated=self._clock.now())
        return self._update(tx, "person.regrouped", person, changed, origin)

    def _update(
        self, tx: Tx, kind: str, was: StoredPerson, person: StoredPerson, origin: Origin
    ) -> StoredPerson:
        if not statements.update(tx, person):
            raise StalePerson("the account was changed in the meantime")
        person = msgspec.structs.replace(person, revision=was.revision + 1)
        self._record(tx, kind, person, origin, was)
        return person

    def _record(
        self, tx: Tx, kind: str, person: StoredPerson, origin: Origin, was: StoredPerson | None
    ) -> None:
        actor = msgspec.structs.replace(origin, actor=f"person:{person.id}")
        data = {"before": None if was is None else described(was), "after": described(person)}
        record(tx, self._clock.now_ms(), kind, f"person:{person.id}", actor, data)


def _line(text: str) -> str:
    return text[:200] if text.isprintable() else ""
