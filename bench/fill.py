"""Fills a stopped server's SQLite store with certificates, by copying what real issuances left behind.

Each copy is a whole issuance: certificate, names, enrolment request, serial, order, authorization, events,
with ids, names, serials and tokens of its own, and the events linked into the audit chain.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from certloom.audit.chain import digest
from certloom.store import events
from certloom.store.name_keys import domain_key

_BATCH = 5_000

Row = dict[str, Any]
Maker = Callable[[dict[str, Any]], Any]


class _Chain:
    """The audit chain, continued."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        (head,) = database.execute("SELECT value FROM facts WHERE key = ?", (events.HEAD,)).fetchone()
        mark = msgspec.json.decode(head, type=events.Mark)
        self._sequence, self._hash = mark.sequence, bytes.fromhex(mark.hash)
        (self._id,) = database.execute("SELECT max(id) FROM events").fetchone()

    def link(self, values: list[Any]) -> list[Any]:
        """An event's columns (id first, sequence and hash last) with its place in the chain."""
        self._sequence += 1
        self._id += 1
        columns = (self._id, *values[1:-2])
        self._hash = digest(self._hash, self._sequence, columns)
        return [*columns, self._sequence, self._hash]

    def store_head(self) -> None:
        head = msgspec.json.encode(events.Mark(self._sequence, self._hash.hex())).decode()
        self._database.execute("UPDATE facts SET value = ? WHERE key = ?", (head, events.HEAD))


class _Source:
    """One real issuance, and how its rows are written again with other values."""

    def __init__(self, database: sqlite3.Connection, certificate: Row) -> None:
        self._database = database
        self._certificate = certificate
        request = self._all("enrolment_requests", "id = ?", certificate["request_id"])
        orders = self._all("acme_orders", "request_id = ?", certificate["request_id"])
        authorizations = [
            row
            for order in orders
            for id_ in re.findall(r"[A-Za-z0-9_-]{8,}", order["authorization_ids"])
            for row in self._all("acme_authorizations", "id = ?", id_)
        ]
        named = [str(name).partition(":")[2] for name in msgspec.json.decode(certificate["names"])]
        names = [
            row
            for name in named
            for row in self._all(
                "certificate_names", "key = ? AND certificate_id = ?", domain_key(name), certificate["id"]
            )
        ]
        serials = self._all(
            "serials", "authority = ? AND serial = ?", certificate["authority"], certificate["serial"]
        )
        rows = {
            "certificates": [certificate],
            "certificate_names": names,
            "enrolment_requests": request,
            "serials": serials,
            "acme_orders": orders,
            "acme_authorizations": authorizations,
        }
        # What is different in each copy: texts by what they are now.
        self._texts: dict[str, str] = {}
        for number, row in enumerate([*request, *orders, *authorizations]):
            self._texts[row["id"]] = f"id{number}"
        for number, row in enumerate(authorizations):
            self._texts[row["token"]] = f"token{number}"
        for number, name in enumerate(named):
            self._texts[name] = f"name{number}"
        self._keys = {domain_key(name): f"name{number}" for number, name in enumerate(named)}
        subjects = [f"{kind}:{id_}" for id_ in self._texts for kind in ("acme-order", "acme-authorization")]
        subjects.append(f"certificate:{certificate['id']}")
        marks = ", ".join("?" * len(subjects))
        rows["events"] = self._all("events", f"sequence IS NOT NULL AND subject IN ({marks})", *subjects)
        self._statements: list[tuple[str, list[list[Maker]]]] = []
        for table, found in rows.items():
            if found:
                columns = list(found[0])
                sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
                self._statements.append(
                    (sql, [[self._maker(table, column, row[column]) for column in columns] for row in found])
                )

    def _all(self, table: str, where: str, *values: Any) -> list[Row]:
        cursor = self._database.execute(f"SELECT * FROM {table} WHERE {where}", values)
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row, strict=True)) for row in cursor]

    def _maker(self, table: str, column: str, value: Any) -> Maker:
        """How one column of one row gets its value in a copy."""
        certificate = self._certificate
        if (table == "certificates" and column == "id") or column == "certificate_id":
            return lambda new: new["certificate"]
        if table == "certificate_names" and column == "key":
            return lambda new: domain_key(new[self._keys[value]])
        if column in ("spki_sha256", "fingerprint", "names_hash"):
            return lambda new: os.urandom(32)
        if column == "idempotency_key" and value is not None:
            return lambda new: new["id0"] + new["id1"]
        if isinstance(value, bytes) and certificate["serial"] in value:
            before, _, after = value.partition(certificate["serial"])
            return lambda new: before + new["serial"] + after
        if isinstance(value, str):
            text = value.replace("%", "%%")
            for old in sorted(self._texts, key=len, reverse=True):
                text = text.replace(old, f"%({self._texts[old]})s")
            serial = certificate["serial"].hex()
            text = text.replace(serial, "%(hex)s").replace(serial.upper(), "%(hex)s")
            if table == "events" and column in ("subject", "data"):
                text = re.sub(rf"\b{certificate['id']}\b", "%(certificate)d", text)
            if "%(" in text:
                return lambda new: text % new
        return lambda new: value

    def statements(self, new: dict[str, Any], chain: _Chain) -> Iterator[tuple[str, list[Any]]]:
        """The inserts of one copy."""
        for old, key in self._texts.items():
            if key.startswith("name"):
                label = os.urandom(6).hex()
                new[key] = f"h{label}.{old.partition('.')[2]}"
            else:
                size = len(old)
                new[key] = urlsafe_b64encode(os.urandom(size))[:size].decode()
        serial = bytearray(os.urandom(len(self._certificate["serial"])))
        # Like the original in its first octet, so that lengths in the DER stay right.
        serial[0] = self._certificate["serial"][0]
        new["serial"] = bytes(serial)
        new["hex"] = serial.hex()
        for sql, rows in self._statements:
            for row in rows:
                values = [maker(new) for maker in row]
                yield sql, chain.link(values) if sql.startswith("INSERT INTO events") else values


def fill(path: Path, count: int) -> float:
    """Add ``count`` certificates to the database at ``path``, which no server may have open.

    It must hold a few that were really issued through ACME. Returns the seconds it took.
    """
    begun = time.perf_counter()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -2000000")
    cursor = database.execute("SELECT * FROM certificates ORDER BY id DESC LIMIT 16")
    columns = [column[0] for column in cursor.description]
    sources = [_Source(database, dict(zip(columns, row, strict=True))) for row in cursor.fetchall()]
    if not sources:
        raise ValueError("the store holds no certificate to copy")
    (last,) = database.execute("SELECT max(id) FROM certificates").fetchone()
    chain = _Chain(database)
    for first in range(0, count, _BATCH):
        waiting: dict[str, list[list[Any]]] = {}
        for number in range(first, min(first + _BATCH, count)):
            new = {"certificate": last + 1 + number}
            for sql, values in sources[number % len(sources)].statements(new, chain):
                waiting.setdefault(sql, []).append(values)
        database.execute("BEGIN")
        for sql, rows in waiting.items():
            database.executemany(sql, rows)
        chain.store_head()
        database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("PRAGMA optimize")
    database.close()
    return time.perf_counter() - begun
