"""Logging in with a password, and sessions: opened, ended, pruned.

Wrong names and wrong passwords are answered alike and take the same time. Attempts are bounded per address
and per account; an address from which an account was lately logged into has attempts of its own, so that
strangers who guess cannot keep its holder out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

import msgspec
import structlog

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.identity import passwords
from certloom.identity.passwords import Passwords
from certloom.identity.people import People, StalePerson
from certloom.identity.throttle import Throttle, address_group
from certloom.settings.schema import API
from certloom.store import people as people_statements
from certloom.store import sessions as session_statements
from certloom.store.base import Store, Tx
from certloom.store.people import ACTIVE, StoredPerson
from certloom.store.sessions import StoredSession

_ACCOUNT_TRIES = 10
_ACCOUNT_SECONDS = 600
_MOST_KNOWN = 10_000
_PRUNE = 1_000

_log = structlog.get_logger("certloom.identity")


class LoginRefused(Exception):
    """Not logged in, and the message does not say which part was wrong."""

    def __init__(self, message: str = "the name or the password is wrong") -> None:
        super().__init__(message)


class LoginThrottled(Exception):
    """Too many attempts; the next may come after ``retry_after`` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many attempts; try again in {retry_after} s")
        self.retry_after = retry_after


class LoggedIn(msgspec.Struct, frozen=True):
    """A session that was just opened. ``secret`` is shown to nobody but its holder."""

    secret: str
    person_id: str
    name: str
    expires: int
    """Its absolute end, Unix seconds."""

    def __repr__(self) -> str:
        return f"LoggedIn({self.person_id})"


class Logins:
    """Opens and ends sessions."""

    def __init__(self, store: Store, clock: Clock, people: People, hashing: Passwords, settings: API) -> None:
        self._store = store
        self._clock = clock
        self._people = people
        self._passwords = hashing
        self._settings = settings
        self._by_address = Throttle(clock, settings.failures_per_minute, 60)
        self._by_account = Throttle(clock, _ACCOUNT_TRIES, _ACCOUNT_SECONDS)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        """(account, address) pairs that lately logged in, the oldest first."""

    async def login(self, name: str, password: str, origin: Origin) -> LoggedIn:
        """Open a session with a password. ``origin`` needs no actor yet, but the peer's address.

        Raises ``LoginRefused``, ``LoginThrottled`` or ``Busy``.
        """
        name = name.strip().lower()[:256]
        person = await self._store.read(lambda tx: people_statements.by_name(tx, name))
        await self._prove(name, person, password, origin.address)
        if person is None or person.state != ACTIVE:
            _log.info("login refused", client=origin.address, trace=origin.trace)
            raise LoginRefused

        def unit(tx: Tx) -> LoggedIn:
            now_person = people_statements.get(tx, person.id, lock=True)
            if (
                now_person is None
                or now_person.state != ACTIVE
                or now_person.password_hash != person.password_hash
            ):
                raise LoginRefused
            return self.open(tx, now_person, origin, "password")

        return await self._store.write(unit)

    async def _prove(self, name: str, person: StoredPerson | None, password: str, address: str) -> None:
        """Raises unless it is the account's password; failures count even where there is no account."""
        group = address_group(address)
        account = f"{name}\0{group}" if (name, group) in self._known else name
        wait = self._by_address.take(group)
        if not wait:
            wait = self._by_account.take(account)
            if wait:
                self._by_address.give_back(group)
        if wait:
            raise LoginThrottled(wait)
        try:
            good = await self._passwords.verify(person.password_hash if person else None, password)
        except BaseException:
            self._by_address.give_back(group)
            self._by_account.give_back(account)
            raise
        if not good:
            _log.info("wrong name or password", client=address, person=person.id if person else None)
            raise LoginRefused
        self._by_address.give_back(group)
        self._by_account.give_back(account)
        self._known[name, group] = None
        self._known.move_to_end((name, group))
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def open(self, tx: Tx, person: StoredPerson, origin: Origin, how: str) -> LoggedIn:
        """Open a session for somebody who has proved who they are, in the caller's unit."""
        now = self._clock.now()
        secret = secrets.token_urlsafe(32)
        session = StoredSession(
            hashlib.sha256(secret.encode()).digest(),
            person.id,
            now,
            now,
            now + self._settings.session_seconds,
        )
        session_statements.insert(tx, session)
        people_statements.logged_in(tx, person.id, now)
        record(
            tx,
            self._clock.now_ms(),
            "session.opened",
            f"person:{person.id}",
            msgspec.structs.replace(origin, actor=f"person:{person.id}"),
            {"how": how, "expires": session.expires},
        )
        return LoggedIn(secret, person.id, person.name, session.expires)

    async def logout(self, secret: str, origin: Origin) -> bool:
        """End a session; False where there is none."""
        digest = hashlib.sha256(secret.encode()).digest()

        def unit(tx: Tx) -> bool:
            session = session_statements.get(tx, digest)
            if session is None or not session_statements.delete(tx, digest):
                return False
            record(tx, self._clock.now_ms(), "session.closed", f"person:{session.person_id}", origin)
            return True

        return await self._store.write(unit)

    async def hash(self, password: str, *, name: str) -> str:
        """The hash of a password that is being set. Raises ``PasswordRefused`` or ``Busy``."""
        passwords.check(password, name=name)
        return await self._passwords.hash(password)

    async def change_password(self, person_id: str, old: str, new: str, origin: Origin) -> None:
        """Set one's own password, which ends one's sessions. Raises as ``login``, and ``PasswordRefused``."""
        person = await self._store.read(lambda tx: people_statements.get(tx, person_id))
        if person is None or person.state != ACTIVE:
            raise LoginRefused
        passwords.check(new, name=person.name)
        await self._prove(person.name, person, old, origin.address)
        new_hash = await self._passwords.hash(new)
        await self._replace(person, new_hash, origin, "by the person")

    async def complete_setup(self, code: str, new: str, origin: Origin) -> str:
        """Set a password with a one-time code; answers the account's name.

        Raises ``LoginRefused`` for a bad code, ``LoginThrottled``, ``PasswordRefused`` or ``Busy``.
        """
        group = address_group(origin.address)
        wait = self._by_address.take(group)
        if wait:
            raise LoginThrottled(wait)
        person = await self._store.read(lambda tx: self._people.by_setup_code(tx, code))
        if person is None:
            raise LoginRefused("the code is not good, or not any more")
        self._by_address.give_back(group)
        passwords.check(new, name=person.name)
        new_hash = await self._passwords.hash(new)
        actor = msgspec.structs.replace(origin, actor=f"person:{person.id}")
        await self._replace(person, new_hash, actor, "with a setup code")
        return person.name

    async def _replace(self, person: StoredPerson, new_hash: str, origin: Origin, why: str) -> None:
        def unit(tx: Tx) -> None:
            now_person = people_statements.get(tx, person.id, lock=True)
            if (
                now_person is None
                or now_person.state != ACTIVE
                or now_person.password_hash != person.password_hash
                or now_person.setup_hash != person.setup_hash
            ):
                raise LoginRefused("the account was changed in the meantime")
            self._people.replace_password(tx, now_person, new_hash, origin, why)

        try:
            await self._store.write(unit)
        except StalePerson:
            raise LoginRefused("the account was changed in the meantime") from None

    def close(self) -> None:
        """Let the hashing threads end."""
        self._passwords.close()

    async def prune(self) -> None:
        """Delete sessions that are over. Run periodically."""
        now = self._clock.now()
        idle_before = now - self._settings.session_idle_seconds
        while (
            await self._store.write(lambda tx: session_statements.prune(tx, now, idle_before, _PRUNE))
            == _PRUNE
        ):
            pass
