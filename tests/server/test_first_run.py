"""A fresh installation is made once, whole, and told once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from certloom.clock import ManualClock, SystemClock
from certloom.pki.certificates import parse_certificate
from certloom.secrets import SecretError
from certloom.server.first_run import take_welcome, told
from certloom.server.rooms import Rooms, open_rooms
from certloom.settings import Settings
from certloom.store import configuration
from certloom.store.base import Store
from tests.server.conftest import Installation
from tests.server.listening import run


def test_it_makes_two_cas_three_profiles_a_channel_and_a_credential(either: Installation) -> None:
    async def look(rooms: Rooms) -> None:
        root, issuing = rooms.books.authority_row("root"), rooms.books.authority_row("issuing")
        assert (root.issuer, issuing.issuer) == (None, "root")
        assert b"PRIVATE" not in Path(rooms.data_dir.path, "data.key").read_bytes()
        above, below = parse_certificate(root.certificate), parse_certificate(issuing.certificate)
        assert below.authority_key_identifier == above.key_identifier
        assert below.crl_urls == ("http://pki.test/crl/root/0.crl",)
        assert below.not_after <= above.not_after
        assert sorted(rooms.books.profiles()) == ["device", "tls-client", "tls-server"]
        channel = rooms.books.acme_channel("default")
        assert channel is not None
        assert channel.profiles == ("tls-server",)
        assert (
            rooms.data_dir.path.stat().st_mode & 0o777,
            rooms.data_dir.data_key.stat().st_mode & 0o777,
        ) == (
            0o700,
            0o600,
        )

    either.within(look)


def test_what_is_there_is_never_made_again(either: Installation) -> None:
    async def serials(rooms: Rooms) -> list[bytes]:
        return [row.certificate for row in rooms.books.authority_rows()]

    assert either.within(serials) == either.within(serials)


def test_the_welcome_is_told_until_it_has_been_told(installation: Installation) -> None:
    async def interrupted(rooms: Rooms) -> str:
        welcome = await take_welcome(rooms.store, rooms.clock, rooms.credentials)
        assert welcome is not None
        return f"{welcome.eab.id} {welcome.admin_token}"

    async def finished(rooms: Rooms) -> str:
        text = await interrupted(rooms)
        await told(rooms.store)
        return text

    async def later(rooms: Rooms) -> bool:
        return await take_welcome(rooms.store, rooms.clock, rooms.credentials) is None

    first = installation.within(interrupted).split()
    second = installation.within(finished).split()
    assert first[0] == second[0]
    assert first[1] != second[1]  # the one that was perhaps never seen is replaced
    assert installation.within(later)
    tokens = [c for c in installation.ask("GET", "/credentials")["items"] if c["kind"] == "api-token"]
    assert [c["revoked"] is None for c in tokens] == [False, True]


def test_another_node_leaves_the_first_its_turn_to_tell(
    settings: Settings, postgresql_url: str, clock: ManualClock
) -> None:
    installation = Installation(
        msgspec.structs.replace(
            settings, database=msgspec.structs.replace(settings.database, url=postgresql_url)
        )
    )

    async def take(rooms: Rooms) -> bool:
        return await take_welcome(rooms.store, clock, rooms.credentials) is not None

    assert installation.within(take, clock)
    assert not installation.within(take, clock)
    clock.advance(120)
    assert installation.within(take, clock)


def test_of_several_nodes_that_start_at_once_one_creates(settings: Settings, postgresql_url: str) -> None:
    settings = msgspec.structs.replace(
        settings, database=msgspec.structs.replace(settings.database, url=postgresql_url, connections=2)
    )

    async def main() -> None:
        nodes = await asyncio.gather(*(open_rooms(settings, SystemClock()) for _ in range(4)))
        seen = {tuple(row.certificate for row in rooms.books.authority_rows()) for rooms in nodes}
        assert len(seen) == 1
        assert len(next(iter(seen))) == 2
        for rooms in nodes:
            await rooms.close()

    run(main())


def test_a_crash_before_the_commit_leaves_nothing_and_the_next_start_completes(
    either: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(configuration, "touch", die)
        with pytest.raises(Killed):
            either.within(_nothing)

    async def count(rooms: Rooms) -> int:
        return len(rooms.books.authority_rows())

    assert either.within(count) == 2


async def _nothing(rooms: Rooms) -> None:
    pass


def test_another_data_key_is_noticed_at_the_start(installation: Installation) -> None:
    installation.within(_nothing)
    key = Path(installation.settings.data_dir, "data.key")
    key.unlink()
    with pytest.raises(SecretError, match="not the one this database was made under"):
        installation.within(_nothing)


def test_its_facts_hold_no_secret(installation: Installation) -> None:
    async def look(rooms: Rooms) -> None:
        welcome = await take_welcome(rooms.store, rooms.clock, rooms.credentials)
        assert welcome is not None
        assert welcome.admin_token not in repr(welcome)
        store: Store = rooms.store
        fact = await store.read(lambda tx: configuration.fact(tx, "installed"))
        assert fact is not None
        assert welcome.admin_token not in fact

    installation.within(look)
