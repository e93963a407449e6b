"""SQLite connections as the store wants them, the units' view of one, and the lock that keeps others off."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from certloom.store.base import Conflict, Row, StoreError

_UNIQUE = frozenset(
    (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID)
)
_UNUSABLE = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    )
)


def translate(error: sqlite3.Error) -> Exception:
    """The store's own error where it has one; a mistake in a statement stays what it is."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return error
    if code in _UNIQUE:
        return Conflict(str(error))
    if code & 0xFF in _UNUSABLE:
        return StoreError(f"the SQLite database cannot be used: {error} ({error.sqlite_errorname})")
    return error


class SQLiteTx:
    """One unit's view of a connection. After its first error it refuses everything, as PostgreSQL would."""

    __slots__ = ("_connection", "_execute", "failed", "signals")

    for_update = ""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self.failed: Exception | None = None
        self.signals: set[str] | None = None

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        if self.failed is not None:
            raise self._refuse()
        try:
            row: Row | None = self._execute(sql, params).fetchone()
        except sqlite3.Error as error:
            raise self._fail(error) from error
        return row

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        if self.failed is not None:
            raise self._refuse()
        try:
            return self._execute(sql, params).fetchall()
        except sqlite3.Error as error:
            raise self._fail(error) from error

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        if self.failed is not None:
            raise self._refuse()
        try:
            return self._execute(sql, params).rowcount
        except sqlite3.Error as error:
            raise self._fail(error) from error

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        if self.failed is not None:
            raise self._refuse()
        try:
            self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._fail(error) from error

    def signal(self, topic: str) -> None:
        if self.signals is None:
            self.signals = set()
        self.signals.add(topic)

    def _fail(self, error: sqlite3.Error) -> Exception:
        self.failed = translate(error)
        return self.failed

    def _refuse(self) -> StoreError:
        return StoreError(f"the unit is over: {self.failed}")

    def end(self) -> None:
        """Make later use an error: a transaction lives no longer than its unit."""
        if self.failed is None:
            self.failed = StoreError("its function has returned")


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection as this store wants it. No memory map: an I/O error there is a signal, not an error."""
    connection = sqlite3.connect(
        path, timeout=10, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA cache_size = -32768")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA case_sensitive_like = ON")  # as PostgreSQL has it
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        connection.close()
        raise translate(error) from error
    return connection


class ProcessLock:
    """Keeps a second process off a database: a lock on the file ``PATH.lock``, which holds the owner's id."""

    def __init__(self, path: str) -> None:
        name = f"{path}.lock"
        try:
            self._fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {name}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreError(f"the database {path} is in use by process {owner}") from error
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let the next process in. The file stays: removing it would let two processes lock two files."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
