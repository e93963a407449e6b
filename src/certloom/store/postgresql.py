"""PostgreSQL for any number of processes.

Each unit runs on a worker thread that owns a connection. Writes run READ COMMITTED (what must not change
meanwhile is locked with ``Tx.for_update``), reads on a REPEATABLE READ snapshot. A unit whose transaction the
server wants repeated, or whose connection broke before the commit was sent, is run again; when it broke
during the commit nobody can know, and the caller is told ``StoreError``.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from certloom.clock import Clock
from certloom.store import migrations
from certloom.store.base import StoreError, Tx
from certloom.store.delivery import Listeners, settle
from certloom.store.postgresql_session import Again, Lost, Session, SessionTx
from certloom.store.timing import CommitTimes

T = TypeVar("T")

_WRITE = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_SCANNERS = 2
_TRIES = 8
_BREAKS = 2
"""Connections a unit may lose: one that died idle shows only when it is used."""


class _Item(NamedTuple):
    begin: bytes
    unit: Callable[[Tx], Any]
    future: asyncio.Future[Any]


class PostgreSQLStore:
    """See the module's text. Made by ``PostgreSQLStore.open``."""

    dialect = "postgresql"

    def __init__(self, url: str, connections: int) -> None:
        self.times = CommitTimes()
        self._listeners = Listeners()
        self._closed = False
        self._units = _Workers(url, connections, "certloom-pg", self._listeners, self.times)
        # Long reads have connections of their own, so that they cannot keep the short ones waiting.
        self._scans = _Workers(url, _SCANNERS, "certloom-pg-scan", self._listeners, self.times)

    @classmethod
    async def open(cls, url: str, *, clock: Clock, connections: int) -> PostgreSQLStore:
        """Connect, check that the server keeps what it acknowledges, and migrate. Raises ``StoreError``."""
        store = cls(url, connections)
        try:
            await store.write(lambda tx: migrations.migrate(tx, cls.dialect, clock.now()))
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def waiting(self) -> int:
        """Units that wait for a connection, about."""
        return self._units.waiting

    async def read(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit of point reads on one snapshot."""
        return await self._submit(self._units, _READ, unit)

    async def scan(self, unit: Callable[[Tx], T]) -> T:
        """Run a long read on one snapshot."""
        return await self._submit(self._scans, _READ, unit)

    async def write(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit in a transaction; return when the server has it on disk."""
        return await self._submit(self._units, _WRITE, unit)

    async def _submit(self, workers: _Workers, begin: bytes, unit: Callable[[Tx], T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        workers.submit(_Item(begin, unit, future))
        return await future

    def listen(self, topic: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the event loop after the commit of any unit that signalled ``topic``."""
        self._listeners.add(topic, callback)

    async def close(self) -> None:
        """Finish what is queued, then hang up."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        for workers in (self._units, self._scans):
            await loop.run_in_executor(None, workers.close)


class _Workers:
    """Up to ``size`` threads with a connection each, started when they are first needed."""

    def __init__(self, url: str, size: int, name: str, listeners: Listeners, times: CommitTimes) -> None:
        self._url = url
        self._size = size
        self._name = name
        self._listeners = listeners
        self._times = times
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._unclaimed = 0
        """Items put, less threads that wait for one."""

    def submit(self, item: _Item) -> None:
        with self._lock:
            self._unclaimed += 1
            short = self._unclaimed > 0
        self._queue.put(item)
        if short and len(self._threads) < self._size:
            thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def waiting(self) -> int:
        """Items that no thread has taken."""
        return self._queue.qsize()

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        connection = _Connection(self._url)
        while True:
            with self._lock:
                self._unclaimed -= 1
            item = self._queue.get()
            if item is None:
                break
            if item.future.cancelled():
                continue
            result, signals, error = None, None, None
            began = time.monotonic()
            try:
                result, signals = connection.run(item.begin, item.unit)
            except BaseException as problem:
                error = problem
            if item.begin is _WRITE:
                self._times.observe(time.monotonic() - began)
            with contextlib.suppress(RuntimeError):  # the event loop is gone, and with it whoever waited
                item.future.get_loop().call_soon_threadsafe(
                    self._deliver, item.future, result, signals, error
                )
        connection.close()

    def _deliver(
        self, future: asyncio.Future[Any], result: Any, signals: set[str] | None, error: BaseException | None
    ) -> None:
        if signals:
            self._listeners.call(signals)
        settle(future, result, error)


class _Connection:
    """One thread's session, made anew when it breaks."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: Session | None = None

    def run(self, begin: bytes, unit: Callable[[Tx], Any]) -> tuple[Any, set[str] | None]:
        """Run a unit until it is committed or has failed for good; its result and its signals."""
        repeats = breaks = 0
        while True:
            if self._session is None or self._session.broken:
                self._session = Session(self._url)
            try:
                return _transaction(self._session, begin, unit)
            except Again as error:
                repeats += 1
                if repeats == _TRIES:
                    raise StoreError(f"PostgreSQL wanted it repeated {_TRIES} times: {error}") from error
                # They collided; they must not come back at the same moment.
                time.sleep(random.uniform(0, 0.002 * 2**repeats))  # noqa: S311
            except Lost:
                breaks += 1
                if breaks == _BREAKS:
                    raise

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def _transaction(session: Session, begin: bytes, unit: Callable[[Tx], Any]) -> tuple[Any, set[str] | None]:
    session.tidy()
    session.command(begin)
    tx = SessionTx(session)
    try:
        result = unit(tx)
        if tx.failed is not None:
            raise tx.failed
    except BaseException as error:
        cause = tx.failed
        tx.end()
        session.roll_back()
        if isinstance(cause, Again | Lost) and error is not cause:
            raise cause from error
        raise
    tx.end()
    try:
        tag = session.command(b"COMMIT")
    except Lost as error:
        raise StoreError(f"it is not known whether the transaction was committed: {error}") from error
    if tag != b"COMMIT":
        raise StoreError("PostgreSQL rolled the transaction back")
    return result, tx.signals
