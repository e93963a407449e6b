"""Where SQLite and PostgreSQL differ, and what makes them the same to the rooms above.

PostgreSQL's default collation is a linguistic one in these tests.
"""

from __future__ import annotations

import enum
import threading
from typing import Any

import pytest

from certloom.store import Store, Tx
from certloom.store.migrations import for_postgresql, shipped
from tests.conftest import run

INSERT_SPAN = "INSERT INTO lost_spans (since, until) VALUES (?, ?)"


def _facts(*pairs: tuple[str, str]) -> Any:
    return lambda tx: tx.many("INSERT INTO facts (key, value) VALUES (?, ?)", pairs)


def _all(sql: str, *params: Any) -> Any:
    return lambda tx: tx.all(sql, params)


def test_like_tells_upper_from_lower_case(store: Store) -> None:
    async def go() -> None:
        await store.write(_facts(("a", "Host"), ("b", "host")))
        for method in (store.read, store.scan, store.write):
            assert await method(_all("SELECT key FROM facts WHERE value LIKE ?", "host%")) == [("b",)]

    run(go())


def test_text_is_ordered_and_compared_by_its_octets(store: Store) -> None:
    words = ["Z", "_", "a", "a b", "a-b", "ab", "z", "ä", "\U0001f511"]

    async def go() -> None:
        await store.write(_facts(*((word, "x") for word in reversed(words))))
        rows = await store.read(_all("SELECT key FROM facts ORDER BY key"))
        assert [key for (key,) in rows] == sorted(words, key=str.encode)
        seen, cursor = [], ""
        while page := await store.read(
            _all("SELECT key FROM facts WHERE key > ? ORDER BY key LIMIT 2", cursor)
        ):
            seen += [key for (key,) in page]
            cursor = seen[-1]
        assert seen == words

    run(go())


def test_nulls_stand_where_the_statement_says(store: Store) -> None:
    def unit(tx: Tx) -> None:
        for kind, finished in (("a", 2), ("b", None), ("c", 1)):
            tx.run(
                "INSERT INTO jobs (kind, payload, state, attempt, due_ms, finished, created)"
                " VALUES (?, '', '', 0, 0, ?, 0)",
                (kind, finished),
            )
        first = tx.all("SELECT kind FROM jobs ORDER BY finished NULLS FIRST")
        last = tx.all("SELECT kind FROM jobs ORDER BY finished DESC NULLS LAST")
        assert [kind for (kind,) in first] == ["b", "c", "a"]
        assert [kind for (kind,) in last] == ["a", "c", "b"]

    run(store.write(unit))


def test_question_marks_and_percent_signs_in_literals_are_just_text(store: Store) -> None:
    async def go() -> None:
        await store.write(_facts(("50%?", "it's"), ("other", "x")))
        sql = (
            'SELECT key /* ? */ AS "what?" FROM facts'
            " WHERE key LIKE '%?' AND value = 'it''s' AND key <> ? -- ?"
        )
        assert await store.read(_all(sql, "other")) == [("50%?",)]
        assert await store.read(_all("SELECT 7 % 4, '%s %d %%'")) == [(3, "%s %d %%")]

    run(go())


def test_every_type_of_value_comes_back_as_it_went_in(store: Store) -> None:
    class Word(enum.StrEnum):
        A = "a"

    def unit(tx: Tx) -> None:
        octets = bytes(range(256))
        tx.run(
            "INSERT INTO blocked_keys (spki_sha256, why, created) VALUES (?, ?, ?)",
            (octets, "'\"\\%ß\n", 2**63 - 1),
        )
        assert tx.one("SELECT spki_sha256, why, created FROM blocked_keys") == (
            octets,
            "'\"\\%ß\n",
            2**63 - 1,
        )
        tx.run("UPDATE blocked_keys SET spki_sha256 = ?, why = ?, created = ?", (b"", "", -(2**63)))
        assert tx.one("SELECT spki_sha256, why, created FROM blocked_keys") == (b"", "", -(2**63))
        assert tx.one("SELECT 1 FROM blocked_keys WHERE spki_sha256 = ? AND why = ?", (b"", ""))
        tx.run("UPDATE blocked_keys SET why = ?, created = ?", (Word.A, True))
        assert tx.one("SELECT why, created FROM blocked_keys") == ("a", 1)
        tx.run(
            "INSERT INTO serials (authority, serial, state, node, reserved) VALUES (?, ?, ?, ?, ?)",
            ("", b"\0", "", "", 0),
        )
        tx.run(
            "INSERT INTO jobs (kind, payload, state, attempt, due_ms, error, created)"
            " VALUES ('', '', '', 0, 0, ?, 0)",
            (None,),
        )
        assert tx.one("SELECT key, error, lease_until_ms FROM jobs") == (None, None, None)

    run(store.write(unit))


def test_computed_values_are_integers_on_both(store: Store) -> None:
    def unit(tx: Tx) -> None:
        tx.many(INSERT_SPAN, [(2**62, 10_000), (-(2**61), 20_001)])
        row = tx.one("SELECT count(*), sum(since), sum(until), max(since), min(until) FROM lost_spans")
        assert row == (2, 2**62 - 2**61, 30_001, 2**62, 10_000)
        assert all(type(value) is int for value in row)
        assert tx.one("SELECT sum(since) FROM lost_spans WHERE id < 0") == (None,)
        row = tx.one("SELECT EXISTS (SELECT 1 FROM lost_spans), NOT EXISTS (SELECT 1 FROM lost_spans)")
        assert row == (1, 0)
        assert [type(value) for value in row] == [int, int]

    run(store.write(unit))


@pytest.mark.parametrize("number", [0, 1, -1, 9_999, 10_000, -10_000, 123_456_789_012, 10**16, -(2**63) + 1])
def test_sums_of_any_size_are_read_exactly(store: Store, number: int) -> None:
    def unit(tx: Tx) -> None:
        tx.run(INSERT_SPAN, (number, 0))
        assert tx.one("SELECT sum(since) FROM lost_spans") == (number,)

    run(store.write(unit))


def test_arithmetic_on_a_parameter_has_64_bits(store: Store) -> None:
    def unit(tx: Tx) -> None:
        tx.run(INSERT_SPAN, (0, 1_800_000_000_000))
        assert tx.one("SELECT ? + 1 FROM lost_spans WHERE until < ? + 5", (2**40, 1_800_000_000_000)) == (
            2**40 + 1,
        )

    run(store.write(unit))


@pytest.mark.parametrize(
    "params", [("text", 1), (1, b"octets"), (1.5, 1), (1, None)], ids=["text", "octets", "fraction", "null"]
)
def test_a_value_of_the_wrong_type_is_refused(store: Store, params: tuple[Any, Any]) -> None:
    async def go() -> None:
        with pytest.raises(Exception, match=r".+"):
            await store.write(lambda tx: tx.run(INSERT_SPAN, params))
        assert await store.read(_all("SELECT 1 FROM lost_spans")) == []

    run(go())


def test_an_integer_beyond_64_bits_is_refused(store: Store) -> None:
    with pytest.raises(Exception, match=r".+"):
        run(store.write(lambda tx: tx.run(INSERT_SPAN, (2**63, 1))))


def test_on_conflict_takes_the_same_words(store: Store) -> None:
    upsert = (
        "INSERT INTO facts (key, value) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE facts.value <> excluded.value"
        " RETURNING value"
    )

    def unit(tx: Tx) -> None:
        assert tx.one(upsert, ("a", "1")) == ("1",)
        assert tx.one(upsert, ("a", "2")) == ("2",)
        assert tx.one(upsert, ("a", "2")) is None

    run(store.write(unit))


def test_numbers_of_deleted_rows_may_come_back_so_nobody_relies_on_them(store: Store) -> None:
    """SQLite gives the highest id again once its row is deleted. Leases and the chain do not build on ids."""

    def unit(tx: Tx) -> bool:
        first = tx.one(f"{INSERT_SPAN} RETURNING id", (1, 2))
        tx.run("DELETE FROM lost_spans")
        return first == tx.one(f"{INSERT_SPAN} RETURNING id", (1, 2))

    assert run(store.write(unit)) is (store.dialect == "sqlite")


def test_rows_are_locked_where_there_are_several_writers(store: Store) -> None:
    expected = {"sqlite": "", "postgresql": " FOR UPDATE"}[store.dialect]
    assert run(store.write(lambda tx: tx.for_update)) == expected


def test_only_sqlite_reads_in_the_event_loop(store: Store) -> None:
    here = run(store.read(lambda tx: threading.get_ident())) == threading.get_ident()
    assert here is (store.dialect == "sqlite")


def test_every_table_refuses_other_types_on_sqlite() -> None:
    tables = [s for m in shipped() for s in m.statements if s.startswith("CREATE TABLE")]
    assert tables
    assert [s for s in tables if not s.endswith((") STRICT", ") STRICT, WITHOUT ROWID"))] == []


def test_every_text_column_is_ordered_by_octets_on_postgresql() -> None:
    for migration in shipped():
        for statement in map(for_postgresql, migration.statements):
            assert statement.count("TEXT") == statement.count('TEXT COLLATE "C"')
            assert "STRICT" not in statement
            assert "BLOB" not in statement
