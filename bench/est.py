"""EST side by side with ACME: what an enrolment costs the server: ``python -m bench.est --help``.

    unshare -n bash -c 'ip link set lo up; .venv/bin/python -m bench.est'

Three kinds of load, one after the other on one server. ``enroll``: /simpleenroll with HTTP Basic, each worker
over one kept connection. ``reenroll``: /simplereenroll, each over a new connection with a full TLS handshake
and the client's certificate, as fleets do it. ``acme``: ``bench.acme``'s issuance, as the yardstick of the
same run. Every request is for a fresh P-256 key, made before the clock starts. What is measured is user and
system time of all of the server's processes, from /proc: the load's own work is not in it. ``--soak`` enrols
so many and shows the resident set as it goes; with ``--loads reenroll`` it renews.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import platform
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from bench import servers
from bench.acme import issue_all, prepare
from bench.acme_client import Account, Responder
from bench.processes import cpu_seconds, peak_rss
from tests.clients.lab import Program, environment, wait_for
from tests.clients.server import COMMAND, toml

ADDRESS = "127.0.0.1"
HTTPS, CLIENT = 18443, 18444
_KEYS = 256
_DEVICES = 64


class Measured(msgspec.Struct, kw_only=True):
    """One kind of load."""

    load: str
    signer: str
    tls: str
    workers: int
    certificates: int
    seconds: float
    per_second: float
    cpu_per_1000: float
    """CPU seconds of all the server's processes per 1,000 certificates."""
    p50_ms: float
    p99_ms: float
    rss_mb: float


class Certloom:
    """A server on a folder of its own."""

    def __init__(self, folder: Path, signer: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.signer = signer
        self._settings = folder / "certloom.toml"
        self._settings.write_text(
            toml(
                {
                    "data_dir": str(folder / "data"),
                    "public_url": f"https://localhost:{HTTPS}",
                    "listen": {
                        "https": f"{ADDRESS}:{HTTPS}",
                        "https_client": f"{ADDRESS}:{CLIENT}",
                        "http": f"{ADDRESS}:18080",
                    },
                    "signer": {"mode": signer},
                    "validation": {
                        "http_port": servers.HTTP_PORT,
                        "resolvers": [f"{servers.DNS_ADDRESS}:{servers.dns_port()}"],
                        "allow_addresses": ["127.77.0.0/16"],
                    },
                    "logging": {"level": "warning"},
                }
            )
        )
        self.program = Program(
            [str(COMMAND), "serve", "-c", str(self._settings)], log=folder / "log", env=environment(folder)
        )
        wait_for("certloom", self._listens)

    def _listens(self) -> bool:
        self.program.check()
        with socket.socket() as probe:
            return probe.connect_ex((ADDRESS, CLIENT)) == 0

    def cli(self, *arguments: str) -> str:
        command = [str(COMMAND), *arguments, "-c", str(self._settings)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @property
    def root(self) -> str:
        return str(self.folder / "data" / "root.pem")

    def context(self, tls: str, certificate: Path | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self.root)
        if tls == "1.2":
            made.maximum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            made.load_cert_chain(certificate)
        return made


class Request(msgspec.Struct, frozen=True):
    """A prepared request, and whose it is."""

    head: bytes
    body: bytes
    device: int


def make_csr(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    san = x509.SubjectAlternativeName([x509.DNSName(name)])
    csr = builder.add_extension(san, critical=False).sign(key, hashes.SHA256())
    return base64.b64encode(csr.public_bytes(serialization.Encoding.DER))


def requests(operation: str, names: Sequence[str], count: int, authorization: str = "") -> list[Request]:
    """So many, each with a key that was not used before under its name."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(min(count, _KEYS))]
    made = []
    for number in range(count):
        device = number % len(names)
        body = make_csr(keys[(number // len(names)) % len(keys)], names[device])
        head = (
            f"POST /.well-known/est/{operation} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\n{authorization}\r\n"
        )
        made.append(Request(head.encode(), body, device))
    return made


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> bytes:
    """The body of the answer, which must be a success."""
    writer.write(request.head + request.body)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise AssertionError(head + body)
    return body


Send = Callable[[Request], Awaitable[bytes]]


async def load(work: Sequence[Request], senders: Sequence[Send]) -> tuple[list[float], bytes]:
    """Share ``work`` among the senders; the seconds each took, and the last answer."""
    todo = iter(work)
    times: list[float] = []
    last = b""

    async def worker(send: Send) -> None:
        nonlocal last
        for request in todo:
            begun = time.perf_counter()
            last = await send(request)
            times.append(time.perf_counter() - begun)

    async with asyncio.TaskGroup() as group:
        for send in senders:
            group.create_task(worker(send))
    return times, last


async def kept(context: ssl.SSLContext) -> Send:
    """One connection for all that is sent."""
    reader, writer = await asyncio.open_connection("localhost", HTTPS, ssl=context)

    async def send(request: Request) -> bytes:
        return await exchange(reader, writer, request)

    return send


def anew(contexts: Sequence[ssl.SSLContext]) -> Send:
    """A connection, and a handshake with the device's certificate, for each."""

    async def send(request: Request) -> bytes:
        reader, writer = await asyncio.open_connection("localhost", CLIENT, ssl=contexts[request.device])
        try:
            return await exchange(reader, writer, request)
        finally:
            writer.close()

    return send


async def measure(
    server: Certloom, kind: str, tls: str, work: Sequence[Request], senders: Sequence[Send]
) -> Measured:
    warm = len(senders) * 4
    await load(work[:warm], senders)
    cpu, begun = cpu_seconds(server.program.pid), time.perf_counter()
    times, last = await load(work[warm:], senders)
    seconds = time.perf_counter() - begun
    used = cpu_seconds(server.program.pid) - cpu
    (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(last))
    assert certificate.subject
    return _measured(server, kind, tls, len(senders), times, seconds, used)


def _measured(
    server: Certloom, kind: str, tls: str, workers: int, times: list[float], seconds: float, used: float
) -> Measured:
    ordered = sorted(times)
    return Measured(
        load=kind,
        signer=server.signer,
        tls=tls,
        workers=workers,
        certificates=len(times),
        seconds=round(seconds, 2),
        per_second=round(len(times) / seconds, 1),
        cpu_per_1000=round(1000 * used / len(times), 2),
        p50_ms=round(1000 * statistics.median(ordered), 2),
        p99_ms=round(1000 * ordered[int(len(ordered) * 0.99)], 2),
        rss_mb=round(peak_rss(server.program.pid) / 2**20, 1),
    )


def password(server: Certloom) -> str:
    """The header of a user who may enrol."""
    made = json.loads(server.cli("credential", "create", "--kind", "est-password", "--id", "bench", "--json"))
    pair = f"bench:{made['secret']}".encode()
    return f"Authorization: Basic {base64.b64encode(pair).decode()}\r\n"


async def devices(server: Certloom, authorization: str, tls: str) -> tuple[list[str], list[ssl.SSLContext]]:
    """Devices with certificates of their own: their names, and how they connect."""
    names = [f"device{number}.tls{tls}.bench.example" for number in range(_DEVICES)]
    send = await kept(server.context("1.3"))
    contexts = []
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        body = make_csr(key, name)
        head = requests("simpleenroll", [name], 1, authorization)[0].head.decode()
        head = head.replace(head.partition("Content-Length: ")[2].partition("\r\n")[0], str(len(body)), 1)
        answer = await send(Request(head.encode(), body, 0))
        (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer))
        pem = serialization.Encoding.PEM
        file = server.folder / f"{name}.pem"
        file.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(pem)
        )
        contexts.append(server.context(tls, file))
    return names, contexts


async def measure_acme(server: Certloom, workers: int, count: int) -> Measured:
    """``bench.acme``'s issuance on the same server: the yardstick."""
    directory = f"https://localhost:{HTTPS}/acme/default/directory"
    responder = Responder()
    await responder.listen(servers.ADDRESS, servers.HTTP_PORT)
    try:
        accounts = [Account(directory, server.context("1.3"), responder) for _ in range(workers)]
        for account in accounts:
            await account.register()
        await issue_all(accounts, prepare(4 * workers))
        work = prepare(count)
        cpu, begun = cpu_seconds(server.program.pid), time.perf_counter()
        times = await issue_all(accounts, work)
        seconds = time.perf_counter() - begun
        used = cpu_seconds(server.program.pid) - cpu
    finally:
        responder.close()
    return _measured(server, "acme", "1.3", workers, times, seconds, used)


async def soak(server: Certloom, renew: bool, workers: int, count: int, step: int) -> None:
    """Enrol, or renew, so many, and say what the resident set is as it goes."""
    authorization = password(server)
    if renew:
        known, contexts = await devices(server, authorization, "1.3")
        senders = [anew(contexts)] * workers
    else:
        senders = [await kept(server.context("1.3")) for _ in range(workers)]
    for done in range(0, count, step):
        if renew:
            work = requests("simplereenroll", known, step)
        else:
            names = [f"s{number}.soak.example" for number in range(done, done + step)]
            work = requests("simpleenroll", names, step, authorization)
        begun = time.perf_counter()
        await load(work, senders)
        rate = step / (time.perf_counter() - begun)
        status = Path(f"/proc/{server.program.pid}/status").read_text()
        rss = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        print(f"{done + step:>8} certificates  {rss:6.1f} MB  {rate:.0f}/s", flush=True)


async def main(options: argparse.Namespace) -> None:
    found: list[Measured] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dns = servers.start_dns(folder) if not options.soak and "acme" in options.loads else None
        try:
            for signer in options.signers:
                server = Certloom(folder / signer, signer)
                try:
                    if options.soak:
                        renew = options.loads == ["reenroll"]
                        await soak(server, renew, options.workers, options.soak, max(1, options.soak // 10))
                        continue
                    found += await measure_all(server, options)
                finally:
                    server.program.stop()
        finally:
            if dns is not None:
                dns.stop()
    if found:
        show(found)


async def measure_all(server: Certloom, options: argparse.Namespace) -> list[Measured]:
    found = []
    authorization = password(server)
    workers, count = options.workers, options.certificates
    if "enroll" in options.loads:
        names = [f"e{number}.bench.example" for number in range(count)]
        senders = [await kept(server.context("1.3")) for _ in range(workers)]
        work = requests("simpleenroll", names, count + 4 * workers, authorization)
        found.append(await measure(server, "enroll", "1.3", work, senders))
    if "reenroll" in options.loads:
        for tls in ("1.3", "1.2"):
            names, contexts = await devices(server, authorization, tls)
            work = requests("simplereenroll", names, count + 4 * workers)
            found.append(await measure(server, "reenroll", tls, work, [anew(contexts)] * workers))
    if "acme" in options.loads:
        found.append(await measure_acme(server, workers, count))
    return found


def show(found: Sequence[Measured]) -> None:
    print(f"{platform.machine()}, Python {platform.python_version()}")
    print("| load | signer | TLS | workers | CPU s per 1,000 | per second | p50 ms | p99 ms | peak RSS MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for m in found:
        print(
            f"| {m.load} | {m.signer} | {m.tls} | {m.workers} | {m.cpu_per_1000} | {m.per_second} |"
            f" {m.p50_ms} | {m.p99_ms} | {m.rss_mb} |"
        )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--certificates", type=int, default=2000)
    parser.add_argument("--signers", type=lambda text: text.split(","), default=["spawned", "in-process"])
    parser.add_argument("--loads", type=lambda text: text.split(","), default=["enroll", "reenroll", "acme"])
    parser.add_argument("--soak", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(options()))
