"""One PostgreSQL connection, used by one thread, and the units' view of it.

It speaks libpq through ``psycopg.pq`` directly: every statement is prepared on first use and run by name,
with the few types the store knows. That halves the CPU time of psycopg's own cursors, and the blocking calls
let go of the interpreter lock while the server works.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from certloom.store.base import Conflict, Row, StoreError

_OLDEST = 130000
_PREPARED = 1000
"""Statements kept prepared per connection; dynamic lists of parameters make more of them than code has."""
_PIPELINE = 200
"""Rows sent ahead of their answers."""

_DEFAULTS = {
    "application_name": "certloom",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "tcp_user_timeout": "30000",
}

_OK: Final = pq.ExecStatus.COMMAND_OK
_ROWS: Final = pq.ExecStatus.TUPLES_OK
_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_ABORTED: Final = pq.ExecStatus.PIPELINE_ABORTED
_BAD: Final = pq.ConnStatus.BAD


class Lost(StoreError):
    """The connection broke."""


class Again(Exception):
    """The server chose this transaction as the one to be repeated (serialization failure or deadlock)."""


@lru_cache(maxsize=4096)
def placeholders(sql: str) -> bytes:
    """A statement with ``$1``, ``$2`` for its ``?``, but for those in literals, quoted names and comments."""
    out: list[str] = []
    count = 0
    i, end = 0, len(sql)
    while i < end:
        char = sql[i]
        if char == "?":
            count += 1
            out.append(f"${count}")
            i += 1
            continue
        if char in "'\"":
            close = sql.find(char, i + 1)  # a doubled quote is two literals side by side: the same to us
        elif sql.startswith("--", i):
            close = sql.find("\n", i)
        elif sql.startswith("/*", i):
            close = sql.find("*/", i)
            close = close if close < 0 else close + 1
        else:
            close = i
        stop = end if close < 0 else close + 1
        out.append(sql[i:stop])
        i = stop
    return "".join(out).encode()


def _integer(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


def _numeric(value: bytes) -> int:
    """PostgreSQL's binary NUMERIC, which is what sum() over BIGINT gives; whole numbers only."""
    digits, weight, sign, _scale = (_integer(value[i : i + 2]) for i in (0, 2, 4, 6))
    if sign not in (0, 0x4000) or digits > weight + 1:
        raise StoreError("a NUMERIC that is not a whole number")
    number: int = 0
    for i in range(digits):
        number = number * 10_000 + _integer(value[8 + 2 * i : 10 + 2 * i])
    number *= 10_000 ** (weight + 1 - digits)
    return -number if sign else number


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    16: _integer,  # bool: 0 and 1, as SQLite has it
    20: _integer,
    21: _integer,
    23: _integer,
    17: bytes,
    25: bytes.decode,
    18: bytes.decode,
    19: bytes.decode,
    705: bytes.decode,
    1043: bytes.decode,
    1700: _numeric,
    2278: lambda value: None,  # void
}

_INT8, _BYTEA = 20, 17


def _oid(value: Any) -> int:
    """The type to declare for a parameter: left to the server, it would take ``? + 1`` for 32 bits."""
    if isinstance(value, int):
        return _INT8
    return _BYTEA if isinstance(value, bytes) else 0


def _encode(params: Sequence[Any]) -> tuple[list[Any], list[pq.Format]]:
    values: list[Any] = []  # bytes, or None for NULL, which psycopg's annotations leave out in places
    formats: list[pq.Format] = []
    for value in params:
        if isinstance(value, str):
            encoded = value.encode()
            if b"\0" in encoded:
                raise ValueError("text with a NUL character cannot be stored")
            values.append(encoded)
            formats.append(pq.Format.TEXT)
        elif isinstance(value, int):
            values.append(b"%d" % value)
            formats.append(pq.Format.TEXT)
        elif value is None:
            values.append(None)
            formats.append(pq.Format.TEXT)
        elif isinstance(value, bytes):
            values.append(value)
            formats.append(pq.Format.BINARY)
        else:
            raise TypeError(f"a column holds int, str, bytes or None, not {type(value).__name__}")
    return values, formats


class Session:
    """A connection that has passed ``_check``. Raises ``StoreError`` when there is none to be had."""

    def __init__(self, url: str) -> None:
        self._pg = pq.PGconn.connect(_conninfo(url).encode())
        self._names: dict[str, bytes | None] = {}
        self._decoders: dict[str, list[Callable[[bytes], Any]]] = {}
        self._serial = 0
        try:
            if self._pg.status != pq.ConnStatus.OK:
                raise StoreError(f"cannot connect to PostgreSQL: {_message(self._pg)}")
            self._check()
        except BaseException:
            self._pg.finish()
            raise

    def _check(self) -> None:
        """Refuse a server that could forget what it has acknowledged, or that reads SQL differently."""
        version = self._pg.server_version
        if version < _OLDEST:
            raise StoreError(f"PostgreSQL {version // 10_000} is too old: certloom needs 13 or newer")
        self.command(b"SET client_min_messages = warning")
        self.command(b"SET client_encoding = 'UTF8'")
        names = (
            "synchronous_commit",
            "fsync",
            "full_page_writes",
            "standard_conforming_strings",
            "server_encoding",
        )
        asked = [f"current_setting('{name}')" for name in names]
        *values, standby = self.rows(f"SELECT {', '.join(asked)}, pg_is_in_recovery()")[0]
        found = dict(zip(names, values, strict=True))
        if found["synchronous_commit"] == "off":
            raise StoreError(
                "PostgreSQL has synchronous_commit off (for the server, this database or this role): a crash "
                "could lose certificates that were handed out"
            )
        for name in ("fsync", "full_page_writes", "standard_conforming_strings"):
            if found[name] != "on":
                raise StoreError(f"PostgreSQL has {name} {found[name]}: certloom needs it on")
        if found["server_encoding"] != "UTF8":
            raise StoreError(f"the PostgreSQL database's encoding is {found['server_encoding']}, not UTF8")
        if standby:
            raise StoreError("this PostgreSQL server is a standby: certloom needs the primary")
        # As checked, so it stays: a later ALTER ROLE or reload does not reach this session.
        self.command(b"SET synchronous_commit = '%s'" % found["synchronous_commit"].encode())
        self.command(b"SET lock_timeout = '30s'")
        self.command(b"SET idle_in_transaction_session_timeout = '60s'")

    @property
    def broken(self) -> bool:
        """Whether the connection is gone."""
        return bool(self._pg.status == _BAD)

    def close(self) -> None:
        """Hang up; what is not committed is rolled back by the server."""
        self._pg.finish()

    def command(self, sql: bytes) -> bytes:
        """Run one statement without parameters (BEGIN, COMMIT, SET) and return its command tag."""
        try:
            result = self._pg.exec_(sql)
        except psycopg.Error as error:
            raise self._lost(error) from error
        if result.status not in (_OK, _ROWS):
            raise self._error(result)
        return result.command_status or b""

    def roll_back(self) -> None:
        """End the transaction; a connection that cannot even do that is closed."""
        if self.broken:
            return
        try:
            self.command(b"ROLLBACK")
        except StoreError:
            self._pg.finish()

    def tidy(self) -> None:
        """Between transactions: forget prepared statements when there are too many."""
        if len(self._names) > _PREPARED:
            self.command(b"DEALLOCATE ALL")
            self._names.clear()
            self._decoders.clear()

    def rows(self, sql: str, params: Sequence[Any] = (), limit: int | None = None) -> list[Row]:
        """Run a statement; its rows, or the first ``limit`` of them."""
        result = self._execute(sql, params)
        decoders = self._decoders.get(sql)
        if decoders is None:
            types = [result.ftype(column) for column in range(result.nfields)]
            unknown = [oid for oid in types if oid not in _DECODERS]
            if unknown:
                raise TypeError(f"the store does not read PostgreSQL's type {unknown[0]}: cast the column")
            decoders = self._decoders[sql] = [_DECODERS[oid] for oid in types]
        get = result.get_value
        count = result.ntuples if limit is None else min(limit, result.ntuples)
        columns = list(enumerate(decoders))
        return [
            tuple([None if (raw := get(row, i)) is None else decode(raw) for i, decode in columns])
            for row in range(count)
        ]

    def run(self, sql: str, params: Sequence[Any]) -> int:
        """Run a statement; how many rows it changed."""
        return self._execute(sql, params).command_tuples or 0

    def _execute(self, sql: str, params: Sequence[Any]) -> pq.abc.PGresult:
        values, formats = _encode(params)
        name = self._prepare(sql, params)
        try:
            if name is None:
                result = self._pg.exec_params(placeholders(sql), values, None, formats, pq.Format.BINARY)
            else:
                result = self._pg.exec_prepared(name, values, formats, pq.Format.BINARY)
        except psycopg.Error as error:
            raise self._lost(error) from error
        if result.status not in (_ROWS, _OK):
            raise self._error(result)
        return result

    def _prepare(self, sql: str, params: Sequence[Any]) -> bytes | None:
        """The name a statement is prepared under; None for those run once (DDL)."""
        try:
            return self._names[sql]
        except KeyError:
            pass
        name = None
        if sql.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            self._serial += 1
            name = b"s%d" % self._serial
            try:
                result = self._pg.prepare(name, placeholders(sql), [_oid(value) for value in params])
            except psycopg.Error as error:
                raise self._lost(error) from error
            if result.status != _OK:
                raise self._error(result)
        self._names[sql] = name
        return name

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row, without waiting for one answer before the next is sent."""
        batch: list[Sequence[Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _PIPELINE:
                self._pipeline(sql, batch)
                batch = []
        if len(batch) < 3:
            for row in batch:
                self._execute(sql, row)
        else:
            self._pipeline(sql, batch)

    def _pipeline(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        encoded = [_encode(row) for row in rows]
        name = self._prepare(sql, rows[0])
        if name is None:
            raise TypeError("only SELECT, INSERT, UPDATE and DELETE can be run for many rows")
        failed: pq.abc.PGresult | None = None
        try:
            self._pg.enter_pipeline_mode()
            for values, formats in encoded:
                self._pg.send_query_prepared(name, values, formats, pq.Format.BINARY)
            self._pg.pipeline_sync()
            while True:
                result = self._next_result()
                if result is None:
                    if self.broken:
                        raise self._lost(_message(self._pg))
                elif result.status == _SYNC:
                    break
                elif result.status not in (_OK, _ROWS, _ABORTED):
                    failed = failed or result
            self._pg.exit_pipeline_mode()
        except psycopg.Error as error:
            raise self._lost(error) from error
        if failed is not None:
            raise self._error(failed)

    def _next_result(self) -> pq.abc.PGresult | None:
        # get_result would wait inside libpq with the interpreter locked; poll waits without.
        while self._pg.is_busy():
            poll = select.poll()
            poll.register(self._pg.socket, select.POLLIN)
            poll.poll()
            self._pg.consume_input()
        return self._pg.get_result()

    def _lost(self, why: object) -> Lost:
        text = str(why).strip()
        self._pg.finish()
        return Lost(f"the connection to PostgreSQL broke: {text}")

    def _error(self, result: pq.abc.PGresult) -> Exception:
        """The store's own error where it has one; a mistake in a statement stays psycopg's error for it.

        Only the primary message is kept: the detail line holds the values of the row.
        """
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace")
        if self.broken or state.startswith(("08", "57P", "25P03")):
            return self._lost(text or _message(self._pg))
        if state in ("40001", "40P01"):
            return Again(text)
        if state == "23505":
            return Conflict(text)
        # Resources, intervention, system errors; a lock not had in time; a primary that became a standby.
        if not state or state[:2] in ("53", "57", "58") or state in ("55P03", "25006"):
            return StoreError(f"PostgreSQL cannot be used: {text} ({state})")
        if state == "0A000" and "cached plan" in text:
            # Another node has migrated the schema: prepare everything again.
            return self._lost(text)
        return psycopg.errors.lookup(state)(text)


class SessionTx:
    """One unit's view of a session. After its first error it refuses everything."""

    __slots__ = ("_session", "failed", "signals")

    for_update = " FOR UPDATE"

    def __init__(self, session: Session) -> None:
        self._session = session
        self.failed: Exception | None = None
        self.signals: set[str] | None = None

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        self._begin()
        try:
            rows = self._session.rows(sql, params, 1)
        except Exception as error:
            self.failed = error
            raise
        return rows[0] if rows else None

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        self._begin()
        try:
            return self._session.rows(sql, params)
        except Exception as error:
            self.failed = error
            raise

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        self._begin()
        try:
            return self._session.run(sql, params)
        except Exception as error:
            self.failed = error
            raise

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._begin()
        try:
            self._session.many(sql, rows)
        except Exception as error:
            self.failed = error
            raise

    def signal(self, topic: str) -> None:
        if self.signals is None:
            self.signals = set()
        self.signals.add(topic)

    def _begin(self) -> None:
        if self.failed is not None:
            raise StoreError(f"the unit is over: {self.failed}")

    def end(self) -> None:
        """Make later use an error: a transaction lives no longer than its unit."""
        if self.failed is None:
            self.failed = StoreError("its function has returned")


def _conninfo(url: str) -> str:
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
        return make_conninfo("", **(_DEFAULTS | given))
    except psycopg.Error:
        # Without libpq's text, which quotes parts of the URL, and with it perhaps of the password.
        raise StoreError("database.url is not a valid PostgreSQL connection URI") from None


def _message(pgconn: pq.abc.PGconn) -> str:
    return pgconn.get_error_message().strip()
