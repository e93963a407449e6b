"""What is SQLite's own: one process, one writer, one file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from certloom.clock import ManualClock
from certloom.store import Conflict, StoreError, Tx, open_store
from certloom.store.sqlite import SQLiteStore
from tests.conftest import run


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(str(path), clock=ManualClock())
    try:
        yield store
    finally:
        await store.close()


def _put(key: str, value: str = "x") -> Callable[[Tx], Any]:
    return lambda tx: tx.run("INSERT INTO facts (key, value) VALUES (?, ?)", (key, value))


def _keys(tx: Tx) -> list[str]:
    return [key for (key,) in tx.all("SELECT key FROM facts ORDER BY key")]


@asynccontextmanager
async def _held_writer(store: SQLiteStore) -> AsyncIterator[None]:
    """Keep the writer busy, so that what is written inside forms one batch."""
    running, release = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        running.set()
        assert release.wait(10)

    holding = asyncio.create_task(store.write(hold))
    await asyncio.to_thread(running.wait, 10)
    try:
        yield
    finally:
        release.set()
        await holding


def test_units_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            statements: list[str] = []
            async with _held_writer(store):
                store._writer.set_trace_callback(statements.append)
                writes = [asyncio.create_task(store.write(_put(f"k{n:02}"))) for n in range(20)]
                await asyncio.sleep(0)
            await asyncio.gather(*writes)
            store._writer.set_trace_callback(None)
            # The end of the holding unit's own transaction, then one for the twenty.
            assert statements.count("BEGIN IMMEDIATE") == 1
            assert statements.count("SAVEPOINT unit") == 0

    run(go())


def test_a_batch_with_a_failing_unit_is_run_again_with_savepoints(tmp_path: Path) -> None:
    def fail(tx: Tx) -> None:
        _put("bad")(tx)
        raise ValueError("no")

    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            statements: list[str] = []
            async with _held_writer(store):
                store._writer.set_trace_callback(statements.append)
                units = [_put("k1"), fail, _put("k2")]
                writes = [asyncio.create_task(store.write(unit)) for unit in units]
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            store._writer.set_trace_callback(None)
            assert [type(outcome) for outcome in outcomes] == [int, ValueError, int]
            assert statements.count("SAVEPOINT unit") == 3
            keys = await store.read(
                lambda tx: tx.all("SELECT key FROM facts WHERE key IN ('k1', 'k2', 'bad')")
            )
            assert sorted(keys) == [("k1",), ("k2",)]

    run(go())


def test_a_unit_alone_in_its_batch_needs_no_savepoint(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            statements: list[str] = []
            store._writer.set_trace_callback(statements.append)
            await store.write(_put("a"))
            with pytest.raises(Conflict):
                await store.write(_put("a"))
            assert [s.split()[0] for s in statements] == [
                "BEGIN",
                "INSERT",
                "COMMIT",
                "BEGIN",
                "INSERT",
                "ROLLBACK",
            ]

    run(go())


def test_in_a_batch_a_failing_unit_is_undone_and_the_others_stay(tmp_path: Path) -> None:
    def failing(tx: Tx) -> None:
        _put("undone")(tx)
        raise ZeroDivisionError

    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            async with _held_writer(store):
                units = (_put("a"), failing, _put("a"), _put("b"), failing, _put("c"))
                writes = [asyncio.create_task(store.write(unit)) for unit in units]
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            expected = [int, ZeroDivisionError, Conflict, int, ZeroDivisionError, int]
            assert [type(outcome) for outcome in outcomes] == expected
            assert await store.read(_keys) == ["a", "b", "c"]

    run(go())


def test_a_full_database_fails_the_whole_batch_and_recovers(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
            store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
            async with _held_writer(store):
                units = (_put("a"), _put("big", "x" * 100_000), _put("b"))
                writes = [asyncio.create_task(store.write(unit)) for unit in units]
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            # When it is full SQLite rolls everything back: nobody of the batch may be told otherwise.
            for outcome, key in zip(outcomes, ("a", "big", "b"), strict=True):
                assert isinstance(outcome, StoreError) is (key not in await store.read(_keys))
            assert isinstance(outcomes[1], StoreError)
            assert "SQLITE_FULL" in str(outcomes[1])
            store._writer.execute("PRAGMA max_page_count = 1000000")
            await store.write(_put("big", "x" * 100_000))

    run(go())


FULL_DISK = """
import asyncio, resource, sys
from certloom.clock import SystemClock
from certloom.store import StoreError, open_store

def put(key, size):
    return lambda tx: tx.run("INSERT INTO facts (key, value) VALUES (?, ?)", (key, "x" * size))

async def main(path):
    store = await open_store(f"sqlite:///{path}", clock=SystemClock())
    await store.write(put("before", 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import os
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path + "-wal") + 10_000, hard))
    units = [put("a", 1), put("b", 1_000_000), put("c", 1)]
    outcomes = await asyncio.gather(*(store.write(unit) for unit in units), return_exceptions=True)
    kept = await store.read(lambda tx: [key for (key,) in tx.all("SELECT key FROM facts ORDER BY key")])
    for key, outcome in zip("abc", outcomes):
        assert isinstance(outcome, StoreError) is (key not in kept), (key, outcome, kept)
    assert isinstance(outcomes[1], StoreError), outcomes
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await store.write(put("b", 1_000_000))
    await store.close()
    store = await open_store(f"sqlite:///{path}", clock=SystemClock())
    kept = await store.read(lambda tx: [key for (key,) in tx.all("SELECT key FROM facts ORDER BY key")])
    assert "before" in kept and "b" in kept, kept
    await store.close()
    print("fine")

asyncio.run(main(sys.argv[1]))
"""


def test_a_commit_that_cannot_be_written_fails_its_units_and_the_next_one_works(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "db")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_a_second_process_is_kept_out_and_told_who_is_in(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom certloom.clock import SystemClock\nfrom certloom.store import open_store\n"
        "asyncio.run(open_store(sys.argv[1], clock=SystemClock()))"
    )
    url = f"sqlite:///{tmp_path}/db"

    async def go() -> None:
        async with _opened(tmp_path / "db"):
            command = [sys.executable, "-c", code, url]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
            assert done.returncode == 1
            assert f"in use by process {os.getpid()}" in done.stderr
            with pytest.raises(StoreError, match="in use"):
                await open_store(url, clock=ManualClock())

    run(go())


def test_the_lock_goes_with_its_process_and_with_close(tmp_path: Path) -> None:
    async def go() -> None:
        for _ in range(2):
            async with _opened(tmp_path / "db"):
                pass
        (tmp_path / "db.lock").write_text("99999\n")  # what a killed process leaves behind
        async with _opened(tmp_path / "db"):
            assert (tmp_path / "db.lock").read_text() == f"{os.getpid()}\n"

    run(go())


def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            await store.write(_put("a"))
            for name in ("db", "db-wal", "db-shm", "db.lock"):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600

    run(go())


def test_the_database_runs_with_the_settings_its_promises_need(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            for pragma, value in (
                ("journal_mode", "wal"),
                ("synchronous", 2),
                ("foreign_keys", 1),
                ("mmap_size", 0),
            ):
                assert store._writer.execute(f"PRAGMA {pragma}").fetchone() == (value,)
            assert store._reader.execute("PRAGMA query_only").fetchone() == (1,)

    run(go())


def test_closing_leaves_one_whole_file(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            await store.write(_put("a"))

    run(go())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "db.lock"]
    with sqlite3.connect(tmp_path / "db") as connection:
        assert connection.execute("SELECT key FROM facts").fetchall() == [("a",)]


@pytest.mark.parametrize("contents", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "db"
    path.write_bytes(contents)
    with pytest.raises(StoreError):
        run(open_store(f"sqlite:///{path}", clock=ManualClock()))
    assert path.read_bytes() == contents


def test_a_place_where_no_file_can_be_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot open"):
        run(open_store(f"sqlite:///{tmp_path}/missing/db", clock=ManualClock()))
    with pytest.raises(StoreError, match="cannot open"):
        run(open_store(f"sqlite:///{tmp_path}", clock=ManualClock()))


@pytest.mark.parametrize("url", ["", "sqlite:///", "sqlite://x", "mysql://x", "/var/lib/db", "sqlite:"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"database\.url must be"):
        run(open_store(url, clock=ManualClock()))


def test_the_path_is_what_follows_the_third_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def go(url: str) -> None:
        await (await open_store(url, clock=ManualClock())).close()

    run(go("sqlite:///relative 100%?.db"))
    run(go(f"sqlite:///{tmp_path}/absolute.db"))
    assert (tmp_path / "relative 100%?.db").exists()
    assert (tmp_path / "absolute.db").exists()


def test_a_backup_is_one_whole_database_of_one_moment_while_writes_go_on(tmp_path: Path) -> None:
    target = tmp_path / "backup.db"

    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            stop = False

            async def pairs() -> int:
                number = 0
                while not stop:
                    a, b = _put(f"a{number}", "x" * 2_000), _put(f"b{number}")
                    await store.write(lambda tx, a=a, b=b: (a(tx), b(tx)))  # type: ignore[misc]
                    number += 1
                return number

            writing = asyncio.create_task(pairs())
            await asyncio.sleep(0.1)
            before = len(await store.read(_keys))
            await store.backup(str(target))
            stop = True
            after = await writing * 2
        with sqlite3.connect(target) as copy:
            keys = [key for (key,) in copy.execute("SELECT key FROM facts")]
            assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert before <= len(keys) <= after
        assert sorted(k[1:] for k in keys if k[0] == "a") == sorted(k[1:] for k in keys if k[0] == "b")

    run(go())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"db", "db.lock", "backup.db"}
    run(_reopen(target))


async def _reopen(path: Path) -> None:
    async with _opened(path) as store:
        assert await store.read(_keys)


def test_a_backup_never_overwrites_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            (tmp_path / "there").write_text("precious")
            with pytest.raises(StoreError, match="exists"):
                await store.backup(str(tmp_path / "there"))
            assert (tmp_path / "there").read_text() == "precious"
            with pytest.raises(StoreError, match="cannot back up"):
                await store.backup(str(tmp_path / "missing" / "x"))

    run(go())


def test_the_log_does_not_grow_without_bound_under_steady_writes(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            sql = "INSERT INTO facts (key, value) VALUES (?, ?)"
            for round_ in range(200):
                rows = [(f"{round_}-{n}", "x" * 500) for n in range(200)]
                await store.write(lambda tx, rows=rows: tx.many(sql, rows))  # type: ignore[misc]
            assert (tmp_path / "db").stat().st_size > 20 << 20
            assert (tmp_path / "db-wal").stat().st_size < 16 << 20

    run(go())


def test_reading_goes_on_while_a_transaction_is_being_written(tmp_path: Path) -> None:
    async def go() -> None:
        async with _opened(tmp_path / "db") as store:
            await store.write(_put("a"))
            async with _held_writer(store):
                assert await store.read(_keys) == ["a"]
                assert await store.scan(_keys) == ["a"]

    run(go())
