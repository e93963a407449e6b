"""OCSP answers per second and what each costs, beside ``openssl ocsp -port`` in the same run.

Over real HTTP, from a client in a process of its own. ``ahead``: requests without a nonce about certificates
that were asked for before; ``on demand``: requests with a nonce of their own, each in need of a signature.
Connections are kept alive, and, as openssl's responder knows no other way, also closed after every answer.
CPU is user and system time of all of the server's processes, its signer included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.processes import cpu_seconds
from certloom.clock import SystemClock
from certloom.pki import ca
from certloom.pki.certificates import issuer_facts
from certloom.pki.names import Name
from certloom.pki.pem import to_pem
from certloom.server.app import build
from certloom.settings import Settings
from certloom.settings.schema import Database, Listen, Logging
from certloom.store import Tx, certificates, configuration
from tests.clients.lab import free_port, wait_for
from tests.pki.ocsp_requests import cert_id, request
from tests.postgresql import Cluster
from tests.server.enrolling import WEB, enrol

HOST = "127.0.0.1"
_ROOT = Path(__file__).parents[1]


class Prepared(msgspec.Struct, frozen=True):
    """What a server is asked about."""

    port: int
    issuer: bytes
    serials: tuple[bytes, ...]


class Outcome(NamedTuple):
    server: str
    how: str
    connections: str
    a_second: float
    cpu_us: float


# --- the servers -----------------------------------------------------------------------------


async def serve(folder: Path, count: int, url: str) -> None:
    """Certloom, with certificates to be asked about; tells of itself in a file, and ends with its process."""
    settings = Settings(
        data_dir=str(folder / "data"),
        public_http_url="http://pki.test",
        listen=Listen(https="", http=f"{HOST}:0"),
        logging=Logging(level="error"),
        database=Database(url=url),
    )
    application = await build(settings, SystemClock())
    rooms = application.rooms

    def unit(tx: Tx) -> None:
        body = msgspec.json.encode(WEB).decode()
        configuration.add_profile_version(tx, "web", 1, body, rooms.clock.now())
        configuration.touch(tx)

    await rooms.store.write(unit)
    await rooms.refresh()
    await application.start()
    done = [await enrol(rooms, f"host-{n}.corp.example") for n in range(count)]
    ids = [one.certificate_id or 0 for one in done]
    rows = await rooms.store.read(lambda tx: [certificates.get(tx, id) for id in ids])
    port = application.sockets["http"].getsockname()[1]
    issuer = rooms.books.authority_row("issuing").certificate
    prepared = Prepared(port, issuer, tuple(row.serial for row in rows if row is not None))
    (folder / "prepared.part").write_bytes(msgspec.msgpack.encode(prepared))
    (folder / "prepared.part").rename(folder / "prepared")
    await asyncio.Event().wait()


def start_certloom(folder: Path, count: int, url: str = "") -> tuple[subprocess.Popen[bytes], Prepared]:
    folder.mkdir()
    command = [sys.executable, "-m", "bench.ocsp", "--serve", str(folder), "--certificates", str(count)]
    program = subprocess.Popen([*command, "--database", url], cwd=_ROOT)
    wait_for("certloom", lambda: program.poll() is not None or (folder / "prepared").exists(), 120)
    return program, msgspec.msgpack.decode((folder / "prepared").read_bytes(), type=Prepared)


def start_openssl(folder: Path, count: int) -> tuple[subprocess.Popen[bytes], Prepared]:
    """Its responder, with a CA key that signs answers itself, and an index of as many certificates."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    now = int(time.time())
    root = ca.make_root(
        key,
        subject=Name((("2.5.4.3", "bench"),)),
        serial=b"\x01",
        not_before=now - 60,
        not_after=now + 86_400 * 30,
    )
    (folder / "ca.pem").write_bytes(to_pem(root))
    (folder / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    serials = tuple(b"\x41" + os.urandom(15) for _ in range(count))
    ends = time.strftime("%y%m%d%H%M%SZ", time.gmtime(now + 86_400 * 20))
    lines = [f"V\t{ends}\t\t{serial.hex().upper()}\tunknown\t/CN={n}\n" for n, serial in enumerate(serials)]
    (folder / "index.txt").write_text("".join(lines))
    port = free_port(HOST)
    files = {"-index": "index.txt", "-CA": "ca.pem", "-rsigner": "ca.pem", "-rkey": "ca.key"}
    command = ["openssl", "ocsp", "-port", str(port), "-ndays", "4", "-rmd", "sha256"]
    for option, file in files.items():
        command += option, str(folder / file)
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    # It tells when it listens. A connection that asks nothing, to try it, would keep it from ever answering.
    assert program.stdout is not None
    assert program.stdout.readline().startswith(b"ACCEPT")
    return program, Prepared(port, root, serials)


# --- the client ------------------------------------------------------------------------------


async def load(at: Prepared, count: int, connections: int, *, nonce: bool, keep: bool) -> float:
    """Seconds that so many requests took."""
    issuer = issuer_facts(at.issuer)
    ids = [cert_id(issuer, serial) for serial in at.serials]
    turns = iter(range(count))
    bodies = [request([one]) for one in ids] if not nonce else []

    def asked(n: int) -> bytes:
        body = bodies[n % len(ids)] if bodies else request([ids[n % len(ids)]], os.urandom(16))
        head = "" if keep else "Connection: close\r\n"
        return (
            f"POST /ocsp HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/ocsp-request\r\n{head}"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def worker() -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        for n in turns:
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(HOST, at.port)
            writer.write(asked(n))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head[:15], head
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            assert length > 200, body
            if not keep:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return time.perf_counter() - began


def measure(
    server: str, pid: int, at: Path, count: int, *, nonce: bool, keep: bool, connections: int
) -> Outcome:
    """Have a client process ask, and look at what the server used meanwhile."""
    options = [*(["--nonce"] if nonce else []), *(["--keep"] if keep else [])]
    command = [sys.executable, "-m", "bench.ocsp", "--load", str(at), "--connections", str(connections)]

    def ask(times: int) -> float:
        done = subprocess.run(
            [*command, "--count", str(times), *options], cwd=_ROOT, check=True, capture_output=True, text=True
        )
        return float(done.stdout)

    ask(500)
    before = cpu_seconds(pid)
    seconds = ask(count)
    used = cpu_seconds(pid) - before
    how = "on demand" if nonce else "ahead"
    return Outcome(server, how, "kept" if keep else "closed", count / seconds, used / count * 1e6)


def compare(
    count: int,
    known: int,
    databases: Sequence[str],
    connections: int,
    tell: Callable[[str], None] = print,
) -> list[Outcome]:
    """Measure everything, and tell of it."""
    outcomes: list[Outcome] = []
    tell(f"{'server':>20} {'answers':>10} {'connections':>12} {'a second':>9} {'CPU us':>7}")

    def add(outcome: Outcome) -> None:
        outcomes.append(outcome)
        server, how, connections, a_second, cpu = outcome
        tell(f"{server:>20} {how:>10} {connections:>12} {a_second:>9.0f} {cpu:>7.0f}")

    with tempfile.TemporaryDirectory(prefix="certloom-bench-") as name:
        folder = Path(name)
        for database in databases:
            cluster = Cluster() if database == "postgresql" else None
            url = cluster.url(cluster.create()) if cluster else ""
            program, prepared = start_certloom(folder / database, known, url)
            try:
                at = _told(folder / f"{database}.at", prepared)
                for nonce, keep in ((False, True), (False, False), (True, True), (True, False)):
                    times = count // 4 if nonce else count
                    server = f"certloom-{database}"
                    add(
                        measure(
                            server, program.pid, at, times, nonce=nonce, keep=keep, connections=connections
                        )
                    )
            finally:
                program.send_signal(signal.SIGTERM)
                program.wait(30)
                if cluster is not None:
                    cluster.remove()
        program, prepared = start_openssl(folder / "openssl", known)
        try:
            at = _told(folder / "openssl.at", prepared)
            for nonce in (False, True):
                of = "openssl ocsp"
                add(
                    measure(of, program.pid, at, count // 8, nonce=nonce, keep=False, connections=connections)
                )
        finally:
            program.kill()
            program.wait()
    for how in ("ahead", "on demand"):
        theirs = next(o for o in outcomes if o.how == how and o.server == "openssl ocsp")
        for ours in (o for o in outcomes if o.how == how and o.server != theirs.server):
            tell(
                f"{ours.server}, {how}, connections {ours.connections}, against openssl ocsp:"
                f" {ours.a_second / theirs.a_second:.1f} times the answers a second,"
                f" {ours.cpu_us / theirs.cpu_us:.2f} of the CPU each"
            )
    return outcomes


def _told(path: Path, prepared: Prepared) -> Path:
    path.write_bytes(msgspec.msgpack.encode(prepared))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="requests of each kind")
    parser.add_argument("--certificates", type=int, default=200, help="that are asked about")
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--database", default="", help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nonce", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve is not None:
        uvloop.run(serve(a.serve, a.certificates, a.database))
    elif a.load is not None:
        at = msgspec.msgpack.decode(a.load.read_bytes(), type=Prepared)
        print(uvloop.run(load(at, a.count, a.connections, nonce=a.nonce, keep=a.keep)))
    else:
        compare(a.count, a.certificates, a.databases.split(","), a.connections)


if __name__ == "__main__":
    main()
