"""What a unit of work is, on either database."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import pytest

from certloom.store import Conflict, Store, StoreError, Tx
from tests.conftest import run


def put(key: str, value: str = "x") -> Callable[[Tx], str]:
    def unit(tx: Tx) -> str:
        tx.run("INSERT INTO facts (key, value) VALUES (?, ?)", (key, value))
        return key

    return unit


def keys(tx: Tx) -> list[str]:
    return [key for (key,) in tx.all("SELECT key FROM facts ORDER BY key")]


def test_a_write_returns_the_units_result_and_every_later_read_sees_it(store: Store) -> None:
    async def go() -> None:
        assert await store.write(put("a")) == "a"
        assert await store.read(keys) == ["a"]
        assert await store.scan(keys) == ["a"]

    run(go())


def test_units_compose_into_one_transaction(store: Store) -> None:
    def both(tx: Tx) -> None:
        put("a")(tx)
        put("b")(tx)
        raise ZeroDivisionError

    async def go() -> None:
        with pytest.raises(ZeroDivisionError):
            await store.write(both)
        assert await store.read(keys) == []

    run(go())


def test_one_gives_the_first_row_or_none_and_all_gives_every_row(store: Store) -> None:
    def unit(tx: Tx) -> None:
        assert tx.one("SELECT key FROM facts") is None
        assert tx.all("SELECT key FROM facts") == []
        tx.many("INSERT INTO facts (key, value) VALUES (?, ?)", [("a", "1"), ("b", "2")])
        assert tx.one("SELECT key, value FROM facts ORDER BY key") == ("a", "1")
        assert tx.all("SELECT key, value FROM facts ORDER BY key") == [("a", "1"), ("b", "2")]

    run(store.write(unit))


def test_run_says_how_many_rows_it_changed(store: Store) -> None:
    def unit(tx: Tx) -> None:
        assert tx.run("INSERT INTO facts (key, value) VALUES (?, ?)", ("a", "1")) == 1
        assert tx.run("INSERT INTO facts (key, value) VALUES (?, ?)", ("b", "1")) == 1
        assert tx.run("UPDATE facts SET value = ? WHERE value = ?", ("2", "1")) == 2
        assert tx.run("DELETE FROM facts WHERE key = ?", ("none",)) == 0
        assert (
            tx.run("INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", ("a", "1"))
            == 0
        )

    run(store.write(unit))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 199, 200, 201, 1_000])
def test_many_runs_a_statement_for_each_row(store: Store, count: int) -> None:
    def unit(tx: Tx) -> None:
        tx.many("INSERT INTO facts (key, value) VALUES (?, ?)", ((f"k{n}", "x") for n in range(count)))

    async def go() -> None:
        await store.write(unit)
        assert len(await store.read(keys)) == count

    run(go())


def test_many_with_one_bad_row_among_good_ones_leaves_nothing(store: Store) -> None:
    rows = [(f"k{n}", "x") for n in range(250)]

    async def go() -> None:
        with pytest.raises(Conflict):
            await store.write(
                lambda tx: tx.many("INSERT INTO facts (key, value) VALUES (?, ?)", [*rows, rows[100], *rows])
            )
        assert await store.read(keys) == []
        await store.write(put("still works"))

    run(go())


def test_returning_gives_the_row_as_stored(store: Store) -> None:
    def unit(tx: Tx) -> tuple[int, int]:
        sql = "INSERT INTO lost_spans (since, until) VALUES (?, ?) RETURNING id"
        first, second = tx.one(sql, (1, 2)), tx.one(sql, (3, 4))
        assert first is not None
        assert second is not None
        return first[0], second[0]

    first, second = run(store.write(unit))
    assert second > first


def test_a_unique_violation_is_a_conflict_and_rolls_the_whole_unit_back(store: Store) -> None:
    def unit(tx: Tx) -> None:
        put("b")(tx)
        put("a")(tx)

    async def go() -> None:
        await store.write(put("a"))
        with pytest.raises(Conflict):
            await store.write(unit)
        assert await store.read(keys) == ["a"]

    run(go())


def test_the_conflict_does_not_tell_the_values_of_the_row(store: Store) -> None:
    async def go() -> None:
        await store.write(put("a-secret"))
        with pytest.raises(Conflict) as caught:
            await store.write(put("a-secret"))
        assert "a-secret" not in str(caught.value)

    run(go())


def test_a_unit_that_swallows_its_error_is_rolled_back_all_the_same(store: Store) -> None:
    def unit(tx: Tx) -> None:
        put("b")(tx)
        with contextlib.suppress(Conflict):
            put("a")(tx)

    async def go() -> None:
        await store.write(put("a"))
        with pytest.raises(Conflict):
            await store.write(unit)
        assert await store.read(keys) == ["a"]

    run(go())


def test_after_an_error_a_unit_can_do_nothing_more(store: Store) -> None:
    def unit(tx: Tx) -> None:
        try:
            put("a")(tx)
        except Conflict:
            put("b")(tx)

    async def go() -> None:
        await store.write(put("a"))
        with pytest.raises(StoreError, match="the unit is over"):
            await store.write(unit)
        assert await store.read(keys) == ["a"]

    run(go())


def test_a_transaction_cannot_be_used_after_its_unit(store: Store) -> None:
    leaked: list[Tx] = []

    async def go() -> None:
        await store.write(leaked.append)
        await store.read(leaked.append)
        for tx in leaked:
            with pytest.raises(StoreError, match="the unit is over"):
                tx.run("DELETE FROM facts")

    run(go())


def test_a_read_cannot_write(store: Store) -> None:
    async def go() -> None:
        with pytest.raises(Exception, match=r"read-only|readonly|cannot be used"):
            await store.read(put("a"))
        with pytest.raises(Exception, match=r"read-only|readonly|cannot be used"):
            await store.scan(put("a"))
        assert await store.read(keys) == []
        await store.write(put("b"))

    run(go())


def test_a_mistake_in_a_statement_is_not_taken_for_an_unusable_database(store: Store) -> None:
    async def go() -> None:
        with pytest.raises(Exception, match="nonsense") as caught:
            await store.write(lambda tx: tx.run("SELECT nonsense FROM facts"))
        assert not isinstance(caught.value, StoreError)
        with pytest.raises(Exception, match="nonsense"):
            await store.read(lambda tx: tx.run("SELECT nonsense FROM facts"))
        await store.write(put("a"))

    run(go())


def test_a_scan_sees_one_moment_however_long_it_takes(store: Store) -> None:
    started, release = threading.Event(), threading.Event()

    def twice(tx: Tx) -> tuple[list[str], list[str]]:
        before = keys(tx)
        started.set()
        assert release.wait(10)
        return before, keys(tx)

    async def go() -> None:
        await store.write(put("a"))
        scan = asyncio.create_task(store.scan(twice))
        await asyncio.to_thread(started.wait, 10)
        await store.write(put("b"))
        release.set()
        assert await scan == (["a"], ["a"])
        assert await store.scan(keys) == ["a", "b"]

    run(go())


def test_a_scan_runs_beside_the_event_loop(store: Store) -> None:
    assert run(store.scan(lambda tx: threading.get_ident())) != threading.get_ident()


def test_failing_units_among_many_at_once_fail_alone(store: Store) -> None:
    def failing(tx: Tx) -> None:
        put("bad")(tx)
        raise ZeroDivisionError

    async def go() -> None:
        units = [failing if n % 5 == 2 else put(f"k{n:02}") for n in range(50)]
        outcomes = await asyncio.gather(*(store.write(unit) for unit in units), return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            if n % 5 == 2:
                assert isinstance(outcome, ZeroDivisionError)
            else:
                assert outcome == f"k{n:02}"
        assert await store.read(keys) == [f"k{n:02}" for n in range(50) if n % 5 != 2]

    run(go())


def test_what_was_read_under_for_update_does_not_change_before_the_write(store: Store) -> None:
    def increment(tx: Tx) -> None:
        row = tx.one(f"SELECT value FROM facts WHERE key = 'n'{tx.for_update}")
        assert row is not None
        tx.run("UPDATE facts SET value = ? WHERE key = 'n'", (str(int(row[0]) + 1),))

    async def go() -> None:
        await store.write(put("n", "0"))
        await asyncio.gather(*(store.write(increment) for _ in range(100)))
        assert await store.read(lambda tx: tx.one("SELECT value FROM facts")) == ("100",)

    run(go())


def test_listeners_hear_of_committed_signals_only_and_once_per_unit(store: Store) -> None:
    heard: list[str] = []
    store.listen("jobs", lambda: heard.append("jobs"))
    store.listen("other", lambda: heard.append("other"))

    def signalling(tx: Tx) -> None:
        tx.signal("jobs")
        tx.signal("jobs")

    def failing(tx: Tx) -> None:
        tx.signal("other")
        raise ZeroDivisionError

    async def go() -> None:
        await store.write(signalling)
        assert heard == ["jobs"]
        with pytest.raises(ZeroDivisionError):
            await store.write(failing)
        assert heard == ["jobs"]

    run(go())


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt])
def test_not_even_what_would_end_a_thread_harms_the_store(store: Store, error: type[BaseException]) -> None:
    def unit(tx: Tx) -> None:
        put("a")(tx)
        raise error

    async def go() -> None:
        with pytest.raises(RuntimeError, match=error.__name__):
            await store.write(unit)
        await store.write(put("b"))
        assert await store.read(keys) == ["b"]

    run(go())


def test_a_caller_that_goes_away_leaves_no_half_of_its_unit(store: Store) -> None:
    async def go() -> None:
        task = asyncio.create_task(store.write(lambda tx: (put("a")(tx), put("b")(tx))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store.write(put("c"))
        assert await store.read(keys) in (["c"], ["a", "b", "c"])

    run(go())


def test_closing_finishes_what_is_queued_and_refuses_what_comes_later(store: Store) -> None:
    async def go() -> None:
        writes = [asyncio.create_task(store.write(put(f"k{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert [await write for write in writes] == [f"k{n}" for n in range(20)]
        for method in (store.write, store.read, store.scan):
            with pytest.raises(StoreError, match="closed"):
                await method(keys)
        await store.close()

    run(go())
