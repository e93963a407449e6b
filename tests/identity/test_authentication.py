"""Tokens, sessions and client certificates: good, and in every way not."""

from __future__ import annotations

from typing import Any

import pytest

from certloom.audit import SYSTEM
from certloom.clock import ManualClock
from certloom.identity.authentication import Authentication
from certloom.identity.credentials import Credentials, Terms
from certloom.identity.login import Logins
from certloom.identity.passwords import Passwords
from certloom.identity.people import People
from certloom.identity.people import Terms as PersonTerms
from certloom.identity.principals import Grant, Thing
from certloom.pki.identifiers import parse_dns
from certloom.settings.schema import API
from certloom.store import Store
from certloom.store import certificates as certificate_statements
from certloom.store import credentials as credential_statements
from certloom.store import people as people_statements
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate
from certloom.store.people import StoredPerson
from tests.conftest import run
from tests.core import DATA_KEY
from tests.identity.making import ROOT, acting_as, grant, person


async def token(
    store: Store, clock: ManualClock, owner: str, *grants: Grant, **values: Any
) -> tuple[str, str]:
    return await store.write(
        lambda tx: Credentials(DATA_KEY, clock).create_token(
            tx,
            grants=grants,
            owner=owner,
            origin=SYSTEM,
            **values,
        )
    )


def test_a_token_acts_for_its_person_within_its_grants(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        alice = await person(store, clock, "alice", grant("approver"), teams=("web",))
        id, secret = await token(store, clock, alice.id, grant("admin"))
        found = await door.token(secret)
        assert found is not None
        assert (found.actor, found.owner, found.teams) == (f"token:{id}", alice.id, ("web",))
        assert found.may("approval.decide")
        assert not found.may("person.write")

    run(scenario())


def test_a_token_loses_at_once_what_its_person_loses(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        people = People(clock)
        alice = await person(store, clock, "alice", grant("operator"))
        _, secret = await token(store, clock, alice.id, grant("operator"))

        def demote(tx: Tx) -> None:
            was = people_statements.get(tx, alice.id)
            assert was is not None
            people.change(tx, ROOT, was, PersonTerms(grants=(grant("auditor"),)), SYSTEM)

        await store.write(demote)
        found = await door.token(secret)
        assert found is not None
        assert not found.may("profile.write")
        assert found.may("profile.read")

    run(scenario())


def test_a_disabled_person_has_no_tokens_and_no_sessions(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        people = People(clock)
        logins = Logins(store, clock, people, Passwords(), API())
        alice = await person(store, clock, "alice", grant("operator"))
        id, secret = await token(store, clock, alice.id, grant("operator"))
        session = await store.write(lambda tx: logins.open(tx, alice, SYSTEM, "test"))
        assert await door.session(session.secret) is not None

        def switch(active: bool) -> object:
            def unit(tx: Tx) -> StoredPerson:
                was = people_statements.get(tx, alice.id)
                assert was is not None
                return people.set_state(tx, ROOT, was, active, SYSTEM)

            return unit

        await store.write(switch(False))  # type: ignore[arg-type]
        assert await door.token(secret) is None
        assert await door.session(session.secret) is None
        await store.write(switch(True))  # type: ignore[arg-type]
        assert await door.token(secret) is None
        assert await door.session(session.secret) is None
        row = await store.read(lambda tx: credential_statements.get(tx, id))
        assert row is not None
        assert row.revoked is not None

    run(scenario())


def test_expired_revoked_foreign_and_malformed_tokens_are_nobodys(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        book = Credentials(DATA_KEY, clock)
        _, expiring = await token(store, clock, "service:a", grant("auditor"), expires=clock.now() + 10)
        revoked_id, revoked = await token(store, clock, "service:b", grant("auditor"))
        await store.write(lambda tx: book.revoke(tx, revoked_id, SYSTEM))
        password = await store.write(lambda tx: book.create(tx, "est-password", Terms(), origin=SYSTEM))
        assert await door.token(expiring) is not None
        clock.advance(10)
        assert password.secret is not None
        for bad in (
            expiring,
            revoked,
            password.secret,
            "",
            "clt_",
            "clt_" + "a" * 500,
            "clt_\u00e9",
            "clt_\0",
        ):
            assert await door.token(bad) is None

    run(scenario())


def test_a_service_acts_on_its_own_with_its_team(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        await person(store, clock, "x", teams=("web",))
        _, secret = await token(store, clock, "service:ci", grant("requester", teams=("web",)), team="web")
        found = await door.token(secret)
        assert found is not None
        assert (found.owner, found.teams) == ("service:ci", ("web",))
        assert found.may("request.create", Thing(owner="service:ci", team="web"))
        assert not found.may("request.create", Thing(owner="service:other", team="web"))

    run(scenario())


def test_a_token_without_grants_may_do_nothing(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        _, secret = await token(store, clock, "service:old")
        found = await Authentication(store, clock, API()).token(secret)
        assert found is not None
        assert not found.may_somewhere("system.read")

    run(scenario())


def test_that_a_token_was_used_is_noted_once_a_minute(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        id, secret = await token(store, clock, "service:a", grant("auditor"))

        async def noted() -> int | None:
            await door.token(secret)
            row = await store.read(lambda tx: credential_statements.get(tx, id))
            assert row is not None
            return row.last_used

        first = await noted()
        assert first == clock.now()
        clock.advance(30)
        assert await noted() == first
        clock.advance(30)
        assert await noted() == clock.now()

    run(scenario())


def test_a_session_ends_by_idleness_and_in_the_end_anyhow(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        settings = API(session_idle_seconds=600, session_seconds=3600)
        door = Authentication(store, clock, settings)
        logins = Logins(store, clock, People(clock), Passwords(), settings)
        alice = await person(store, clock, "alice")
        idle = await store.write(lambda tx: logins.open(tx, alice, SYSTEM, "test"))
        busy = await store.write(lambda tx: logins.open(tx, alice, SYSTEM, "test"))
        for _ in range(7):
            clock.advance(500)
            assert await door.session(busy.secret) is not None
        assert await door.session(idle.secret) is None
        clock.advance(100)
        assert await door.session(busy.secret) is None
        await logins.prune()
        assert await store.read(lambda tx: tx.all("SELECT 1 FROM sessions")) == []

    run(scenario())


def _certificate(clock: ManualClock, number: int, **changed: object) -> StoredCertificate:
    values = {
        "id": 0,
        "authority": "issuing",
        "serial": bytes([number]) * 16,
        "der": b"certificate %d" % number,
        "spki_sha256": bytes([number]) * 32,
        "not_before": clock.now() - 10,
        "not_after": clock.now() + 1000,
        "profile": "clients",
        "profile_version": 1,
        "requester": "system",
        "request_id": f"r{number}",
        "crl_shard": 0,
        "issued": clock.now(),
        **changed,
    }
    return StoredCertificate(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("by_key", [True, False])
def test_a_client_certificate_of_the_inventory_is_its_identity(
    store: Store, clock: ManualClock, by_key: bool
) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        book = Credentials(DATA_KEY, clock)
        name = parse_dns("robot.example.com")
        held = _certificate(clock, 1)

        def unit(tx: Tx) -> int:
            book.create(
                tx,
                "client-certificate",
                Terms(grants=(grant("auditor"),)),
                owner="service:robot",
                spki_sha256=held.spki_sha256 if by_key else None,
                subject=None if by_key else ("clients", str(name)),
                origin=SYSTEM,
            )
            certificate_statements.insert(tx, _certificate(clock, 2), [parse_dns("other.example.com")])
            certificate_statements.insert(tx, _certificate(clock, 3, profile="web"), [name])
            return certificate_statements.insert(tx, held, [name])

        id = await store.write(unit)
        found = await door.certificate(held.der)
        assert found is not None
        assert (found.kind, found.owner) == ("client-certificate", "service:robot")
        assert await door.certificate(b"certificate 2") is None
        assert await door.certificate(b"certificate 3") is None
        assert await door.certificate(b"of a stranger") is None
        await store.write(lambda tx: certificate_statements.set_revoked(tx, id, clock.now(), 6))
        assert await door.certificate(held.der) is None

    run(scenario())


def test_expired_and_ambiguous_client_certificates_are_nobodys(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        door = Authentication(store, clock, API())
        book = Credentials(DATA_KEY, clock)
        name = parse_dns("robot.example.com")

        def identity(tx: Tx, owner: str, number: int | None) -> None:
            book.create(
                tx,
                "client-certificate",
                Terms(grants=(grant("auditor"),)),
                owner=owner,
                spki_sha256=None if number is None else bytes([number]) * 32,
                subject=("clients", str(name)) if number is None else None,
                origin=SYSTEM,
            )

        def unit(tx: Tx) -> None:
            identity(tx, "service:a", None)
            identity(tx, "service:b", 2)
            identity(tx, "service:c", 3)
            certificate_statements.insert(tx, _certificate(clock, 2), [name])
            certificate_statements.insert(tx, _certificate(clock, 3, not_after=clock.now() + 5), [])

        await store.write(unit)
        assert await door.certificate(b"certificate 2") is None
        assert await door.certificate(b"certificate 3") is not None
        clock.advance(5)
        assert await door.certificate(b"certificate 3") is None

    run(scenario())


def test_a_person_is_found_as_they_are_now(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        alice = await person(store, clock, "alice", grant("operator", teams=("web",)))
        assert (await acting_as(store, alice)).may("profile.write", Thing(team="web"))

    run(scenario())
