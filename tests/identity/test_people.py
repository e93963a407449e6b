"""Accounts: made, changed, disabled, logged into; and by whom not."""

from __future__ import annotations

import asyncio

import pytest

from certloom.audit import SYSTEM, Origin
from certloom.clock import ManualClock
from certloom.identity import passwords
from certloom.identity.authentication import Authentication
from certloom.identity.delegation import Refusal
from certloom.identity.grants import GrantError
from certloom.identity.login import LoginRefused, Logins, LoginThrottled
from certloom.identity.passwords import Busy, PasswordRefused, Passwords
from certloom.identity.people import People, PersonError, Terms
from certloom.identity.principals import Role
from certloom.identity.roles import RoleError, delete_role, delete_team, put_role
from certloom.settings.schema import API
from certloom.store import Store
from certloom.store import people as statements
from certloom.store import roles as role_statements
from certloom.store.base import Conflict, Tx
from certloom.store.people import StoredPerson
from tests.conftest import run
from tests.identity.making import ROOT, acting_as, grant, person, role

PASSWORD = "correct horse battery"
FROM_HOME = Origin("nobody", "192.0.2.1", "trace")
FROM_AFAR = Origin("nobody", "198.51.100.7", "trace")


def logins(store: Store, clock: ManualClock) -> Logins:
    return Logins(store, clock, People(clock), Passwords(), API())


async def read(store: Store, id: str) -> StoredPerson:
    found = await store.read(lambda tx: statements.get(tx, id))
    assert found is not None
    return found


async def with_password(store: Store, clock: ManualClock, book: Logins, name: str) -> StoredPerson:
    made = await person(store, clock, name)
    hashed = await book.hash(PASSWORD, name=name)
    return await store.write(lambda tx: People(clock).set_password(tx, ROOT, made, hashed, SYSTEM))


def test_a_person_logs_in_and_out(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book, door = logins(store, clock), Authentication(store, clock, API())
        alice = await with_password(store, clock, book, "alice")
        opened = await book.login(" Alice", PASSWORD, FROM_HOME)
        found = await door.session(opened.secret)
        assert found is not None
        assert found.id == alice.id
        assert await book.logout(opened.secret, SYSTEM)
        assert await door.session(opened.secret) is None
        assert not await book.logout(opened.secret, SYSTEM)
        rows = await store.read(lambda tx: tx.all("SELECT kind, data FROM events ORDER BY id"))
        assert [row[0] for row in rows] == [
            "person.created",
            "person.password-set",
            "session.opened",
            "session.closed",
        ]
        assert not any(PASSWORD in row[1] or "argon2" in row[1] or opened.secret in row[1] for row in rows)

    run(scenario())


def test_unknown_wrong_disabled_and_passwordless_are_refused_alike(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = logins(store, clock)
        alice = await with_password(store, clock, book, "alice")
        await person(store, clock, "bob")
        disabled = await with_password(store, clock, book, "carol")
        await store.write(lambda tx: People(clock).set_state(tx, ROOT, disabled, False, SYSTEM))
        said = set()
        for name, password in (
            ("nobody", PASSWORD),
            ("alice", "wrong password"),
            ("bob", PASSWORD),
            ("carol", PASSWORD),
            ("alice", "x" * 10_000),
        ):
            with pytest.raises(LoginRefused) as refused:
                await book.login(name, password, FROM_HOME)
            said.add(str(refused.value))
        assert len(said) == 1
        assert alice.state == "active"

    run(scenario())


def test_guessing_is_slowed_down_and_does_not_keep_the_holder_out(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = logins(store, clock)
        await with_password(store, clock, book, "alice")
        await book.login("alice", PASSWORD, FROM_HOME)
        outcomes = await asyncio.gather(
            *(book.login("alice", f"guess number {i}", FROM_AFAR) for i in range(20)), return_exceptions=True
        )
        assert sum(isinstance(o, LoginRefused) for o in outcomes) == 10
        assert sum(isinstance(o, LoginThrottled) for o in outcomes) == 10
        with pytest.raises(LoginThrottled) as throttled:
            await book.login("alice", PASSWORD, FROM_AFAR)
        await book.login("alice", PASSWORD, FROM_HOME)
        clock.advance(throttled.value.retry_after)
        await book.login("alice", PASSWORD, FROM_AFAR)

    run(scenario())


def test_an_address_guesses_only_so_often_over_all_names(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = Logins(store, clock, People(clock), Passwords(), API(failures_per_minute=5))
        for i in range(5):
            with pytest.raises(LoginRefused):
                await book.login(f"name{i}", PASSWORD, FROM_AFAR)
        with pytest.raises(LoginThrottled):
            await book.login("another", PASSWORD, FROM_AFAR)

    run(scenario())


def test_a_flood_of_logins_is_turned_away_before_it_costs_memory() -> None:
    async def scenario() -> None:
        hashing = Passwords()
        outcomes = await asyncio.gather(
            *(hashing.verify(None, "x") for _ in range(40)), return_exceptions=True
        )
        assert sum(isinstance(o, Busy) for o in outcomes) == 6
        assert not any(o is True for o in outcomes)

    run(scenario())


def test_a_password_change_ends_all_sessions_and_takes_the_old_one(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book, door = logins(store, clock), Authentication(store, clock, API())
        alice = await with_password(store, clock, book, "alice")
        opened = await book.login("alice", PASSWORD, FROM_HOME)
        with pytest.raises(LoginRefused):
            await book.change_password(alice.id, "not the old one", "another long password", FROM_HOME)
        with pytest.raises(PasswordRefused):
            await book.change_password(alice.id, PASSWORD, "short", FROM_HOME)
        assert await door.session(opened.secret) is not None
        await book.change_password(alice.id, PASSWORD, "another long password", FROM_HOME)
        assert await door.session(opened.secret) is None
        with pytest.raises(LoginRefused):
            await book.login("alice", PASSWORD, FROM_HOME)
        await book.login("alice", "another long password", FROM_HOME)

    run(scenario())


def test_a_setup_code_sets_a_password_once(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book, people = logins(store, clock), People(clock)
        bob = await person(store, clock, "bob")
        _, void = await store.write(lambda tx: people.hand_out_setup(tx, ROOT, bob, SYSTEM))
        again = await read(store, bob.id)
        _, code = await store.write(lambda tx: people.hand_out_setup(tx, ROOT, again, SYSTEM))
        with pytest.raises(LoginRefused):
            await book.complete_setup(void, PASSWORD, FROM_HOME)
        outcomes = await asyncio.gather(
            *(book.complete_setup(code, PASSWORD, FROM_HOME) for _ in range(3)), return_exceptions=True
        )
        assert outcomes.count("bob") == 1
        await book.login("bob", PASSWORD, FROM_HOME)
        late = await read(store, bob.id)
        _, expiring = await store.write(lambda tx: people.hand_out_setup(tx, ROOT, late, SYSTEM))
        clock.advance(8 * 86400)
        with pytest.raises(LoginRefused):
            await book.complete_setup(expiring, PASSWORD, FROM_HOME)

    run(scenario())


def test_a_setup_code_does_not_open_an_account_that_has_grown(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book, people = logins(store, clock), People(clock)
        bob = await person(store, clock, "bob")
        with_code, code = await store.write(lambda tx: people.hand_out_setup(tx, ROOT, bob, SYSTEM))
        renamed = await store.write(lambda tx: people.change(tx, ROOT, with_code, Terms(display="B"), SYSTEM))
        assert renamed.setup_hash is not None
        admin = Terms(grants=(grant("admin"),))
        await store.write(lambda tx: people.change(tx, ROOT, renamed, admin, SYSTEM))
        with pytest.raises(LoginRefused):
            await book.complete_setup(code, PASSWORD, FROM_HOME)

    run(scenario())


def test_an_admin_sets_a_password_once_only(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = logins(store, clock)
        alice = await with_password(store, clock, book, "alice")
        with pytest.raises(Refusal):
            await store.write(lambda tx: People(clock).set_password(tx, ROOT, alice, "x", SYSTEM))

    run(scenario())


@pytest.mark.parametrize("password", ["short", "x" * 300, "aaaaaaaaaaaaaaaa", "my name is alice!"])
def test_bad_passwords_are_refused_without_being_repeated(password: str) -> None:
    with pytest.raises(PasswordRefused) as refused:
        passwords.check(password, name="alice")
    assert password not in str(refused.value)


def test_who_may_do_less_changes_nothing_of_who_may_do_more(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        people = People(clock)
        await role(store, clock, "clerk", "person.read", "person.write", "request.read")
        admin = await person(store, clock, "admin", grant("admin"))
        clerk = await acting_as(store, await person(store, clock, "clerk", grant("clerk")))
        for unit in (
            lambda tx: people.change(tx, clerk, admin, Terms(), SYSTEM),
            lambda tx: people.set_state(tx, clerk, admin, False, SYSTEM),
            lambda tx: people.set_password(tx, clerk, admin, "x", SYSTEM),
            lambda tx: people.hand_out_setup(tx, clerk, admin, SYSTEM),
            lambda tx: people.link(tx, clerk, admin, "https://idp", "me", SYSTEM),
            lambda tx: people.end_sessions(tx, clerk, admin, SYSTEM),
            lambda tx: people.create(tx, clerk, "eve", Terms(grants=(grant("admin"),)), SYSTEM),
            lambda tx: people.create(tx, clerk, "eve", Terms(grants=(grant("operator"),)), SYSTEM),
        ):
            with pytest.raises(Refusal):
                await store.write(unit)
        made = await store.write(
            lambda tx: people.create(tx, clerk, "bob", Terms(grants=(grant("clerk"),)), SYSTEM)
        )
        with pytest.raises(Refusal):
            await store.write(
                lambda tx: people.change(tx, clerk, made, Terms(grants=(grant("auditor"),)), SYSTEM)
            )

    run(scenario())


def test_nobody_gives_themselves_more(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        await role(store, clock, "clerk", "person.read", "person.write")
        row = await person(store, clock, "clerk", grant("clerk"))
        clerk = await acting_as(store, row)
        with pytest.raises(Refusal):
            await store.write(
                lambda tx: People(clock).change(tx, clerk, row, Terms(grants=(grant("admin"),)), SYSTEM)
            )

    run(scenario())


def test_a_team_admin_keeps_to_the_team(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        people = People(clock)
        await person(store, clock, "other", teams=("mail",))
        lead = await acting_as(store, await person(store, clock, "lead", grant("admin", teams=("web",))))
        here = Terms(teams=("web",), grants=(grant("operator", teams=("web",)),))
        made = await store.write(lambda tx: people.create(tx, lead, "bob", here, SYSTEM))
        for terms in (
            Terms(),
            Terms(teams=("mail",)),
            Terms(teams=("web", "mail")),
            Terms(teams=("web",), grants=(grant("operator"),)),
            Terms(teams=("web",), grants=(grant("operator", teams=("mail",)),)),
        ):
            with pytest.raises(Refusal):
                await store.write(lambda tx, t=terms: people.change(tx, lead, made, t, SYSTEM))  # type: ignore[misc]

    run(scenario())


def test_accounts_name_only_what_there_is(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        people = People(clock)
        for name, terms, error in (
            ("x", Terms(grants=(grant("nothing"),)), GrantError),
            ("x", Terms(grants=(grant("operator", teams=("none",)),)), GrantError),
            ("x", Terms(grants=(grant("operator", names=("not a pattern",)),)), GrantError),
            ("x", Terms(grants=(grant("operator", channels=("acme",)),)), GrantError),
            ("x", Terms(teams=("none",)), PersonError),
            ("x", Terms(email="a@b\r\nBcc: c@d"), PersonError),
            ("x", Terms(display="two\nlines"), PersonError),
            ("Upper", Terms(), PersonError),
            ("", Terms(), PersonError),
            ("a\0b", Terms(), PersonError),
        ):
            with pytest.raises(error):
                await store.write(lambda tx, n=name, t=terms: people.create(tx, ROOT, n, t, SYSTEM))  # type: ignore[misc]
        await person(store, clock, "alice")
        with pytest.raises(Conflict):
            await store.write(lambda tx: people.create(tx, ROOT, "alice", Terms(), SYSTEM))

    run(scenario())


def test_built_in_roles_are_neither_changed_nor_shadowed(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        for name in ("admin", "requester"):
            shadow = Role(name=name, permissions=frozenset({"person.write"}))
            with pytest.raises(RoleError):
                await store.write(lambda tx, r=shadow: put_role(tx, clock, ROOT, r, None, SYSTEM))  # type: ignore[misc]

    run(scenario())


def test_a_role_holds_at_most_what_its_maker_holds_everywhere(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        await role(store, clock, "role-maker", "role.read", "role.write", "profile.read")
        maker = await acting_as(store, await person(store, clock, "maker", grant("role-maker")))
        confined = await acting_as(
            store, await person(store, clock, "confined", grant("admin", teams=("web",)))
        )
        good = Role(name="reader", permissions=frozenset({"profile.read"}))
        bad = Role(name="reader", permissions=frozenset({"profile.read", "profile.write"}))
        for by, wanted in ((maker, bad), (confined, good)):
            with pytest.raises(Refusal):
                await store.write(lambda tx, b=by, w=wanted: put_role(tx, clock, b, w, None, SYSTEM))  # type: ignore[misc]
        await store.write(lambda tx: put_role(tx, clock, maker, good, None, SYSTEM))
        held = await store.write(lambda tx: put_role(tx, clock, ROOT, bad, _stored(tx, "reader"), SYSTEM))
        with pytest.raises(Refusal):
            await store.write(lambda tx: put_role(tx, clock, maker, good, held, SYSTEM))

    run(scenario())


def test_roles_and_teams_in_use_stay(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        await role(store, clock, "reader", "profile.read")
        await person(store, clock, "alice", grant("reader"), teams=("web",))

        def drop_role(tx: Tx) -> None:
            delete_role(tx, clock, ROOT, _stored(tx, "reader"), SYSTEM)

        def drop_team(tx: Tx) -> None:
            team = role_statements.team(tx, "web")
            assert team is not None
            delete_team(tx, clock, ROOT, team, SYSTEM)

        for unit in (drop_role, drop_team):
            with pytest.raises(RoleError):
                await store.write(unit)

        def leave(tx: Tx) -> None:
            was = statements.by_name(tx, "alice")
            assert was is not None
            People(clock).change(tx, ROOT, was, Terms(), SYSTEM)

        await store.write(leave)
        await store.write(drop_role)
        await store.write(drop_team)

    run(scenario())


def _stored(tx: Tx, name: str) -> role_statements.StoredRole:
    found = role_statements.get(tx, name)
    assert found is not None
    return found
