"""Migrations go forward, once, as a whole, on either database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from certloom.clock import ManualClock
from certloom.store import Store, StoreError, Tx, open_store
from certloom.store.migrations import Migration, for_postgresql, migrate, shipped, split
from tests.conftest import run

FIRST = Migration(1, "first", ("CREATE TABLE one (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT",))
SECOND = Migration(
    2, "second", ("ALTER TABLE one ADD COLUMN data BLOB", "CREATE INDEX one_name ON one (name)")
)
BROKEN = Migration(2, "broken", ("CREATE TABLE two (id INTEGER PRIMARY KEY) STRICT", "CREATE NONSENSE"))


@pytest.fixture
def empty(store: Store) -> Store:
    """A database that has forgotten its schema's history."""
    run(store.write(lambda tx: tx.run("DROP TABLE migrations")))
    return store


async def _migrate(store: Store, *migrations: Migration, now: int = 1) -> int:
    return await store.write(lambda tx: migrate(tx, store.dialect, now, migrations))


def _history(tx: Tx) -> Sequence[Any]:
    return tx.all("SELECT number, name, applied FROM migrations ORDER BY number")


def test_what_is_missing_is_applied_in_order_and_recorded(empty: Store) -> None:
    async def go() -> None:
        assert await _migrate(empty, FIRST, now=5) == 1
        assert await _migrate(empty, FIRST, SECOND, now=7) == 1
        assert await _migrate(empty, FIRST, SECOND, now=9) == 0
        assert await empty.read(_history) == [(1, "first", 5), (2, "second", 7)]
        row = await empty.write(
            lambda tx: tx.one("INSERT INTO one (name, data) VALUES ('a', ?) RETURNING id, data", (b"\1",))
        )
        assert row == (1, b"\1")

    run(go())


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty: Store) -> None:
    async def go() -> None:
        with pytest.raises(Exception, match="NONSENSE"):
            await _migrate(empty, FIRST, BROKEN)
        assert await _migrate(empty, FIRST) == 1
        with pytest.raises(Exception, match="NONSENSE"):
            await _migrate(empty, FIRST, BROKEN)
        assert await empty.read(_history) == [(1, "first", 1)]
        await empty.write(lambda tx: tx.run("CREATE TABLE two (id BIGINT)"))

    run(go())


def test_a_database_newer_than_the_code_is_refused(empty: Store) -> None:
    async def go() -> None:
        await _migrate(empty, FIRST, SECOND)
        with pytest.raises(StoreError, match="schema version 2, this certloom knows 1"):
            await _migrate(empty, FIRST)

    run(go())


def test_a_migration_changed_after_it_was_applied_is_refused(empty: Store) -> None:
    async def go() -> None:
        await _migrate(empty, FIRST)
        changed = Migration(1, "first", (*FIRST.statements, "CREATE TABLE extra (id BIGINT)"))
        with pytest.raises(StoreError, match=r"migration 1 \(first\) was applied .* with other contents"):
            await _migrate(empty, changed, SECOND)
        assert await empty.read(_history) == [(1, "first", 1)]

    run(go())


def test_a_gap_in_the_history_is_refused(empty: Store) -> None:
    async def go() -> None:
        await _migrate(empty, FIRST, SECOND)
        await empty.write(lambda tx: tx.run("DELETE FROM migrations WHERE number = 1"))
        with pytest.raises(StoreError, match="lacks migration 1"):
            await _migrate(empty, FIRST, SECOND)

    run(go())


def test_opening_migrates_and_opening_again_finds_nothing_to_do(
    database_url: str, store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        history = await store.read(_history)
        assert [number for number, _, _ in history] == [m.number for m in shipped()]
        await store.close()
        clock.advance(60)
        again = await open_store(database_url, clock=clock)
        assert await again.read(_history) == history
        await again.close()

    run(go())


def test_opening_a_newer_database_is_refused_and_leaves_it_unlocked(
    database_url: str, store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        sql = "INSERT INTO migrations (number, name, checksum, applied) VALUES (?, 'future', 'x', 0)"
        await store.write(lambda tx: tx.run(sql, (len(shipped()) + 1,)))
        await store.close()
        for _ in range(2):
            with pytest.raises(StoreError, match="run a newer"):
                await open_store(database_url, clock=clock)

    run(go())


def test_comments_and_spacing_are_no_part_of_a_migration() -> None:
    plain = split("CREATE TABLE a (b TEXT);\nCREATE TABLE c (d TEXT);")
    commented = split(
        "-- why; not\nCREATE   TABLE a ( -- here; too\n b TEXT);;\n/* ; */ CREATE TABLE c (d TEXT)\n;\n"
    )
    assert plain == ("CREATE TABLE a (b TEXT)", "CREATE TABLE c (d TEXT)")
    assert tuple(s.replace("( ", "(") for s in commented) == plain


def test_what_stands_in_literals_ends_no_statement_and_is_kept_as_it_is() -> None:
    (statement,) = split("INSERT INTO a VALUES ('x;  -- y', 'it''s /* */ TEXT', \"b;\");")
    assert statement == "INSERT INTO a VALUES ('x;  -- y', 'it''s /* */ TEXT', \"b;\")"


@pytest.mark.parametrize(
    ("written", "rewritten"),
    [
        ("id INTEGER PRIMARY KEY", "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
        ("a INTEGER NOT NULL", "a BIGINT NOT NULL"),
        ("b BLOB", "b BYTEA"),
        ("c TEXT PRIMARY KEY", 'c TEXT COLLATE "C" PRIMARY KEY'),
        ("CREATE TABLE a (b TEXT) STRICT", 'CREATE TABLE a (b TEXT COLLATE "C")'),
        ("INSERT INTO a VALUES ('INTEGER TEXT BLOB')", "INSERT INTO a VALUES ('INTEGER TEXT BLOB')"),
    ],
)
def test_statements_are_rewritten_for_postgresql(written: str, rewritten: str) -> None:
    assert for_postgresql(written) == rewritten


def test_the_shipped_migrations_are_numbered_without_gaps() -> None:
    assert [m.number for m in shipped()] == list(range(1, len(shipped()) + 1))
