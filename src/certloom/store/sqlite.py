"""SQLite for one process.

One writer thread owns the only connection that writes. It takes all units that wait, runs them in one
transaction, commits once (one sync of the write-ahead log for all of them), and only then resolves their
futures, all in one call into the event loop. When a unit fails, the batch is run again with a savepoint for
each: the one that fails is rolled back to its savepoint and the others stay.

Point reads run in the event loop on a connection of their own: a thread would cost ten times the read. They
share a snapshot until the next commit, because to begin one takes several system calls and empties the
connection's page cache. An open snapshot keeps the log from being started again, so for that moment the
writer asks for snapshots to be short. Long reads (``scan``) run on reader threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from certloom.clock import Clock
from certloom.store import migrations
from certloom.store.base import StoreError, Tx
from certloom.store.delivery import Listeners, settle
from certloom.store.sqlite_checkpoint import Checkpointer, fold
from certloom.store.sqlite_session import ProcessLock, SQLiteTx, connect, translate
from certloom.store.timing import CommitTimes

T = TypeVar("T")
_Unit = Callable[[Tx], Any]
_Item = tuple[_Unit, "asyncio.Future[Any]"]

_BATCH = 256
"""Units per commit at most, so that the first does not wait for ever on the last."""
_BUSY = 0.003
_GATHER = 0.002
"""When units have lately come more often than one in the first of these seconds, others are likely on their
way: the writer waits for the second before it takes what there is, so that one sync to disk serves more of
them. A lone client, which waits for each answer before it asks again, is not slowed."""
_FOLD = "fold"
_PATIENCE = 0.25
"""Seconds that the writer waits for a busy event loop before it folds what it can."""
_READERS = 2
_LOG_LIMIT = 64 << 20
"""Bytes to which the write-ahead log file is cut back once its contents are in the database."""


class SQLiteStore:
    """See the module's text. Made by ``SQLiteStore.open``."""

    dialect = "sqlite"

    def __init__(self, path: str, lock: ProcessLock) -> None:
        self._path = path
        self._lock = lock
        self._closed = False
        self._writer = connect(path)
        try:
            mode = self._writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise StoreError(f"{path}: the file system does not allow SQLite's write-ahead log")
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.execute("PRAGMA wal_autocheckpoint = 0")
            self._writer.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
            self._reader = connect(path, read_only=True)
        except sqlite3.Error as error:
            self._writer.close()
            raise translate(error) from error
        except StoreError:
            self._writer.close()
            raise
        # Units, None to stop, or a word from the checkpointer that it is the writer's turn.
        self._queue: queue.SimpleQueue[_Item | str | None] = queue.SimpleQueue()
        self.times = CommitTimes()
        self._listeners = Listeners()
        self._commits = 0
        """Counted by the writer when a commit is done, before anybody is told of it."""
        self._snapshot = -1
        """The count at which the reader's open snapshot was begun; -1 while none is open."""
        self._short_snapshots = False
        self._local = threading.local()
        self._scanners: list[sqlite3.Connection] = []
        self._executor = ThreadPoolExecutor(_READERS, thread_name_prefix="certloom-scan")
        self._thread = threading.Thread(target=self._write_batches, name="certloom-writer", daemon=True)
        self._checkpointer = Checkpointer(path, lambda: self._queue.put(_FOLD))
        self._thread.start()

    @classmethod
    async def open(cls, path: str, *, clock: Clock) -> SQLiteStore:
        """Lock, open and migrate the database file at ``path``, creating it when it is not there.

        Raises ``StoreError`` when another process has it open (naming that process), or it cannot be used.
        """
        store = cls._locked(path)
        try:
            await store.write(lambda tx: migrations.migrate(tx, cls.dialect, clock.now()))
        except BaseException:
            await store.close()
            raise
        return store

    @classmethod
    def _locked(cls, path: str) -> SQLiteStore:
        path = os.path.abspath(path)
        lock = ProcessLock(path)
        try:
            # Created here, so that it and the files SQLite puts beside it are nobody else's to read.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return cls(path, lock)
        except OSError as error:
            lock.release()
            raise StoreError(f"cannot open the database {path}: {error.strerror}") from error
        except BaseException:
            lock.release()
            raise

    @property
    def waiting(self) -> int:
        """Units that wait for the writer, about."""
        return self._queue.qsize()

    async def read(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit of point reads, here and now, on one snapshot."""
        if self._closed:
            raise StoreError("the store is closed")
        if self._short_snapshots:
            self._end_snapshot()
            return _on_snapshot(self._reader, unit)
        commits = self._commits
        if self._snapshot != commits or not self._reader.in_transaction:
            self._end_snapshot()
            self._reader.execute("BEGIN")
            self._snapshot = commits
        tx = SQLiteTx(self._reader)
        try:
            return unit(tx)
        finally:
            tx.end()

    def _end_snapshot(self) -> None:
        if self._snapshot >= 0:
            self._snapshot = -1
            if self._reader.in_transaction:  # an I/O error ends a transaction by itself
                self._reader.execute("ROLLBACK")

    async def scan(self, unit: Callable[[Tx], T]) -> T:
        """Run a long read on a reader thread, on one snapshot."""
        if self._closed:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._scan, unit)

    def _scan(self, unit: Callable[[Tx], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._path, read_only=True)
            self._scanners.append(connection)
        return _on_snapshot(connection, unit)

    async def write(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit in a transaction; return when it is synced to disk."""
        if self._closed:
            raise StoreError("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((unit, future))
        return await future

    def listen(self, topic: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the event loop after the commit of any unit that signalled ``topic``."""
        self._listeners.add(topic, callback)

    async def backup(self, path: str) -> None:
        """Copy the database, as of one moment, to a new file at ``path`` while everything goes on.

        The file appears under its name only when it is whole and on disk. Raises ``StoreError`` when it
        already exists or cannot be written.
        """
        if self._closed:
            raise StoreError("the store is closed")
        await asyncio.get_running_loop().run_in_executor(self._executor, self._backup, path)

    def _backup(self, path: str) -> None:
        if os.path.exists(path):
            raise StoreError(f"{path} exists already")
        partial = f"{path}.partial"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            # In one step: page by page, SQLite would start again after every commit.
            source, target = connect(self._path, read_only=True), sqlite3.connect(partial)
            try:
                source.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")
            finally:
                source.close()
                target.close()
            _sync(partial)
            os.rename(partial, path)
            _sync(os.path.dirname(os.path.abspath(path)))
        except (OSError, sqlite3.Error) as error:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise StoreError(f"cannot back up to {path}: {error}") from error

    async def close(self) -> None:
        """Finish what is queued, fold the log into the database file, let go of the lock."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._thread.join)
        await loop.run_in_executor(None, self._checkpointer.close)
        await loop.run_in_executor(None, self._executor.shutdown)
        for connection in (self._reader, *self._scanners):
            connection.close()
        try:
            with contextlib.suppress(sqlite3.Error):
                await loop.run_in_executor(None, self._writer.execute, "PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()
        finally:
            self._lock.release()

    def _write_batches(self) -> None:
        take, take_now = self._queue.get, self._queue.get_nowait
        loop: asyncio.AbstractEventLoop | None = None
        began, mean = time.monotonic(), 1.0
        while True:
            item = take()
            if mean < _BUSY and isinstance(item, tuple):
                time.sleep(_GATHER)
            batch: list[_Item] = []
            while isinstance(item, tuple):
                batch.append(item)
                if len(batch) == _BATCH:
                    break
                try:
                    item = take_now()
                except queue.Empty:
                    break
            if batch:
                loop = batch[0][1].get_loop()
                taken = time.monotonic()
                self._commit(batch)
                self._checkpointer.committed(self._writer.total_changes)
                now = time.monotonic()
                self.times.observe(now - taken)
                mean += (min(now - began, 1.0) / len(batch) - mean) / 16
                began = now
            if item is None:
                return
            if item is _FOLD:
                self._short_snapshots = True
                self._await_end_of_snapshot(loop)
                fold(self._writer)

    def _await_end_of_snapshot(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Have the event loop end the snapshot that it keeps; until then the log cannot be folded wholly."""
        ended = threading.Event()

        def end() -> None:
            self._end_snapshot()
            ended.set()

        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed; then nobody reads either
                loop.call_soon_threadsafe(end)
                ended.wait(_PATIENCE)

    def _commit(self, batch: list[_Item]) -> None:
        """Run a batch in one transaction and tell every future how it went."""
        if len(batch) > 1 and self._commit_together(batch):
            return
        execute = self._writer.execute
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        signals: set[str] = set()
        alone = len(batch) == 1
        try:
            execute("BEGIN IMMEDIATE")
            for unit, future in batch:
                tx = SQLiteTx(self._writer)
                if not alone:
                    execute("SAVEPOINT unit")
                try:
                    result = unit(tx)
                    if tx.failed is not None:
                        raise tx.failed
                except BaseException as error:
                    outcomes.append((future, None, error))
                    if not self._writer.in_transaction:
                        # Disk full and its like: SQLite has rolled back the other units as well.
                        raise tx.failed or error from error
                    execute("ROLLBACK" if alone else "ROLLBACK TO unit")
                else:
                    outcomes.append((future, result, None))
                    if tx.signals is not None:
                        signals |= tx.signals
                tx.end()
                if not alone:
                    execute("RELEASE unit")
            if self._writer.in_transaction:
                execute("COMMIT")
            self._commits += 1
            self._short_snapshots = False
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    execute("ROLLBACK")
            reason = translate(error) if isinstance(error, sqlite3.Error) else error
            if not isinstance(reason, StoreError):
                reason = StoreError(f"the transaction failed: {reason}")
            outcomes = [(future, None, reason) for _, future in batch]
            signals.clear()
        self._deliver(batch, outcomes, signals)

    def _commit_together(self, batch: list[_Item]) -> bool:
        """Run a batch without savepoints; False, and nothing has been done, when a unit of it fails."""
        execute = self._writer.execute
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        signals: set[str] = set()
        try:
            execute("BEGIN IMMEDIATE")
            for unit, future in batch:
                tx = SQLiteTx(self._writer)
                result = unit(tx)
                if tx.failed is not None:
                    raise tx.failed
                outcomes.append((future, result, None))
                if tx.signals is not None:
                    signals |= tx.signals
                tx.end()
            execute("COMMIT")
        except BaseException:
            # Units may run twice: they do now, each in a savepoint, to find out whose failure it is.
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    execute("ROLLBACK")
            return False
        self._commits += 1
        self._short_snapshots = False
        self._deliver(batch, outcomes, signals)
        return True

    def _deliver(
        self,
        batch: list[_Item],
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]],
        signals: set[str],
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and with it whoever waited
            batch[0][1].get_loop().call_soon_threadsafe(self._resolve, outcomes, signals)

    def _resolve(
        self, outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]], signals: set[str]
    ) -> None:
        self._end_snapshot()
        self._listeners.call(signals)
        for outcome in outcomes:
            settle(*outcome)


def _on_snapshot(connection: sqlite3.Connection, unit: Callable[[Tx], T]) -> T:
    tx = SQLiteTx(connection)
    connection.execute("BEGIN")
    try:
        return unit(tx)
    finally:
        tx.end()
        connection.execute("ROLLBACK")


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
