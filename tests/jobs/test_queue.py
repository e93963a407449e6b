"""What may happen to a job's row, on either database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from certloom.clock import ManualClock
from certloom.jobs import queue
from certloom.jobs.queue import Job, LeaseLost, enqueue
from certloom.store import Store, Tx, open_store
from tests.conftest import run

KINDS = ("a", "b")


def _enqueue(kind: str = "a", now_ms: int = 1_000, **options: Any) -> Any:
    return lambda tx: enqueue(tx, now_ms, kind, {"n": 1}, **options)


def _claim(now_ms: int = 1_000, limit: int = 10, lease: str = "x/1", until_ms: int = 2_000) -> Any:
    return lambda tx: queue.claim(tx, now_ms, KINDS, limit, lease, until_ms)


def _enqueue_many(count: int) -> Callable[[Tx], None]:
    def unit(tx: Tx) -> None:
        for n in range(count):
            enqueue(tx, 1_000, "a", {"n": n})

    return unit


def _enqueue_payload(payload: dict[str, Any], due_ms: int) -> Callable[[Tx], None]:
    return lambda tx: enqueue(tx, 0, "a", payload, due_ms=due_ms, key="k")


def _complete(job: Job) -> Callable[[Tx], None]:
    return lambda tx: queue.complete(tx, job)


def _rows(tx: Tx) -> list[Any]:
    return tx.all("SELECT kind, state, attempt, due_ms, key FROM jobs ORDER BY id")


def test_a_due_job_is_claimed_once(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue())
        (job,) = await store.write(_claim())
        assert (job.kind, job.payload, job.attempt, job.lost) == ("a", {"n": 1}, 1, 0)
        assert await store.write(_claim(lease="x/2")) == []

    run(go())


def test_a_job_is_not_claimed_before_it_is_due(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue(due_ms=1_500))
        assert await store.read(lambda tx: queue.earliest(tx, KINDS)) == 1_500
        assert await store.write(_claim(now_ms=1_499)) == []
        assert len(await store.write(_claim(now_ms=1_500))) == 1

    run(go())


def test_the_longest_due_come_first_and_no_more_than_asked_for(store: Store) -> None:
    async def go() -> None:
        for due_ms in (5, 1, 4, 2, 3):
            await store.write(_enqueue(due_ms=due_ms, key=str(due_ms)))
        assert [job.key for job in await store.write(_claim(limit=3))] == ["1", "2", "3"]
        assert [job.key for job in await store.write(_claim(limit=3, lease="x/2"))] == ["4", "5"]

    run(go())


def test_jobs_of_kinds_nobody_here_knows_are_left_to_others(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue("unknown"))
        assert await store.read(lambda tx: queue.earliest(tx, KINDS)) is None
        assert await store.write(_claim()) == []

    run(go())


def test_a_lease_that_ran_out_is_taken_over_and_the_death_is_counted(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue())
        await store.write(_claim(until_ms=2_000))
        assert await store.write(_claim(now_ms=1_999, lease="y/1")) == []
        (job,) = await store.write(_claim(now_ms=2_000, lease="y/1", until_ms=3_000))
        assert (job.attempt, job.lost, job.lease) == (2, 1, "y/1")

    run(go())


def test_a_worker_does_not_take_over_from_itself(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue())
        (job,) = await store.write(_claim(until_ms=2_000))
        held = frozenset([job.id])
        assert await store.write(lambda tx: queue.claim(tx, 9_000, KINDS, 1, "x/2", 9_999, held)) == []

    run(go())


async def _stale(store: Store) -> tuple[Job, Job]:
    await store.write(_enqueue())
    (stale,) = await store.write(_claim(until_ms=2_000))
    (fresh,) = await store.write(_claim(now_ms=2_000, lease="y/1", until_ms=3_000))
    return stale, fresh


@pytest.mark.parametrize(
    "change",
    [
        lambda tx, job: queue.complete(tx, job),
        lambda tx, job: queue.complete(tx, job, keep_at=5),
        lambda tx, job: queue.fail(tx, job, 5, "no"),
        lambda tx, job: queue.postpone(tx, job, 5_000, "later"),
    ],
    ids=["complete", "complete and keep", "fail", "postpone"],
)
def test_a_worker_that_lost_its_lease_can_change_nothing(store: Store, change: Any) -> None:
    async def go() -> None:
        stale, fresh = await _stale(store)

        def effect(tx: Tx) -> None:
            tx.run("INSERT INTO facts (key, value) VALUES ('effect', 'x')")
            change(tx, stale)

        with pytest.raises(LeaseLost):
            await store.write(effect)
        assert not await store.write(lambda tx: queue.renew(tx, stale, 9_000))
        assert await store.read(lambda tx: tx.one("SELECT key FROM facts WHERE key = 'effect'")) is None
        assert await store.write(lambda tx: queue.renew(tx, fresh, 9_000))
        await store.write(lambda tx: change(tx, fresh))

    run(go())


def test_a_stale_worker_is_fenced_off_even_from_a_new_job_with_its_old_number(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue())
        (stale,) = await store.write(_claim(until_ms=2_000))
        await store.write(lambda tx: tx.run("DELETE FROM jobs"))
        fresh = await store.write(lambda tx: queue.insert_leased(tx, 1_000, "a", {}, "x/2", 2_000))
        same = Job(fresh.id, stale.kind, stale.payload, stale.attempt, stale.lease)
        with pytest.raises(LeaseLost):
            await store.write(lambda tx: queue.complete(tx, same))
        await store.write(lambda tx: queue.complete(tx, fresh))

    run(go())


def test_a_completed_job_is_gone_or_kept_as_done(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue("a"))
        await store.write(_enqueue("b"))
        gone, kept = await store.write(_claim())
        await store.write(lambda tx: queue.complete(tx, gone))
        await store.write(lambda tx: queue.complete(tx, kept, keep_at=7))
        assert [row[:2] for row in await store.read(_rows)] == [("b", "done")]
        assert await store.read(lambda tx: queue.earliest(tx, KINDS)) is None

    run(go())


def test_of_one_kind_and_key_one_waits_with_the_newest_payload_and_the_earliest_time(
    store: Store,
) -> None:
    async def go() -> None:
        for n, due_ms in ((1, 500), (2, 300), (3, 400)):
            await store.write(_enqueue_payload({"n": n}, due_ms))
        await store.write(_enqueue("b", key="k"))
        await store.write(_enqueue("a", key="other"))
        await store.write(_enqueue("a"))
        await store.write(_enqueue("a"))
        assert len(await store.read(_rows)) == 5
        job = (await store.write(_claim()))[0]
        assert (job.key, job.payload) == ("k", {"n": 3})
        rows = await store.read(lambda tx: tx.all("SELECT due_ms FROM jobs WHERE key = 'k' AND kind = 'a'"))
        assert rows == [(300,)]

    run(go())


def test_a_running_job_does_not_keep_the_next_of_its_key_from_waiting(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue(key="k"))
        (first,) = await store.write(_claim())
        await store.write(_enqueue(key="k"))
        (second,) = await store.write(_claim(lease="x/2"))
        assert first.id != second.id

    run(go())


def test_a_postponed_job_gives_way_to_another_of_its_key_that_waits_by_now(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue(key="k"))
        (job,) = await store.write(_claim())
        await store.write(_enqueue(key="k", due_ms=7_000))
        await store.write(lambda tx: queue.postpone(tx, job, 5_000, "later"))
        assert await store.read(_rows) == [("a", "waiting", 0, 7_000, "k")]

    run(go())


def test_a_postponed_job_keeps_count_of_its_attempts(store: Store) -> None:
    async def go() -> None:
        await store.write(_enqueue())
        (job,) = await store.write(_claim())
        await store.write(lambda tx: queue.postpone(tx, job, 5_000, "later"))
        assert await store.write(_claim(now_ms=4_999, lease="x/2")) == []
        (job,) = await store.write(_claim(now_ms=5_000, lease="x/2"))
        assert (job.attempt, job.lost) == (2, 0)

    run(go())


def test_ended_jobs_are_pruned_by_age_and_others_never(store: Store) -> None:
    async def go() -> None:
        for _ in range(4):
            await store.write(_enqueue())
        old, young, failed = await store.write(_claim(limit=3))
        await store.write(lambda tx: queue.complete(tx, old, keep_at=10))
        await store.write(lambda tx: queue.complete(tx, young, keep_at=20))
        await store.write(lambda tx: queue.fail(tx, failed, 10, "no"))
        assert await store.write(lambda tx: queue.prune(tx, 20, limit=1)) == 1
        assert await store.write(lambda tx: queue.prune(tx, 20)) == 1
        assert await store.write(lambda tx: queue.prune(tx, 20)) == 0
        assert [row[1] for row in await store.read(_rows)] == ["done", "waiting"]

    run(go())


def test_many_nodes_claim_every_job_exactly_once(postgresql_url: str, clock: ManualClock) -> None:
    async def go() -> None:
        nodes = [await open_store(postgresql_url, clock=clock) for _ in range(4)]
        try:
            await nodes[0].write(_enqueue_many(200))
            seen: list[int] = []

            async def node(number: int, store: Store) -> None:
                turn = 0
                while len(seen) < 200:
                    turn += 1
                    jobs = await store.write(_claim(limit=7, lease=f"{number}/{turn}"))
                    seen.extend(job.payload["n"] for job in jobs)
                    for job in jobs:
                        await store.write(_complete(job))

            await asyncio.wait_for(asyncio.gather(*(node(n, s) for n, s in enumerate(nodes))), 30)
            assert sorted(seen) == list(range(200))
        finally:
            for store in nodes:
                await store.close()

    run(go())
