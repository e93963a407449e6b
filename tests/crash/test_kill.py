"""kill -9, twenty times under load, of server, signer or both: nothing issued is lost, no serial is used
twice, nothing stays stuck."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench.acme_client import Responder
from tests.clients.lab import ADDRESS, Lab
from tests.clients.server import Certloom
from tests.clients.servers import Servers
from tests.crash.load import Load, serials

KILLS = 20
WORKERS = 8
SERVER, SIGNER = 0, 1
"""Victims by turns; 2 is both."""


async def _kill_under_load(server: Certloom, lab: Lab) -> Load:
    responder = Responder()
    await responder.listen(ADDRESS, lab.http_port)
    try:
        return await _kills(server, Load(server.target().directory, server.trust(), responder, WORKERS))
    finally:
        responder.close()


async def _kills(server: Certloom, load: Load) -> Load:
    working = asyncio.create_task(load.run())
    chance = random.Random(20)
    for turn in range(KILLS):
        got = len(load.received)
        # On PostgreSQL a killed process's jobs are taken over when their leases end, after 30 s.
        deadline = time.monotonic() + 75
        # At least a few certificates in each life, then a moment that no test can choose.
        while len(load.received) < got + 5 and not working.done():
            assert time.monotonic() < deadline, "no certificates after a restart"
            await asyncio.sleep(0.02)
        await asyncio.sleep(chance.uniform(0, 0.4))
        if working.done():
            break
        victim = turn % 3
        if victim != SERVER:
            server.kill_signer()
        if victim != SIGNER:
            server.kill()
            await asyncio.to_thread(server.start)
    load.stop()
    await working
    return load


def _rows(server: Certloom, sql: str) -> list[tuple[Any, ...]]:
    """A query on the stopped server's database."""
    if server.database_url:
        with psycopg.connect(server.database_url) as connection:
            return connection.execute(sql.encode()).fetchall()
    with sqlite3.connect(server.data / "certloom.db") as database:
        return database.execute(sql).fetchall()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_clients_received_is_in_the_inventory_after_twenty_kills(
    database: str, servers: Servers, lab: Lab, tmp_path: Path
) -> None:
    server = servers.another(tmp_path, database=database)
    with server:
        load = asyncio.run(_kill_under_load(server, lab))
        # One more life in peace: jobs that were running under a killed process come back.
        time.sleep(2)
        server.cli("audit", "verify")
    assert server.starts == 1 + sum(turn % 3 != SIGNER for turn in range(KILLS))
    assert len(load.received) >= 5 * KILLS
    assert load.interrupted >= KILLS // 2, "the kills did not interrupt anybody"

    inventory = {
        bytes(der): bytes(serial) for der, serial in _rows(server, "SELECT der, serial FROM certificates")
    }
    lost = [der for der in load.received if der not in inventory]
    assert not lost, f"{len(lost)} of {len(load.received)} certificates are not in the inventory"

    received = serials(load.received)
    assert len(set(received)) == len(received), "a serial was used twice"
    assert len(set(inventory.values())) == len(inventory)
    issued = {int.from_bytes(serial, "big") for serial in inventory.values()}
    assert set(received) <= issued
    burned = {
        int.from_bytes(bytes(serial), "big")
        for (serial,) in _rows(server, "SELECT serial FROM serials WHERE state = 'burned'")
    }
    assert not burned & issued, "a burned serial has a certificate"

    stuck = _rows(
        server,
        "SELECT state, count(*) FROM enrolment_requests WHERE state <> 'issued' GROUP BY state",
    )
    assert not stuck, f"requests left half-done: {stuck}"
    # Every certificate has its request, and every request its certificate: neither came without the other.
    # CAs and OCSP responders are certified without being asked for.
    own = "profile IN ('ca', 'ocsp')"
    with_request, asked_for, not_asked_for = _rows(
        server,
        "SELECT (SELECT count(*) FROM enrolment_requests r JOIN certificates c"
        " ON c.id = r.certificate_id AND c.request_id = r.id),"
        f" (SELECT count(*) FROM certificates WHERE NOT {own}),"
        f" (SELECT count(*) FROM certificates WHERE {own})",
    )[0]
    assert with_request == asked_for == len(inventory) - not_asked_for
    issued_events = _rows(server, "SELECT count(*) FROM events WHERE kind = 'certificate.issued'")
    assert issued_events == [(len(inventory),)]
