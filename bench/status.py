"""CRLs of many revoked certificates: how long a whole set takes to be signed anew, and who waits meanwhile.

    .venv-test/bin/python -m bench.status --revoked 10000,100000,1000000 --databases sqlite,postgresql

A real server with its signer, 16 shards. So many revoked certificates are put straight into its tables (rows
without real DER, which a CRL does not look at). Then an option of the authority is changed, which has the
CRLs of all shards signed again, and what is measured is from when the jobs are due until the last list is
published. Meanwhile one client asks for OCSP answers with nonces, each of which needs a signature, and
another whether the server is ready: their 99th percentile and their worst answer are shown beside those of
the quiet server. CPU is that of all of the server's processes, without PostgreSQL's. `bench.ocsp` measures
OCSP, and `bench.signer` the way to the signer.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import secrets
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import cpu_seconds, peak_rss
from certloom.clock import SystemClock
from certloom.pki.certificates import issuer_facts
from certloom.store import authorities, open_store
from certloom.store.base import Tx
from tests.clients.lab import free_port, wait_for
from tests.clients.server import COMMAND
from tests.pki.ocsp_requests import cert_id, request
from tests.postgresql import Cluster

HOST = "127.0.0.1"
_DAY = 86_400
_SHARDS = 16
_DUE_SECONDS = 5
"""After a change of the options, jobs are due when every node knows of it."""
_ROW = (
    "INSERT INTO certificates (authority, serial, der, spki_sha256, not_before, not_after, profile,"
    " profile_version, requester, request_id, crl_shard, issued, names, key_type, fingerprint, owner, team,"
    " channel, revoked, revocation_reason, status_changed) VALUES ('issuing', ?, ?, ?, ?, ?, 'tls-server', 1,"
    " 'bench:1', ?, ?, ?, '[]', 'P-256', ?, 'bench', '', 'acme/default', ?, ?, ?)"
)


def _rows(first: int, count: int, now: int) -> Iterator[tuple[Any, ...]]:
    for number in range(first, first + count):
        serial = b"\x40" + os.urandom(15)
        unique = number.to_bytes(32, "big")
        shard = int.from_bytes(serial[-2:], "big") % _SHARDS
        revoked = now - number % (30 * _DAY)
        start = now - 40 * _DAY
        reason = (0, 1, 3, 4, 5)[number % 5]
        yield (
            *(serial, bytes(600), unique, start, start + 90 * _DAY, f"r{number}", shard, start, unique),
            *(revoked, reason, revoked),
        )


async def fill(url: str, first: int, count: int) -> bytes:
    """Put revoked certificates into a stopped server's store; answers the issuing CA's certificate."""
    store = await open_store(url, clock=SystemClock())
    now = int(time.time())
    try:
        for begin in range(first, first + count, 5_000):
            rows = list(_rows(begin, min(5_000, first + count - begin), now))

            def unit(tx: Tx, rows: list[tuple[Any, ...]] = rows) -> None:
                tx.many(_ROW, rows)

            await store.write(unit)
        found = await store.read(lambda tx: authorities.get(tx, "issuing"))
        assert found is not None
        return found.certificate
    finally:
        await store.close()


class Server:
    """Certloom on a folder of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.port = free_port(HOST)
        self.config = folder / "certloom.toml"
        self.url = url or f"sqlite:///{folder}/data/certloom.db"
        self.config.write_text(
            f'data_dir = "{folder}/data"\npublic_http_url = "http://{HOST}:{self.port}"\n'
            f'[listen]\nhttps = "{HOST}:0"\nhttp = "{HOST}:{self.port}"\n[database]\nurl = "{url}"\n'
            '[logging]\nlevel = "error"\n'
        )
        self.program: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[float]:
        """Seconds until it answered."""
        began = time.perf_counter()
        program = self.program = subprocess.Popen(
            [COMMAND, "serve", "-c", self.config], stdout=subprocess.DEVNULL
        )
        wait_for("certloom", lambda: program.poll() is not None or self._ready(), 600)
        try:
            yield time.perf_counter() - began
        finally:
            program.terminate()
            program.wait(60)

    def _ready(self) -> bool:
        try:
            return self.get("/health/live") == 200
        except OSError:
            return False

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    def set(self, option: str, value: int) -> None:
        """Change an option of the issuing CA, as the local operator."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.folder / "data" / "admin.sock"))
        headers = {"content-type": "application/json", "if-match": "*"}
        body = json.dumps({option: value})
        connection.request("PATCH", "/api/v1/authorities/issuing", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        connection.close()


class Asking:
    """A client that asks one thing again and again, and how long each answer took."""

    def __init__(self, ask: Callable[[http.client.HTTPConnection], None], port: int) -> None:
        self._ask, self._port = ask, port
        self._stopping = threading.Event()
        self.seconds: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=60)
        while not self._stopping.is_set():
            began = time.perf_counter()
            self._ask(connection)
            self.seconds.append(time.perf_counter() - began)
            time.sleep(0.005)
        connection.close()

    def stop(self) -> str:
        """The 99th percentile and the worst, in milliseconds."""
        self._stopping.set()
        self._thread.join()
        ordered = sorted(self.seconds)
        p99, worst = ordered[int(len(ordered) * 0.99)], ordered[-1]
        return f"{p99 * 1e3:.1f}/{worst * 1e3:.0f}"


def _asking(server: Server, issuer: bytes) -> tuple[Asking, Asking]:
    facts = issuer_facts(issuer)

    def ocsp(connection: http.client.HTTPConnection) -> None:
        body = request([cert_id(facts, b"\x40" + os.urandom(15))], secrets.token_bytes(16))
        connection.request("POST", "/ocsp/issuing", body, {"content-type": "application/ocsp-request"})
        assert connection.getresponse().read()

    def ready(connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200

    return Asking(ocsp, server.port), Asking(ready, server.port)


async def _published(url: str) -> tuple[int, int, int]:
    """The least CRL number of the shards, how many there are, and octets of all."""
    store = await open_store(url, clock=SystemClock()) if not url.startswith("sqlite") else None
    sql = "SELECT min(number), count(*), sum(length(der)) FROM crls WHERE authority = 'issuing' AND delta = 0"
    if store is None:
        import sqlite3

        path = url.removeprefix("sqlite:///")
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            row = database.execute(sql).fetchone()
    else:
        row = await store.read(lambda tx: tx.one(sql))
        await store.close()
    return int(row[0]), int(row[1]), int(row[2])


def measure(server: Server, revoked: int, issuer: bytes, tell: Callable[[str], None]) -> None:
    """One line."""
    with server.running() as start:
        assert server.program is not None
        time.sleep(2)
        clients = _asking(server, issuer)
        time.sleep(3)
        quiet = [client.stop() for client in clients]
        before, _, _ = asyncio.run(_published(server.url))
        server.set("crl_seconds", 7 * _DAY - 60 - len(str(revoked)))
        time.sleep(_DUE_SECONDS - 0.5)
        cpu = cpu_seconds(server.program.pid)
        clients = _asking(server, issuer)
        time.sleep(0.5)
        began = time.perf_counter()
        while True:
            number, lists, octets = asyncio.run(_published(server.url))
            if number > before and lists == _SHARDS:
                break
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        busy = [client.stop() for client in clients]
        cpu = cpu_seconds(server.program.pid) - cpu
        peak = peak_rss(server.program.pid)
    dialect = server.url.partition(":")[0]
    tell(
        f"{dialect:>11} {revoked:>9} {seconds:>8.1f} {cpu:>8.1f} {octets / 2**20:>8.1f} {peak / 2**20:>8.0f}"
        f" {quiet[0]:>10} {busy[0]:>10} {quiet[1]:>11} {busy[1]:>11} {start:>7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--revoked", default="10000,100000,1000000")
    parser.add_argument("--databases", default="sqlite,postgresql")
    a = parser.parse_args()
    print(
        f"{'database':>11} {'revoked':>9} {'seconds':>8} {'CPU s':>8} {'CRL MiB':>8} {'RSS MiB':>8}"
        f" {'OCSP ms':>10} {'meanwhile':>10} {'ready ms':>11} {'meanwhile':>11} {'start s':>7}"
    )
    for database in a.databases.split(","):
        cluster = Cluster() if database == "postgresql" else None
        with tempfile.TemporaryDirectory(prefix="certloom-bench-") as name:
            server = Server(Path(name), cluster.url(cluster.create()) if cluster else "")
            try:
                with server.running():
                    pass
                there = 0
                for count in map(int, a.revoked.split(",")):
                    issuer = asyncio.run(fill(server.url, there, count - there))
                    there = count
                    measure(server, count, issuer, lambda line: print(line, flush=True))
            finally:
                if cluster is not None:
                    cluster.remove()


if __name__ == "__main__":
    main()
