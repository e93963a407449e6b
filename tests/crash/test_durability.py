"""A certificate is on disk before its requester is told: shown by the order of system calls.

kill -9 cannot show this, since what a killed process wrote stays in the page cache. What a loss of power
takes is what was written and not synced: so the log must have been synced, after the last write to it,
before the first byte of the answer that tells of the certificate leaves.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from bench.acme_client import Account, Responder, make_csr
from tests.clients.lab import ADDRESS, Lab, fresh_name
from tests.clients.server import Certloom
from tests.clients.servers import Servers
from tests.crash.trace import Call, read, traced
from tests.postgresql import Cluster


def _issue(server: Certloom, lab: Lab) -> None:
    """One issuance through the plain listener, where strace can read the answers."""

    async def issue() -> None:
        responder = Responder()
        await responder.listen(ADDRESS, lab.http_port)
        account = Account(server.plain_directory(), server.trust(), responder)
        await account.register()
        name = fresh_name()
        chain = await account.issue([name], make_csr(ec.generate_private_key(ec.SECP256R1()), [name]))
        assert chain.startswith(b"-----BEGIN CERTIFICATE-----")
        account.close()
        responder.close()

    asyncio.run(issue())


def _answer(calls: list[Call]) -> Call:
    """The finalize answer's write: the first one that tells a client where its certificate is."""
    told = [
        call
        for call in calls
        if call.writes
        and "HTTP/1.1 200" in call.text
        and "certificate" in call.text
        and "finalize" in call.text
    ]
    assert told, "no answer with a certificate was seen"
    return told[0]


def test_sqlite_syncs_its_log_before_the_answer_leaves(servers: Servers, lab: Lab, tmp_path: Path) -> None:
    with servers.another(tmp_path, plain=True) as server:
        record = tmp_path / "server.strace"
        with traced([server.pid], record):
            _issue(server, lab)
    calls = read(record)
    answer = _answer(calls)
    log = [call for call in calls if call.path.endswith("-wal") and call.begun < answer.begun]
    writes = [call for call in log if call.writes]
    assert writes, "nothing was written to the log before the answer"
    last = max(call.ended for call in writes)
    syncs = [call for call in log if call.syncs and call.begun >= last and call.ended <= answer.begun]
    assert syncs, "the log was not synced between its last write and the answer"


def test_postgresql_syncs_its_log_before_the_answer_leaves(
    servers: Servers, lab: Lab, tmp_path: Path, postgresql: Cluster
) -> None:
    record, backend_record = tmp_path / "server.strace", tmp_path / "postgresql.strace"
    # The backends are forked while the postmaster is traced, and so are traced themselves.
    with (
        traced([postgresql.pid], backend_record),
        servers.another(tmp_path, plain=True, database="postgresql") as server,
        traced([server.pid], record),
    ):
        _issue(server, lab)
    answer = _answer(read(record))
    calls = [call for call in read(backend_record) if call.begun < answer.begun]
    stored = [
        number
        for number, call in enumerate(calls)
        if call.name in ("recvfrom", "read") and "INSERT INTO certificates " in call.text
    ]
    assert stored, "no backend was seen to store the certificate"
    backend = [call for call in calls[stored[-1] :] if call.pid == calls[stored[-1]].pid]
    committed = next(number for number, call in enumerate(backend) if call.writes and "COMMIT" in call.text)
    log = [call for call in backend[:committed] if "/pg_wal/" in call.path]
    assert [call.name for call in log if call.writes], "the backend wrote no log before it said COMMIT"
    assert log[-1].syncs, "the backend said COMMIT without having synced its last write to the log"
    assert backend[committed].begun < answer.begun


def test_postgresql_that_does_not_wait_for_its_log_is_refused(
    servers: Servers, lab: Lab, tmp_path: Path, postgresql: Cluster
) -> None:
    name = postgresql.create()
    postgresql.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    server = Certloom(tmp_path, lab, database_url=postgresql.url(name))
    printed = server.refuses_to_start()
    assert "synchronous_commit" in printed
    assert "Traceback" not in printed
