"""Sending what waits to be sent: one job per target, which works off its notices.

Theory of operation. A notice is a row that a transaction left behind, together with a job for its target (the
key says which). The job sends what is due, a few at a time, writes down after each what became of it, and in
the transaction that ends the job makes the next one if anything still waits. So a target that is slow or
down occupies one of the runner's places, whatever waits for it. Of several jobs for a target that run at
once the oldest works and the others end: it sees what they were made for. A minute's sweep finds whatever a
race between two nodes left without a job.

A notice may be sent twice (the process died between the sending and the note of it), always under the same
id. It is tried again after each of ``RETRIES``, about a day in all, then given up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import structlog

from certloom.clock import Clock
from certloom.jobs import Job, Runner, enqueue
from certloom.jobs.queue import older_one_runs
from certloom.store import notices as statements
from certloom.store.base import Store, Tx
from certloom.store.notices import Notice

SEND_JOB = "notifications.send"
RETRIES = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 36_000)
"""Seconds from each failed attempt to the next; a little under a day in all."""

_AT_ONCE = 4
_TURN_SECONDS = 120.0
"""How long one job goes on before it makes way for the next."""
_TROUBLED = 3
"""So many failures in a row, and the target is left alone for a while."""
_PAUSE_MS = 30_000

_log = structlog.get_logger(__name__)


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt."""

    state: str
    """``delivered``, ``failed`` (no use in trying again), ``dropped``, or ``waiting`` (try again)."""
    status: int | None = None
    error: str | None = None
    also: Callable[[Tx], None] | None = None
    """What else is written with it."""


class Sender(Protocol):
    """Sends notices of one kind of target."""

    async def send(self, notice: Notice) -> Sent:
        """One attempt. What it raises counts as a failure that may pass."""
        ...


class Dispatch:
    """Works off notices. One per process."""

    def __init__(self, store: Store, clock: Clock, runner: Runner, senders: dict[str, Sender]) -> None:
        """``senders`` by the first part of the targets they serve: ``mail``, ``webhook``."""
        self._store = store
        self._clock = clock
        self._senders = senders
        runner.register(SEND_JOB, self._work_off)

    async def sweep(self, targets: Iterable[str]) -> None:
        """Make jobs for those of these targets for which something is due. Run every minute."""
        now_ms = self._clock.now_ms()

        def unit(tx: Tx) -> None:
            for target in targets:
                due_ms = statements.next_due(tx, target)
                if due_ms is not None and due_ms <= now_ms:
                    wake(tx, now_ms, target)

        await self._store.write(unit)

    async def _work_off(self, job: Job) -> Callable[[Tx], None] | None:
        target = str(job.payload["target"])
        sender = self._senders.get(target.partition("/")[0])
        if sender is None:
            return None  # email, where none is configured (any more); it waits until it is
        if await self._store.read(lambda tx: older_one_runs(tx, job, self._clock.now_ms())):
            return None
        pause_ms = await self._send_due(target, sender)

        def unit(tx: Tx) -> None:
            due_ms = statements.next_due(tx, target)
            if due_ms is not None:
                wake(tx, self._clock.now_ms(), target, max(due_ms, self._clock.now_ms() + pause_ms))

        return unit

    async def _send_due(self, target: str, sender: Sender) -> int:
        """Send what is due; milliseconds for which the target is to be left alone now."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _TURN_SECONDS
        failures = 0
        while loop.time() < until:
            due = await self._store.read(
                lambda tx: statements.due(tx, target, self._clock.now_ms(), _AT_ONCE)
            )
            if not due:
                return 0
            for sent in await asyncio.gather(*(self._send(sender, notice) for notice in due)):
                failures = 0 if sent else failures + 1
            if failures >= _TROUBLED:
                return _PAUSE_MS
        return 0

    async def _send(self, sender: Sender, notice: Notice) -> bool:
        """One attempt, and the note of it. False when the target failed."""
        try:
            sent = await sender.send(notice)
        except Exception as error:
            _log.exception("notice.failed", notice=notice.id, target=notice.target)
            sent = Sent(state=statements.WAITING, error=f"{type(error).__name__}: {error}"[:500])
        attempts = notice.attempts + 1
        state = sent.state
        if state == statements.WAITING and attempts > len(RETRIES):
            state = statements.FAILED
            _log.warning("notice.given_up", notice=notice.id, target=notice.target, error=sent.error)
        now = self._clock.now()

        def unit(tx: Tx) -> None:
            if state == statements.WAITING:
                # What failed together must not come back together.
                after_ms = int(RETRIES[attempts - 1] * random.uniform(1000, 1250))  # noqa: S311
                due_ms = self._clock.now_ms() + after_ms
                statements.postpone(tx, notice.id, due_ms, attempts, sent.status, sent.error or "")
            else:
                statements.finish(tx, notice.id, state, now, attempts, sent.status, sent.error)
            if sent.also is not None:
                sent.also(tx)

        await self._store.write(unit)
        return sent.state in (statements.DELIVERED, statements.DROPPED)


def wake(tx: Tx, now_ms: int, target: str, due_ms: int | None = None) -> None:
    """Have a target's notices worked off, at once or when ``due_ms`` has come."""
    enqueue(tx, now_ms, SEND_JOB, {"target": target}, due_ms=due_ms, key=target)
