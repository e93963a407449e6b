"""External account binding keys and API tokens, on both databases."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from certloom.audit import SYSTEM
from certloom.clock import ManualClock
from certloom.identity.credentials import CredentialRefused, Credentials, EABCredential, preauthorizes
from certloom.pki.identifiers import parse_dns, parse_ip
from certloom.store import Store, credentials
from certloom.store.base import Tx
from tests.conftest import run
from tests.core import DATA_KEY


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
