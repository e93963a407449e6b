"""Full ACME issuances side by side: ``python -m bench.acme --help``.

Each issuance is a new nonce, a new order, its authorization, an http-01 challenge answered here, a poll,
finalize and the download, for a fresh name with a P-256 key; every certificate is verified. A worker is one
ACME account with one TLS connection. What a server used is read from /proc: the load's own work is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from bench import servers
from bench.acme_client import Account, Responder, check_chain, make_csr
from bench.fill import fill

STARTERS: dict[str, Callable[[Path], servers.Server]] = {
    "certloom-sqlite": servers.start_certloom,
    "certloom-postgresql": lambda folder: servers.start_certloom(folder, "postgresql"),
    "certloom-in-process": lambda folder: servers.start_certloom(folder, signer="in-process"),
    "caddy": servers.start_caddy,
    "pebble": servers.start_pebble,
}


class Measured(msgspec.Struct, kw_only=True):
    """One server at one number of workers."""

    server: str
    workers: int
    certificates: int
    stored_before: int
    """Certificates that the server already held."""
    seconds: float
    cpu_per_1000: float
    """CPU seconds of all the server's processes per 1,000 certificates."""
    main_cpu_per_1000: float
    """CPU seconds of its main process alone."""
    per_second: float
    p50_ms: float
    p99_ms: float
    peak_rss_mb: float
    requests_per_certificate: float


class Prepared(msgspec.Struct, frozen=True):
    """A name and the request for it, made before the clock starts."""

    name: str
    key: object
    csr: bytes


def prepare(count: int) -> list[Prepared]:
    """Fresh names with their CSRs. A few hundred keys serve all: no server looks at how often one is used."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(min(count, 256))]
    made = []
    for number in range(count):
        name = f"h{secrets.token_hex(6)}.bench.example.com"
        key = keys[number % len(keys)]
        made.append(Prepared(name, key.public_key(), make_csr(key, [name])))
    return made


async def issue_all(accounts: Sequence[Account], work: list[Prepared]) -> list[float]:
    """Share ``work`` among the accounts; the seconds that each issuance took."""
    todo = iter(work)
    times: list[float] = []

    async def worker(account: Account) -> None:
        for item in todo:
            begun = time.perf_counter()
            chain = await account.issue([item.name], item.csr)
            times.append(time.perf_counter() - begun)
            assert isinstance(item.key, ec.EllipticCurvePublicKey)
            check_chain(chain, item.key, [item.name])

    async with asyncio.TaskGroup() as group:
        for account in accounts:
            group.create_task(worker(account))
    return times


async def measure(
    server: servers.Server, responder: Responder, workers: int, count: int, stored: int
) -> Measured:
    """One line of the table."""
    accounts = [Account(server.directory, server.trust, responder) for _ in range(workers)]
    for account in accounts:
        await account.register()
    work, warm = prepare(count), prepare(max(20, workers))
    await issue_all(accounts, warm)
    requests = sum(account.requests for account in accounts)
    cpu, main = server.cpu_seconds(), server.main_cpu_seconds()
    begun = time.perf_counter()
    times = await issue_all(accounts, work)
    seconds = time.perf_counter() - begun
    # What a server does after its answer (background writes, logs) is its work too.
    await asyncio.sleep(1)
    cpu, main = server.cpu_seconds() - cpu, server.main_cpu_seconds() - main
    for account in accounts:
        account.close()
    times.sort()
    return Measured(
        server=server.name,
        workers=workers,
        certificates=count,
        stored_before=stored + len(warm),
        seconds=round(seconds, 2),
        cpu_per_1000=round(cpu / count * 1000, 2),
        main_cpu_per_1000=round(main / count * 1000, 2),
        per_second=round(count / seconds, 1),
        p50_ms=round(statistics.median(times) * 1000, 1),
        p99_ms=round(times[min(len(times) - 1, int(len(times) * 0.99))] * 1000, 1),
        peak_rss_mb=round(server.peak_rss() / 1e6, 1),
        requests_per_certificate=round((sum(account.requests for account in accounts) - requests) / count, 2),
    )


def table(lines: Sequence[Measured]) -> str:
    """The results as text."""
    head = (
        "server",
        "workers",
        "certs",
        "held",
        "CPU s/1000",
        "main",
        "certs/s",
        "p50 ms",
        "p99 ms",
        "RSS MB",
    )
    rows = [
        (
            line.server,
            line.workers,
            line.certificates,
            line.stored_before,
            line.cpu_per_1000,
            line.main_cpu_per_1000,
            line.per_second,
            line.p50_ms,
            line.p99_ms,
            line.peak_rss_mb,
        )
        for line in lines
    ]
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in text
    )


async def bench(options: argparse.Namespace, folder: Path) -> tuple[list[Measured], dict[str, object]]:
    """Every server in turn, each at every number of workers."""
    dns = servers.start_dns(folder)
    responder = Responder()
    ports = [servers.HTTP_PORT, *([80] if os.geteuid() == 0 else [])]
    await responder.listen(servers.ADDRESS, *ports)
    lines: list[Measured] = []
    notes: dict[str, object] = {}
    try:
        for name in options.servers:
            server = STARTERS[name](folder / name)
            stored = 0
            try:
                for workers in options.workers:
                    line = await measure(server, responder, workers, options.certificates, stored)
                    stored = line.stored_before + line.certificates
                    lines.append(line)
                    print(table(lines).splitlines()[-1], file=sys.stderr, flush=True)
                notes[name] = {**server.notes, "disk_per_certificate": round(server.stored() / stored)}
                for target in options.fill if server.sqlite else ():
                    assert server.sqlite is not None
                    server.pause()
                    seconds = fill(server.sqlite, max(0, target - stored))
                    server.resume()
                    stored = max(stored, target)
                    print(f"filled up to {stored} in {seconds:.0f} s", file=sys.stderr, flush=True)
                    line = await measure(
                        server, responder, options.fill_workers, options.certificates, stored
                    )
                    stored = line.stored_before + line.certificates
                    lines.append(line)
                    print(table(lines).splitlines()[-1], file=sys.stderr, flush=True)
            finally:
                server.close()
    finally:
        responder.close()
        dns.stop()
    return lines, notes


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.acme", description=__doc__)
    parser.add_argument(
        "--servers",
        type=lambda text: text.split(","),
        default=["certloom-sqlite", "certloom-postgresql", "caddy"],
        help=f"of {', '.join(STARTERS)} (pebble 2.4 is known to deadlock at 64 workers)",
    )
    parser.add_argument(
        "--workers", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 64]
    )
    parser.add_argument("--certificates", type=int, default=1000, help="for each number of workers")
    parser.add_argument(
        "--fill",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[],
        help="then fill the SQLite store up to these numbers of certificates, and measure again at each",
    )
    parser.add_argument("--fill-workers", type=int, default=8, help="workers for those")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--keep", action="store_true", help="keep the servers' folders, and say where")
    return parser.parse_args(argv)


def main() -> None:
    """Run and print."""
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="certloom-bench-"))
    folder.chmod(0o711)  # PostgreSQL's user must get to its own folder
    try:
        lines, notes = uvloop.run(bench(options, folder))
    finally:
        if options.keep:
            print(folder, file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(table(lines))
    for name, note in notes.items():
        print(f"{name}: {json.dumps(note)}")
    report = {"machine": machine, "servers": notes, "results": [msgspec.to_builtins(line) for line in lines]}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    else:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
