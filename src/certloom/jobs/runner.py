"""Runs jobs: claims what is due, calls the handler, commits its effect together with the job's completion."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import structlog

from certloom.clock import Clock
from certloom.jobs import queue
from certloom.jobs.queue import Job, LeaseLost
from certloom.store.base import Conflict, Store, StoreError, Tx

Unit = Callable[[Tx], Any]
Handler = Callable[[Job], Awaitable[Unit | None]]

_LOST_LIMIT = 10
"""A job whose worker died this often is likely what killed it."""

log = structlog.get_logger(__name__)


class Retry(Exception):
    """Raised by a handler: not now, try again in ``after_s`` seconds.

    The retries it was registered with do not bound it: the handler says when to stop, by ``job.attempt``.
    """

    def __init__(self, after_s: float, message: str = "") -> None:
        super().__init__(message or f"again in {after_s} s")
        self.after_s = after_s


class _Kind(msgspec.Struct, frozen=True):
    handler: Handler
    retries: tuple[float, ...]
    on_exhausted: Callable[[Job], Unit | None] | None
    keep: bool
    timeout_s: float


class _Running(msgspec.Struct):
    job: Job
    task: asyncio.Task[None]
    lease_until_ms: int


class Runner:
    """This process's worker. One per process.

    ``node`` names the process in the leases; it need not be unique. ``concurrency`` bounds the jobs that run
    at once. A worker that dies is noticed after ``lease_s`` seconds (on SQLite at the next start, as no other
    process can have the database). ``poll_s`` is how often the table is looked at for jobs that other
    processes enqueued: what this process enqueues wakes it.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        node: str,
        *,
        concurrency: int = 64,
        lease_s: float = 30,
        poll_s: float = 5,
    ) -> None:
        self._store = store
        self._clock = clock
        self._concurrency = concurrency
        self._lease_ms = int(lease_s * 1000)
        self._poll_s = poll_s
        self._name = f"{node}/{secrets.token_hex(8)}"
        self._leases = itertools.count(1)
        self._kinds: dict[str, _Kind] = {}
        self._periodic: list[tuple[float, str, Callable[[], Coroutine[Any, Any, Any]]]] = []
        self._running: dict[int, _Running] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._accepting = False
        store.listen(queue.SIGNAL, self._wake.set)

    def register(
        self,
        kind: str,
        handler: Handler,
        *,
        retries: tuple[float, ...] = (5, 30, 120, 600, 3600),
        on_exhausted: Callable[[Job], Unit | None] | None = None,
        keep: bool = False,
        timeout_s: float = 300,
    ) -> None:
        """Say who does jobs of a kind. Before ``start``.

        ``handler(job)`` does the work and returns a unit (or None) that is applied in the transaction that
        completes the job; it may run more than once, its unit takes effect once. When it raises, or takes
        longer than ``timeout_s`` seconds, it is tried again after each of ``retries`` seconds (and up to a
        quarter more). Then the job has failed: ``on_exhausted(job)`` gives a unit to apply with that.
        ``keep`` keeps jobs that went well in the table until ``prune``; failed ones always are kept.
        """
        self._kinds[kind] = _Kind(handler, retries, on_exhausted, keep, timeout_s)

    def every(self, seconds: float, name: str, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Call ``function`` at the start and then ``seconds`` after each time it ended. Before ``start``.

        Nothing durable: an exception is logged and the next time comes as usual.
        """
        self._periodic.append((seconds, name, function))

    async def start(self) -> None:
        """Begin. On SQLite, what a former process left running is run again at once."""
        if self._store.dialect == "sqlite":
            await self._store.write(queue.expire_leases)
        self._accepting = True
        self._tasks = [asyncio.create_task(self._poll(), name="jobs")]
        self._tasks += [
            asyncio.create_task(self._repeat(seconds, name, function), name=name)
            for seconds, name, function in self._periodic
        ]

    async def stop(self, grace_s: float | None = None) -> None:
        """Claim no more and wait for what runs. What still runs after ``grace_s`` seconds is given back."""
        self._accepting = False
        self._stopping.set()
        self._wake.set()
        # The turn under way is let finish: what it has claimed must be run, or it would lie there leased.
        await asyncio.gather(*self._tasks[:1])
        running = [entry.task for entry in self._running.values()] + self._tasks[1:]
        if running:
            renewal = asyncio.create_task(self._keep_renewing())
            _, late = await asyncio.wait(running, timeout=grace_s)
            for task in late:
                task.cancel()
            renewal.cancel()
            await asyncio.gather(*late, renewal, return_exceptions=True)

    def wake(self) -> None:
        """Look at the table now."""
        self._wake.set()

    def insert_leased(self, tx: Tx, kind: str, payload: dict[str, Any]) -> Job:
        """Make a job in the caller's transaction that this process will run, without having to claim it.

        Pass it to ``start_leased`` once the transaction has committed; otherwise it runs when its lease has
        run out. When this process is busy it is an ordinary job, due now, and ``start_leased`` only wakes.
        """
        now_ms = self._clock.now_ms()
        if not self._accepting or len(self._running) >= self._concurrency:
            queue.enqueue(tx, now_ms, kind, payload)
            return Job(0, kind, payload, 0)
        return queue.insert_leased(tx, now_ms, kind, payload, self._new_lease(), now_ms + self._lease_ms)

    def start_leased(self, job: Job) -> None:
        """Run a job that ``insert_leased`` made, now that its transaction has committed."""
        if job.lease and self._accepting:
            self._spawn(job, self._clock.now_ms() + self._lease_ms)
        else:
            self._wake.set()

    def _new_lease(self) -> str:
        # Called on the store's threads too. A token is never given out twice, whatever nodes are called.
        return f"{self._name}/{next(self._leases)}"

    async def _poll(self) -> None:
        while self._accepting:
            self._wake.clear()
            try:
                delay = await self._turn()
            except StoreError as error:
                log.error("jobs.store", error=str(error))
                delay = 1.0
            if self._accepting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._wake.wait()

    async def _turn(self) -> float:
        """Renew, claim, and say in how many seconds there is something to do again."""
        delay = min(self._poll_s, await self._renew())
        free = self._concurrency - len(self._running)
        if free <= 0 or not self._kinds:
            return delay  # the end of a job wakes us
        now_ms = self._clock.now_ms()
        due_ms = await self._store.read(lambda tx: queue.earliest(tx, self._kinds))
        if due_ms is None:
            return delay
        if due_ms > now_ms:
            return min(delay, (due_ms - now_ms) / 1000)
        lease, held = self._new_lease(), frozenset(self._running)
        until_ms = now_ms + self._lease_ms
        jobs = await self._store.write(
            lambda tx: queue.claim(tx, now_ms, self._kinds, free, lease, until_ms, held)
        )
        for job in jobs:
            self._spawn(job, until_ms)
        # None although some are due: another node has them locked this very moment.
        return 0 if jobs else min(delay, 0.2)

    async def _renew(self) -> float:
        """Renew the leases that have used up a third of their time; seconds until that is needed again."""
        now_ms = self._clock.now_ms()
        third = self._lease_ms // 3
        ageing = [r for r in self._running.values() if r.lease_until_ms - now_ms <= 2 * third]
        if ageing:
            until_ms = now_ms + self._lease_ms
            kept = await self._store.write(lambda tx: [queue.renew(tx, r.job, until_ms) for r in ageing])
            for entry, ours in zip(ageing, kept, strict=True):
                if ours:
                    entry.lease_until_ms = until_ms
                elif not entry.task.done() and entry.job.id in self._running:
                    log.warning("job.lost", job=entry.job.id, kind=entry.job.kind)
                    entry.task.cancel()
        if not self._running:
            return third / 1000
        soonest = min(r.lease_until_ms for r in self._running.values())
        return max(0.05, (soonest - 2 * third - self._clock.now_ms()) / 1000)

    async def _keep_renewing(self) -> None:
        while True:
            delay = 1.0
            with contextlib.suppress(StoreError):
                delay = await self._renew()
            await asyncio.sleep(delay)

    def _spawn(self, job: Job, lease_until_ms: int) -> None:
        task = asyncio.create_task(self._run(job))
        self._running[job.id] = _Running(job, task, lease_until_ms)

    async def _run(self, job: Job) -> None:
        kind = self._kinds[job.kind]
        try:
            await self._attempt(job, kind)
        except LeaseLost:
            log.warning("job.lost", job=job.id, kind=job.kind)
        except asyncio.CancelledError:
            # Told to stop, or fenced off; in the latter case there is nothing to give back.
            with contextlib.suppress(LeaseLost, StoreError):
                await self._store.write(lambda tx: queue.postpone(tx, job, self._clock.now_ms(), "stopped"))
        except Exception:
            # Nothing could be written about it: when its lease has run out it is run again.
            log.exception("job.abandoned", job=job.id, kind=job.kind)
        finally:
            del self._running[job.id]
            self._wake.set()

    async def _attempt(self, job: Job, kind: _Kind) -> None:
        if job.lost >= _LOST_LIMIT:
            await self._fail(job, kind, f"its worker died {job.lost} times")
            return
        try:
            async with asyncio.timeout(kind.timeout_s):
                effect = await kind.handler(job)
            keep_at = self._clock.now() if kind.keep else None

            def unit(tx: Tx) -> None:
                queue.complete(tx, job, keep_at=keep_at)
                if effect is not None:
                    effect(tx)

            await self._store.write(unit)
        except LeaseLost:
            raise
        except Retry as error:
            await self._postpone(job, error.after_s, str(error))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:500]
            failures = job.attempt - job.lost
            if failures > len(kind.retries):
                log.exception("job.failed", job=job.id, kind=job.kind, attempt=job.attempt)
                await self._fail(job, kind, why)
            else:
                log.warning("job.retry", job=job.id, kind=job.kind, attempt=job.attempt, exc_info=True)
                # Jitter: what failed together must not come back together.
                await self._postpone(job, kind.retries[failures - 1] * random.uniform(1, 1.25), why)  # noqa: S311

    async def _postpone(self, job: Job, after_s: float, why: str) -> None:
        due_ms = self._clock.now_ms() + int(after_s * 1000)
        try:
            await self._store.write(lambda tx: queue.postpone(tx, job, due_ms, why))
        except Conflict:
            # Between the look and the update another of its key came to wait; this time it is seen.
            await self._store.write(lambda tx: queue.postpone(tx, job, due_ms, why))

    async def _fail(self, job: Job, kind: _Kind, why: str) -> None:
        effect = kind.on_exhausted(job) if kind.on_exhausted is not None else None
        now = self._clock.now()

        def unit(tx: Tx) -> None:
            queue.fail(tx, job, now, why)
            if effect is not None:
                effect(tx)

        await self._store.write(unit)

    async def _repeat(
        self, seconds: float, name: str, function: Callable[[], Coroutine[Any, Any, Any]]
    ) -> None:
        while not self._stopping.is_set():
            try:
                await function()
            except Exception:
                log.exception("periodic.failed", name=name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
