"""Credentials of every kind, on both databases: made, presented, spent, rotated, revoked; and by whom."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from certloom.audit import SYSTEM
from certloom.clock import ManualClock
from certloom.identity.credentials import (
    CredentialError,
    CredentialRefused,
    Credentials,
    EABCredential,
    StaleCredential,
    Terms,
    preauthorizes,
)
from certloom.identity.delegation import Refusal, intersect
from certloom.identity.issuing import check_write
from certloom.identity.people import People
from certloom.identity.principals import Principal, holding
from certloom.pki.identifiers import parse_dns, parse_ip
from certloom.store import Store, credentials
from certloom.store.base import Tx
from tests.conftest import run
from tests.core import DATA_KEY
from tests.identity.making import ROOT, acting_as, grant, person


async def made(book: Credentials, store: Store, **values: object) -> EABCredential:
    def unit(tx: Tx) -> EABCredential:
        return book.create_eab(tx, channel="default", origin=SYSTEM, **values)  # type: ignore[arg-type]

    return await store.write(unit)


def test_a_binding_key_is_found_on_its_channel_only(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        key = await made(book, store)
        assert len(key.mac_key) == 32
        assert await store.read(lambda tx: book.eab(tx, key.id, "default")) == key
        assert await store.read(lambda tx: book.eab(tx, key.id, "other")) is None
        assert await store.read(lambda tx: book.eab(tx, "nobody", "default")) is None

    run(scenario())


def test_a_binding_key_is_sealed_at_rest_and_kept_out_of_words(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        key = await made(book, store)
        row = await store.read(lambda tx: credentials.get(tx, key.id))
        assert row is not None
        assert row.secret_sealed is not None
        assert key.mac_key not in row.secret_sealed
        assert repr(key.mac_key) not in repr(key)
        events = await store.read(lambda tx: tx.all("SELECT kind, data FROM events"))
        assert events[0][0] == "credential.created"
        assert key.mac_key.hex() not in events[0][1]

    run(scenario())


def test_expired_spent_and_revoked_binding_keys_bind_nobody(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        expiring = await made(book, store, expires=clock.now() + 10)
        spent = await made(book, store, uses=1)
        revoked = await made(book, store)
        await store.write(lambda tx: book.use(tx, spent.id))
        assert await store.write(lambda tx: book.revoke(tx, revoked.id, SYSTEM))
        assert not await store.write(lambda tx: book.revoke(tx, revoked.id, SYSTEM))
        clock.advance(10)
        for key in (expiring, spent, revoked):
            assert await store.read(lambda tx, id=key.id: book.eab(tx, id, "default")) is None  # type: ignore[misc]

    run(scenario())


def test_two_uses_of_a_one_use_credential_at_one_instant_succeed_once(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        key = await made(book, store, uses=1)
        outcomes = await asyncio.gather(
            *(store.write(lambda tx: book.use(tx, key.id)) for _ in range(6)), return_exceptions=True
        )
        assert sum(isinstance(outcome, CredentialRefused) for outcome in outcomes) == 5

    run(scenario())


def test_a_token_is_kept_only_as_its_hash(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        id, token = await store.write(lambda tx: book.create_token(tx, origin=SYSTEM))
        digest = hashlib.sha256(token.encode()).digest()
        row = await store.read(lambda tx: credentials.by_secret_hash(tx, digest))
        assert row is not None
        assert row.id == id
        assert row.secret_sealed is None

    run(scenario())


@pytest.mark.parametrize(
    ("names", "name", "vouched"),
    [
        ((), "www.example.com", False),
        (("www.example.com",), "www.example.com", True),
        (("**.example.com",), "a.b.example.com", True),
        (("**.example.com",), "example.com", False),
        (("**",), "anything.test", True),
    ],
)
def test_a_credential_vouches_only_for_the_names_it_was_given(
    names: tuple[str, ...], name: str, vouched: bool
) -> None:
    assert preauthorizes(names, parse_dns(name)) is vouched


def test_a_credential_can_vouch_for_addresses() -> None:
    assert preauthorizes(("10.0.0.0/8",), parse_ip("10.1.2.3"))
    assert not preauthorizes(("10.0.0.0/8",), parse_ip("192.0.2.1"))


def test_a_revoked_credential_vouches_no_longer_and_a_spent_one_does(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        key = await made(book, store, names=("**.example.com",), preauthorized=True, uses=1)
        await store.write(lambda tx: book.use(tx, key.id))
        assert await store.read(lambda tx: book.vouching(tx, key.id)) == ("**.example.com",)
        await store.write(lambda tx: book.revoke(tx, key.id, SYSTEM))
        assert await store.read(lambda tx: book.vouching(tx, key.id)) == ()

    run(scenario())


KINDS_BY_PROTOCOL = (
    ("est-password", "est"),
    ("est-token", "est"),
    ("scep-challenge", "scep"),
)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS_BY_PROTOCOL])
def test_a_secret_is_presented_on_its_channel_and_as_its_kind_only(
    store: Store, clock: ManualClock, kind: str
) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        bound = await store.write(
            lambda tx: book.create(
                tx, kind, Terms(names=("**.example.com",)), channel="iot", owner="service:x", origin=SYSTEM
            )
        )
        free = await store.write(lambda tx: book.create(tx, kind, Terms(), origin=SYSTEM))
        assert bound.secret is not None
        assert free.secret is not None
        assert len(bound.secret) >= 32

        async def presented(secret: str, channel: str, as_kind: str = kind, id: str | None = None) -> bool:
            found = await store.read(lambda tx: book.present_secret(tx, as_kind, channel, secret, id=id))
            return found is not None

        assert await presented(bound.secret, "iot")
        assert await presented(bound.secret, "iot", id=bound.credential.id)
        assert not await presented(bound.secret, "iot", id="another")
        assert not await presented(bound.secret, "other")
        assert not await presented(bound.secret, "iot", "api-token")
        assert await presented(free.secret, "iot")
        assert await presented(free.secret, "other")
        for wrong in ("", "x" * 1000, bound.secret + "x", "\ud800"):
            assert not await presented(wrong, "iot")
        stored = await store.read(lambda tx: tx.all("SELECT secret_hash, secret_sealed FROM credentials"))
        assert all(sealed is None for _, sealed in stored)

    run(scenario())


def test_a_rotated_secret_is_good_for_the_overlap_only(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        made = await store.write(lambda tx: book.create(tx, "est-password", Terms(), origin=SYSTEM))
        second = await store.write(lambda tx: book.rotate(tx, made.credential, 60, SYSTEM))

        async def good(secret: str | None) -> bool:
            assert secret is not None
            return (
                await store.read(lambda tx: book.present_secret(tx, "est-password", "iot", secret))
                is not None
            )

        assert await good(made.secret)
        assert await good(second.secret)
        third = await store.write(lambda tx: book.rotate(tx, second.credential, 60, SYSTEM))
        assert not await good(made.secret)
        assert await good(second.secret)
        clock.advance(60)
        assert not await good(second.secret)
        assert await good(third.secret)
        last = await store.write(lambda tx: book.rotate(tx, third.credential, 0, SYSTEM))
        assert not await good(third.secret)
        with pytest.raises(StaleCredential):
            await store.write(lambda tx: book.rotate(tx, third.credential, 0, SYSTEM))
        await store.write(lambda tx: book.revoke(tx, last.credential.id, SYSTEM))
        assert not await good(last.secret)

    run(scenario())


def test_a_mac_key_is_had_by_its_id_and_rotates_as_well(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        made = await store.write(
            lambda tx: book.create(tx, "cmp-secret", Terms(), id="ref-1", channel="factory", origin=SYSTEM)
        )
        rotated = await store.write(lambda tx: book.rotate(tx, made.credential, 60, SYSTEM))
        assert made.secret is not None
        assert rotated.secret is not None

        async def keys(channel: str = "factory", kind: str = "cmp-secret") -> tuple[bytes, ...]:
            found = await store.read(lambda tx: book.mac_keys(tx, kind, channel, "ref-1"))
            return () if found is None else found[1]

        assert await keys() == (rotated.secret.encode(), made.secret.encode())
        assert await keys("other") == ()
        assert await keys(kind="acme-eab") == ()
        clock.advance(60)
        assert await keys() == (rotated.secret.encode(),)
        rows = await store.read(lambda tx: tx.all("SELECT secret_hash, data FROM credentials, events"))
        assert all(row[0] is None for row in rows)
        assert not any(made.secret in row[1] or rotated.secret in row[1] for row in rows)

    run(scenario())


@pytest.mark.parametrize("kind", ["est-password", "scep-challenge", "cmp-secret", "acme-eab"])
def test_a_use_is_spent_once_with_what_it_was_for(store: Store, clock: ManualClock, kind: str) -> None:
    async def scenario() -> None:
        book = Credentials(DATA_KEY, clock)
        made = await store.write(lambda tx: book.create(tx, kind, Terms(uses=2), channel="c", origin=SYSTEM))

        def unit(tx: Tx) -> None:
            book.spend(tx, made.credential.id)

        outcomes = await asyncio.gather(*(store.write(unit) for _ in range(8)), return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 2
        assert sum(isinstance(outcome, CredentialRefused) for outcome in outcomes) == 6

    run(scenario())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("api-token", {"channel": "c"}),
        ("acme-eab", {"channel": None}),
        ("client-certificate", {}),
        ("client-certificate", {"spki_sha256": b"\0" * 32, "subject": ("p", "dns:a")}),
        ("est-token", {"spki_sha256": b"\0" * 32}),
        ("est-token", {"id": "has space"}),
        ("est-token", {"terms": Terms(grants=(grant("admin"),))}),
        ("est-token", {"terms": Terms(preauthorized=True, names=("**",))}),
        ("est-token", {"terms": Terms(expires=1)}),
        ("api-token", {"terms": Terms(names=("**",))}),
        ("api-token", {"terms": Terms(label="two\nlines")}),
    ],
)
def test_credentials_that_make_no_sense_are_refused(
    store: Store, clock: ManualClock, kind: str, values: dict[str, Any]
) -> None:
    async def scenario() -> None:
        others = dict(values)
        terms = others.pop("terms", Terms())
        with pytest.raises(CredentialError):
            await store.write(
                lambda tx: Credentials(DATA_KEY, clock).create(tx, kind, terms, origin=SYSTEM, **others)
            )

    run(scenario())


async def _writes(
    store: Store, clock: ManualClock, by: Principal, kind: str, terms: Terms, **values: Any
) -> None:
    """Make a credential as ``by`` would over the API, and take it back."""

    def unit(tx: Tx) -> None:
        made = Credentials(DATA_KEY, clock).create(tx, kind, terms, origin=SYSTEM, **values)
        check_write(tx, People(clock), by, made.credential)

    await store.write(unit)


def test_a_person_makes_tokens_for_themselves_within_what_they_hold(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        row = await person(store, clock, "alice", grant("requester"))
        alice = await acting_as(store, row)
        await _writes(store, clock, alice, "api-token", Terms(grants=(grant("requester"),)), owner=row.id)
        for owner, role_name in ((row.id, "admin"), (row.id, "auditor"), ("service:x", "requester")):
            with pytest.raises(Refusal):
                await _writes(
                    store, clock, alice, "api-token", Terms(grants=(grant(role_name),)), owner=owner
                )

    run(scenario())


def test_nobody_makes_what_acts_as_another_person(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        bob = await person(store, clock, "bob", grant("approver"))
        operator = await acting_as(store, await person(store, clock, "olga", grant("operator")))
        admin = await acting_as(store, await person(store, clock, "adam", grant("admin")))
        terms = Terms(grants=(grant("requester"),))
        with pytest.raises(Refusal):
            await _writes(store, clock, operator, "api-token", terms, owner=bob.id)
        await _writes(store, clock, admin, "api-token", terms, owner=bob.id)
        with pytest.raises(CredentialError):
            await _writes(store, clock, admin, "api-token", terms, owner="no such person")

    run(scenario())


def test_a_narrowed_token_makes_no_wider_one(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        row = await person(store, clock, "alice", grant("admin"))
        alice = await acting_as(store, row)
        narrowed = Principal(
            kind="token",
            id="t",
            name="t",
            owner=row.id,
            held=intersect(alice.held, holding([grant("operator")], {})),
        )
        await _writes(store, clock, narrowed, "api-token", Terms(grants=(grant("operator"),)), owner=row.id)
        with pytest.raises(Refusal):
            await _writes(store, clock, narrowed, "api-token", Terms(grants=(grant("admin"),)), owner=row.id)

    run(scenario())


def test_a_service_is_no_second_approver(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        both = await acting_as(store, await person(store, clock, "bo", grant("operator"), grant("approver")))
        admin = await acting_as(store, await person(store, clock, "adam", grant("admin")))
        terms = Terms(grants=(grant("approver"),))
        with pytest.raises(Refusal, match=r"person\.write"):
            await _writes(store, clock, both, "api-token", terms, owner="service:me-too")
        await _writes(store, clock, admin, "api-token", terms, owner="service:me-too")
        # Nor does who decides ask as somebody else.
        with pytest.raises(Refusal):
            await _writes(store, clock, both, "est-token", Terms(), owner="service:other")
        await _writes(store, clock, both, "est-token", Terms(), owner=both.owner)

    run(scenario())


def test_credentials_stay_within_the_scope_of_who_makes_them(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        scope = {"teams": ("web",), "names": ("**.web.example",)}
        row = await person(store, clock, "lead", grant("operator", **scope), teams=("web", "mail"))
        lead = await acting_as(store, row)
        inside = Terms(team="web", names=("a.web.example", "*.web.example"))
        await _writes(store, clock, lead, "est-token", inside, owner=row.id)
        for terms in (
            Terms(names=("a.web.example",)),
            Terms(team="mail", names=("a.web.example",)),
            Terms(team="web"),
            Terms(team="web", names=("**",)),
            Terms(team="web", names=("a.web.example", "b.example")),
        ):
            with pytest.raises(Refusal):
                await _writes(store, clock, lead, "est-token", terms, owner=row.id)

    run(scenario())


def test_a_credential_names_only_what_there_is(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        for kind, terms, values in (
            ("est-token", Terms(team="none"), {}),
            ("est-token", Terms(profiles=("none",)), {}),
            ("est-token", Terms(), {"channel": "none"}),
            ("acme-eab", Terms(), {"channel": "none"}),
        ):
            with pytest.raises(CredentialError):
                await _writes(store, clock, ROOT, kind, terms, **values)

    run(scenario())
