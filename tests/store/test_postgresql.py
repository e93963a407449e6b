"""What is PostgreSQL's own: many processes, a server that may be set up unsafely, or go away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from certloom.clock import ManualClock
from certloom.store import Store, StoreError, Tx, open_store
from certloom.store.postgresql_session import placeholders
from tests.conftest import run
from tests.postgresql import Cluster


def _put(key: str, value: str = "x") -> Callable[[Tx], Any]:
    return lambda tx: tx.run("INSERT INTO facts (key, value) VALUES (?, ?)", (key, value))


def _keys(tx: Tx) -> list[str]:
    return [key for (key,) in tx.all("SELECT key FROM facts ORDER BY key")]


async def _open(url: str, connections: int = 8) -> Store:
    return await open_store(url, clock=ManualClock(), connections=connections)


async def _open_and_close(url: str) -> None:
    await (await _open(url)).close()


@pytest.fixture
def database(postgresql: Cluster) -> Iterator[str]:
    name = postgresql.create()
    yield name
    postgresql.drop(name)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT ?", "SELECT $1"),
        ("a = ? AND b = ?", "a = $1 AND b = $2"),
        ("'?' ? \"?\" ?", "'?' $1 \"?\" $2"),
        ("'it''s ?' = ?", "'it''s ?' = $1"),
        ("? -- what?\n ?", "$1 -- what?\n $2"),
        ("? /* ? */ ?", "$1 /* ? */ $2"),
        ("? -- ?", "$1 -- ?"),
        ("a LIKE '%' AND b % 2 = ?", "a LIKE '%' AND b % 2 = $1"),
        (", ".join("?" * 11), ", ".join(f"${n}" for n in range(1, 12))),
    ],
)
def test_question_marks_become_numbered_parameters(sql: str, expected: str) -> None:
    assert placeholders(sql) == expected.encode()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("synchronous_commit = off", "synchronous_commit off"),
        ("standard_conforming_strings = off", "standard_conforming_strings off"),
    ],
)
def test_a_database_set_up_unsafely_is_refused(
    postgresql: Cluster, database: str, setting: str, message: str
) -> None:
    postgresql.run(f"ALTER DATABASE {database} SET {setting}")
    with pytest.raises(StoreError, match=message):
        run(_open_and_close(postgresql.url(database)))


def test_a_role_with_synchronous_commit_off_is_refused(postgresql: Cluster, database: str) -> None:
    postgresql.run("CREATE ROLE careless LOGIN SUPERUSER", "ALTER ROLE careless SET synchronous_commit = off")
    try:
        with pytest.raises(StoreError, match="synchronous_commit off"):
            run(_open_and_close(postgresql.url(database, "careless")))
    finally:
        postgresql.run("DROP ROLE careless")


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync", "full_page_writes"])
def test_a_server_that_could_forget_is_refused(setting: str) -> None:
    cluster = Cluster(None, **{setting: "off"})
    try:
        with pytest.raises(StoreError, match=f"{setting} off"):
            run(_open_and_close(cluster.url("postgres")))
    finally:
        cluster.remove()


def test_a_session_stays_synchronous_when_the_role_is_changed_later(
    postgresql: Cluster, database: str
) -> None:
    async def go() -> None:
        store = await _open(postgresql.url(database), connections=1)
        try:
            await asyncio.to_thread(
                postgresql.run, "ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()"
            )
            await asyncio.sleep(0.2)
            sql = "SELECT current_setting('synchronous_commit')"
            assert await store.write(lambda tx: tx.one(sql)) == ("on",)
        finally:
            postgresql.run("ALTER SYSTEM RESET synchronous_commit", "SELECT pg_reload_conf()")
            await store.close()

    run(go())


def test_another_encoding_than_utf8_is_refused(postgresql: Cluster) -> None:
    name = postgresql.create(ENCODING="'SQL_ASCII'", LOCALE_PROVIDER="libc", LOCALE="'C'")
    try:
        with pytest.raises(StoreError, match="SQL_ASCII, not UTF8"):
            run(_open_and_close(postgresql.url(name)))
    finally:
        postgresql.drop(name)


def test_a_server_that_is_not_there_is_a_clear_error(tmp_path: Any) -> None:
    with pytest.raises(StoreError, match="cannot connect to PostgreSQL"):
        run(_open_and_close(f"postgresql:///x?host={tmp_path}"))


def test_a_broken_url_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(StoreError, match=r"not a valid") as caught:
        run(_open_and_close("postgresql://user:pass%zzword@host:port:port/x?nonsense=1"))
    assert "pass" not in str(caught.value)


def test_nodes_that_start_together_migrate_once(postgresql: Cluster, database: str) -> None:
    async def go() -> None:
        stores = await asyncio.gather(*(_open(postgresql.url(database)) for _ in range(5)))
        rows = await stores[0].read(lambda tx: tx.all("SELECT number FROM migrations ORDER BY number"))
        assert [number for (number,) in rows] == list(range(1, len(rows) + 1))
        for store in stores:
            await store.close()

    run(go())


def test_a_deadlock_is_resolved_by_running_one_unit_again(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        meet = threading.Barrier(2)
        runs = 0

        def lock(first: str, second: str) -> Callable[[Tx], None]:
            def unit(tx: Tx) -> None:
                nonlocal runs
                runs += 1
                tx.run("SET LOCAL deadlock_timeout = '50ms'")
                tx.run("UPDATE facts SET value = value || ? WHERE key = ?", (first, first))
                if runs <= 2:
                    meet.wait(10)
                tx.run("UPDATE facts SET value = value || ? WHERE key = ?", (first, second))

            return unit

        try:
            await store.write(_put("a", ""))
            await store.write(_put("b", ""))
            await asyncio.gather(store.write(lock("a", "b")), store.write(lock("b", "a")))
            assert runs == 3
            rows = await store.read(lambda tx: tx.all("SELECT value FROM facts ORDER BY key"))
            assert [sorted(value) for (value,) in rows] == [["a", "b"], ["a", "b"]]
        finally:
            await store.close()

    run(go())


def test_a_unit_that_is_always_chosen_as_the_victim_gives_up_with_a_store_error(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        sql = "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$"
        try:
            with pytest.raises(StoreError, match="repeated"):
                await store.write(lambda tx: tx.run(sql))
            await store.write(_put("a"))
        finally:
            await store.close()

    run(go())


def _break_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_connections_that_died_idle_are_replaced_without_anybody_noticing(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        try:
            await asyncio.gather(*(store.write(_put(f"a{n}")) for n in range(20)))
            await asyncio.to_thread(_break_connections, postgresql_url)
            await asyncio.gather(*(store.write(_put(f"b{n}")) for n in range(20)))
            await asyncio.to_thread(_break_connections, postgresql_url)
            assert len(await store.read(_keys)) == 40
        finally:
            await store.close()

    run(go())


def test_a_connection_lost_in_the_middle_runs_the_unit_again_and_leaves_one_effect(
    postgresql_url: str,
) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        runs = 0

        def unit(tx: Tx) -> None:
            nonlocal runs
            runs += 1
            _put("a")(tx)
            if runs == 1:
                _break_connections(postgresql_url)
            _put("b")(tx)

        try:
            await store.write(unit)
            assert runs == 2
            assert await store.read(_keys) == ["a", "b"]
        finally:
            await store.close()

    run(go())


def test_a_connection_lost_before_the_commit_is_not_taken_for_a_commit(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        runs = 0

        def unit(tx: Tx) -> None:
            nonlocal runs
            runs += 1
            _put("a")(tx)
            _break_connections(postgresql_url)

        try:
            with pytest.raises(StoreError, match="not known whether"):
                await store.write(unit)
            # What nobody can know is not repeated: the caller may look, and ask again.
            assert runs == 1
            assert await store.read(_keys) == []
        finally:
            await store.close()

    run(go())


def test_a_server_that_restarts_is_found_again(tmp_path: Any) -> None:
    cluster = Cluster()

    async def go() -> None:
        store = await _open(cluster.url("postgres"))
        try:
            await store.write(_put("kept"))
            cluster.kill()
            with pytest.raises(StoreError):
                await store.write(_put("lost"))
            with pytest.raises(StoreError):
                await store.read(_keys)
            cluster.start()
            await store.write(_put("after"))
            assert await store.read(_keys) == ["after", "kept"]
        finally:
            await store.close()

    try:
        run(go())
    finally:
        cluster.remove()


def test_a_query_error_inside_many_leaves_the_connection_usable(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url, connections=1)
        try:
            for _ in range(3):
                with pytest.raises(psycopg.Error):
                    await store.write(
                        lambda tx: tx.many("INSERT INTO facts (key, value) VALUES (?, ?)", [("a", None)] * 5)
                    )
                await store.write(lambda tx: tx.run("DELETE FROM facts"))
        finally:
            await store.close()

    run(go())


def test_no_more_connections_are_made_than_allowed(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url, connections=3)
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        try:
            counts = await asyncio.gather(
                *(store.write(lambda tx: (tx.one("SELECT pg_sleep(0.01)"), tx.one(count))) for _ in range(30))
            )
            assert max(number for _, (number,) in counts) == 3  # type: ignore[misc]
        finally:
            await store.close()

    run(go())


def test_long_reads_do_not_keep_short_units_waiting(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url, connections=1)
        try:
            scans = [
                asyncio.create_task(store.scan(lambda tx: tx.one("SELECT pg_sleep(1)"))) for _ in range(2)
            ]
            await asyncio.sleep(0.1)
            begun = time.monotonic()
            await store.write(_put("a"))
            assert time.monotonic() - begun < 0.5
            await asyncio.gather(*scans)
        finally:
            await store.close()

    run(go())


def test_the_interpreter_goes_on_while_the_server_works(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        try:
            turns = 0
            waiting = asyncio.create_task(store.read(lambda tx: tx.one("SELECT pg_sleep(0.3)")))
            while not waiting.done():
                turns += 1
                await asyncio.sleep(0.005)
            assert turns > 20
        finally:
            await store.close()

    run(go())


def test_statements_of_any_number_of_shapes_are_run(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url, connections=1)

        def unit(tx: Tx) -> None:
            for width in range(1, 1_101):
                marks = ", ".join("?" * width)
                assert tx.one(f"SELECT 1 FROM facts WHERE key IN ({marks})", ["x"] * width) is None

        try:
            await store.write(unit)
            await store.write(_put("a"))
            (count,) = await store.read(lambda tx: tx.one("SELECT count(*) FROM pg_prepared_statements")) or (
                0,
            )
            assert count < 50
        finally:
            await store.close()

    run(go())


def test_text_with_a_nul_character_is_refused_before_it_is_cut_short(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        try:
            with pytest.raises(ValueError, match="NUL"):
                await store.write(_put("a\0b"))
            await store.write(_put("a"))
        finally:
            await store.close()

    run(go())


def test_a_value_that_is_no_column_type_is_refused(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url)
        try:
            with pytest.raises(TypeError, match="not float"):
                await store.write(lambda tx: tx.run("SELECT ?", (1.5,)))
            with pytest.raises(TypeError, match="cast"):
                await store.read(lambda tx: tx.one("SELECT now()"))
        finally:
            await store.close()

    run(go())


def test_a_node_with_an_older_schema_in_mind_prepares_again(postgresql_url: str) -> None:
    async def go() -> None:
        store = await _open(postgresql_url, connections=1)
        try:
            await store.write(lambda tx: tx.run("CREATE TABLE probe (a BIGINT)"))
            assert await store.read(lambda tx: tx.all("SELECT * FROM probe")) == []
            with psycopg.connect(postgresql_url, autocommit=True) as other:
                other.execute("ALTER TABLE probe ADD COLUMN b TEXT")
                other.execute("INSERT INTO probe VALUES (1, 'x')")
            assert await store.read(lambda tx: tx.all("SELECT * FROM probe")) == [(1, "x")]
        finally:
            await store.close()

    run(go())
