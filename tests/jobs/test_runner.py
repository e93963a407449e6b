"""How jobs are run, on either database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from certloom.clock import ManualClock, SystemClock
from certloom.jobs import Job, Retry, Runner, enqueue
from certloom.jobs import queue as job_queue
from certloom.store import Store, StoreError, Tx, open_store
from tests.conftest import run


def _fact(key: str) -> Callable[[Tx], Any]:
    return lambda tx: tx.run("INSERT INTO facts (key, value) VALUES (?, 'x')", (key,))


def _facts(tx: Tx) -> list[str]:
    return [key for (key,) in tx.all("SELECT key FROM facts ORDER BY key")]


def _jobs(tx: Tx) -> list[Any]:
    return tx.all("SELECT kind, state, attempt, error FROM jobs ORDER BY id")


@asynccontextmanager
async def _started(runner: Runner) -> AsyncIterator[Runner]:
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop(1)


async def _until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


def _add(store: Store, clock: ManualClock, kind: str = "a", **options: Any) -> Coroutine[Any, Any, None]:
    return store.write(lambda tx: enqueue(tx, clock.now_ms(), kind, {}, **options))


def test_a_job_runs_as_soon_as_its_transaction_has_committed(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=3600)

        async def handler(job: Job) -> Any:
            return _fact(f"done-{job.payload['n']}")

        runner.register("a", handler)
        async with _started(runner):
            await asyncio.sleep(0.05)
            await store.write(lambda tx: enqueue(tx, clock.now_ms(), "a", {"n": 5}))
            await _until(lambda: _has(store, "done-5"), 2)
        assert await store.read(_jobs) == []

    run(go())


async def _has(store: Store, key: str) -> bool:
    return key in await store.read(_facts)


def test_a_job_of_a_rolled_back_transaction_never_runs(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        ran: list[Job] = []
        runner = Runner(store, clock, "n", poll_s=0.05)

        async def handler(job: Job) -> None:
            ran.append(job)

        def unit(tx: Tx) -> None:
            enqueue(tx, clock.now_ms(), "a", {})
            raise ZeroDivisionError

        runner.register("a", handler)
        async with _started(runner):
            with pytest.raises(ZeroDivisionError):
                await store.write(unit)
            await asyncio.sleep(0.2)
        assert ran == []

    run(go())


def test_a_job_for_later_runs_when_its_time_has_come(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=0.02)

        async def handler(job: Job) -> Any:
            return _fact("done")

        runner.register("a", handler)
        async with _started(runner):
            await _add(store, clock, due_ms=clock.now_ms() + 60_000)
            await asyncio.sleep(0.1)
            assert await store.read(_facts) == []
            clock.advance(60)
            await _until(lambda: _has(store, "done"))

    run(go())


def test_the_runner_wakes_for_the_next_due_time_without_polling(store: Store) -> None:
    async def go() -> None:
        clock = SystemClock()
        runner = Runner(store, clock, "n", poll_s=3600)
        ran: list[int] = []

        async def handler(job: Job) -> None:
            ran.append(clock.now_ms())

        runner.register("a", handler)
        async with _started(runner):
            due_ms = clock.now_ms() + 300
            await store.write(lambda tx: enqueue(tx, clock.now_ms(), "a", {}, due_ms=due_ms))
            await _until(lambda: ran)
        assert due_ms <= ran[0] < due_ms + 1_000

    run(go())


def test_an_idle_runner_does_next_to_nothing(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        async def handler(job: Job) -> None:
            pass

        turns = 0
        runner = Runner(store, clock, "n", poll_s=3600)
        runner.register("a", handler)
        original = store.read

        async def counting(unit: Any) -> Any:
            nonlocal turns
            turns += 1
            return await original(unit)

        await _add(store, clock, due_ms=clock.now_ms() + 3_600_000)
        await _add(store, clock, "unknown")
        store.read = counting  # type: ignore[method-assign]  # to see how often the table is looked at
        async with _started(runner):
            await asyncio.sleep(0.3)
        store.read = original  # type: ignore[method-assign]
        assert turns <= 2

    run(go())


def test_a_failing_job_is_tried_again_after_each_delay_and_then_has_failed(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        attempts: list[int] = []
        runner = Runner(store, clock, "n", poll_s=0.01)

        async def handler(job: Job) -> None:
            attempts.append(job.attempt)
            raise ValueError("no luck")

        def give_up(job: Job) -> Any:
            return _fact(f"gave-up-{job.kind}")

        runner.register("a", handler, retries=(10, 100), on_exhausted=give_up)
        async with _started(runner):
            await _add(store, clock)
            await _until(lambda: attempts == [1])
            await _until(lambda: _state(store, "waiting"))
            (due_ms,) = await store.read(lambda tx: tx.one("SELECT due_ms FROM jobs")) or (0,)
            assert clock.now_ms() + 10_000 <= due_ms <= clock.now_ms() + 12_500
            clock.advance(13)
            await _until(lambda: attempts == [1, 2])
            await _until(lambda: _state(store, "waiting"))
            clock.advance(126)
            await _until(lambda: _state(store, "failed"))
        assert attempts == [1, 2, 3]
        assert await store.read(_jobs) == [("a", "failed", 3, "ValueError: no luck")]
        assert await store.read(_facts) == ["gave-up-a"]

    run(go())


async def _state(store: Store, state: str) -> bool:
    return [row[1] for row in await store.read(_jobs)] == [state]


def test_a_handler_may_ask_to_be_called_again_as_often_as_it_likes(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=0.01)

        async def handler(job: Job) -> Any:
            if job.attempt < 5:
                raise Retry(0)
            return _fact("done")

        runner.register("a", handler, retries=())
        async with _started(runner):
            await _add(store, clock)
            await _until(lambda: _has(store, "done"))
        assert await store.read(_jobs) == []

    run(go())


def test_an_effect_that_cannot_be_committed_is_a_failure_of_the_job(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=0.01)

        async def handler(job: Job) -> Any:
            return _fact("taken" if job.attempt == 1 else "free")

        runner.register("a", handler, retries=(0,))
        await store.write(_fact("taken"))
        async with _started(runner):
            await _add(store, clock)
            await _until(lambda: _has(store, "free"))
        assert await store.read(_jobs) == []

    run(go())


def test_a_handler_that_hangs_is_cut_off(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n")

        async def handler(job: Job) -> None:
            await asyncio.sleep(60)

        runner.register("a", handler, retries=(), timeout_s=0.05)
        async with _started(runner):
            await _add(store, clock)
            await _until(lambda: _state(store, "failed"))
        assert "TimeoutError" in (await store.read(_jobs))[0][3]

    run(go())


def test_no_more_jobs_run_at_once_than_allowed_and_all_get_a_turn(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        running = most = done = 0
        runner = Runner(store, clock, "n", concurrency=3, poll_s=3600)

        async def handler(job: Job) -> None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            done += 1

        runner.register("a", handler)
        async with _started(runner):
            await asyncio.gather(*(_add(store, clock) for _ in range(20)))
            await _until(lambda: done == 20)
        assert most == 3

    run(go())


def test_a_leased_job_runs_without_being_claimed(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=3600)

        async def handler(job: Job) -> Any:
            return _fact(f"done-{job.payload['n']}")

        runner.register("a", handler)
        async with _started(runner):
            job = await store.write(lambda tx: runner.insert_leased(tx, "a", {"n": 1}))
            assert job.attempt == 1
            assert [row[1] for row in await store.read(_jobs)] == ["running"]
            runner.start_leased(job)
            await _until(lambda: _has(store, "done-1"))
            await _until(lambda: _none_left(store))

    run(go())


def _insert(runner: Runner, payload: dict[str, Any], tx: Tx) -> Job:
    return runner.insert_leased(tx, "a", payload)


def _enqueue(now_ms: int, payload: dict[str, Any], tx: Tx) -> None:
    enqueue(tx, now_ms, "a", payload)


async def _none_left(store: Store) -> bool:
    return await store.read(_jobs) == []


def test_leased_jobs_made_at_the_same_moment_all_run_once(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=3600, concurrency=500)

        async def handler(job: Job) -> Any:
            return _fact(f"done-{job.payload['n']:03}")

        runner.register("a", handler, retries=())
        async with _started(runner):

            async def one(n: int) -> str:
                job = await store.write(partial(_insert, runner, {"n": n}))
                runner.start_leased(job)
                return job.lease

            leases = await asyncio.gather(*(one(n) for n in range(300)))
            assert len(set(leases)) == 300
            await _until(lambda: _none_left(store))
            assert await store.read(_facts) == [f"done-{n:03}" for n in range(300)]

    run(go())


def test_a_leased_job_nobody_started_runs_when_its_lease_is_out(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=0.02, lease_s=30)

        async def handler(job: Job) -> Any:
            return _fact(f"attempt-{job.attempt}")

        runner.register("a", handler)
        async with _started(runner):
            await store.write(lambda tx: runner.insert_leased(tx, "a", {}))
            await asyncio.sleep(0.1)
            assert await store.read(_facts) == []
            clock.advance(31)
            await _until(lambda: _has(store, "attempt-2"))

    run(go())


def test_a_busy_runner_takes_no_leased_jobs_but_still_does_them(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=3600, concurrency=1)
        release = asyncio.Event()

        async def handler(job: Job) -> Any:
            await release.wait()
            return _fact(f"done-{job.payload['n']}")

        runner.register("a", handler)
        async with _started(runner):
            jobs = []
            for n in range(3):
                job = await store.write(partial(_insert, runner, {"n": n}))
                runner.start_leased(job)
                jobs.append(job)
            assert [bool(job.lease) for job in jobs] == [True, False, False]
            release.set()
            await _until(lambda: _has(store, "done-0"))
            await _until(lambda: _has(store, "done-1"))
            await _until(lambda: _has(store, "done-2"))

    run(go())


def test_a_lease_is_renewed_while_the_job_runs(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", lease_s=30, poll_s=0.02)
        runs = 0
        release = asyncio.Event()

        async def handler(job: Job) -> Any:
            nonlocal runs
            runs += 1
            await release.wait()
            return _fact("done")

        runner.register("a", handler)
        async with _started(runner):
            await _add(store, clock)
            await _until(lambda: runs)
            for _ in range(6):
                clock.advance(15)
                await _until(lambda: _leased_until(store, clock.now_ms() + 30_000))
            release.set()
            await _until(lambda: _has(store, "done"))
        assert runs == 1

    run(go())


async def _leased_until(store: Store, until_ms: int) -> bool:
    return await store.read(lambda tx: tx.one("SELECT lease_until_ms FROM jobs")) == (until_ms,)


def test_a_worker_that_was_taken_for_dead_is_stopped_and_its_effect_refused(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "slow", lease_s=0.3, poll_s=0.02)
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def handler(job: Job) -> Any:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return _fact("slow")

        runner.register("a", handler)
        async with _started(runner):
            await _add(store, clock)
            await started.wait()
            later = clock.now_ms() + 10**6
            (job,) = await store.write(
                lambda tx: job_queue.claim(tx, later, ("a",), 1, "other/1", later + 10**6)
            )
            clock.advance(1)
            await asyncio.wait_for(cancelled.wait(), 5)
            await store.write(lambda tx: job_queue.complete(tx, job))
            await store.write(_fact("other"))
        assert await store.read(_facts) == ["other"]

    run(go())


def test_stopping_waits_for_what_runs(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n")
        started = asyncio.Event()

        async def handler(job: Job) -> Any:
            started.set()
            await asyncio.sleep(0.2)
            return _fact("done")

        runner.register("a", handler)
        await runner.start()
        await _add(store, clock)
        await started.wait()
        await runner.stop()
        assert await store.read(_facts) == ["done"]
        assert await store.read(_jobs) == []

    run(go())


def test_stopping_lets_periodic_work_finish_and_ends_its_waiting(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            await asyncio.sleep(0.1)
            ended.set()

        async def rare() -> None:
            pass

        runner = Runner(store, clock, "n")
        runner.every(60, "work", work)
        runner.every(3600, "rare", rare)
        await runner.start()
        await begun.wait()
        await asyncio.wait_for(runner.stop(), 5)
        assert ended.is_set()

    run(go())


def test_what_still_runs_when_time_is_up_is_given_back(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n")
        started = asyncio.Event()

        async def handler(job: Job) -> None:
            started.set()
            await asyncio.sleep(60)

        runner.register("a", handler)
        await runner.start()
        await _add(store, clock)
        await started.wait()
        await runner.stop(0.05)
        assert [row[:2] for row in await store.read(_jobs)] == [("a", "waiting")]

    run(go())


def test_a_job_that_kills_its_workers_is_given_up(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        ran: list[Job] = []
        runner = Runner(store, clock, "n", poll_s=0.01)

        async def handler(job: Job) -> None:
            ran.append(job)

        runner.register("a", handler)
        await _add(store, clock)
        sql = "UPDATE jobs SET lost = 9, state = 'running', lease_until_ms = 0"
        await store.write(lambda tx: tx.run(sql))
        async with _started(runner):
            await _until(lambda: _state(store, "failed"))
        assert ran == []
        assert "died 10 times" in (await store.read(_jobs))[0][3]

    run(go())


def test_periodic_work_comes_round_again_even_after_an_exception(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        calls = 0

        async def work() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ValueError

        runner = Runner(store, clock, "n")
        runner.every(0.01, "work", work)
        async with _started(runner):
            await _until(lambda: calls >= 3)

    run(go())


def test_a_store_that_fails_for_a_while_does_not_end_the_runner(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        runner = Runner(store, clock, "n", poll_s=0.01)

        async def handler(job: Job) -> Any:
            return _fact("done")

        original = store.read

        async def broken(unit: Any) -> Any:
            raise StoreError("unreachable")

        runner.register("a", handler)
        await _add(store, clock)
        store.read = broken  # type: ignore[method-assign]  # a database that cannot be reached
        async with _started(runner):
            await asyncio.sleep(0.05)
            store.read = original  # type: ignore[method-assign]
            await _until(lambda: _has(store, "done"))

    run(go())


def test_runners_on_many_nodes_do_every_job_once(postgresql_url: str) -> None:
    async def go() -> None:
        clock = SystemClock()
        stores = [await open_store(postgresql_url, clock=clock) for _ in range(3)]
        runners = []
        for number, store in enumerate(stores):
            runner = Runner(store, clock, f"n{number}", poll_s=0.05, concurrency=4)

            async def handler(job: Job) -> Any:
                await asyncio.sleep(0.001)
                return _fact(f"{job.payload['n']:03}")  # a second run would be a Conflict

            runner.register("a", handler, retries=())
            runners.append(runner)
        try:
            for runner in runners:
                await runner.start()
            for n in range(150):
                await stores[0].write(partial(_enqueue, clock.now_ms(), {"n": n}))
            await _until(lambda: _none_left(stores[1]), 30)
            assert await stores[2].read(_facts) == [f"{n:03}" for n in range(150)]
        finally:
            for runner in runners:
                await runner.stop()
            for store in stores:
                await store.close()

    run(go())
