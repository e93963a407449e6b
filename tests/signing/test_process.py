"""The signer as a process: what becomes of requests when it goes, and of it when its server goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from certloom.clock import SystemClock
from certloom.pki.crl import CRLEntry, CRLTemplate
from certloom.server.signer import SpawnedSigner
from certloom.signing import LOST, SigningRefused, SigningUnavailable, messages
from certloom.signing.client import Client
from certloom.signing.process import SignerError, SignerTask
from tests.conftest import run
from tests.signing.making import leaf, root

NOW = SystemClock().now()


def task(folder: Path, **changes: object) -> SignerTask:
    plain = SignerTask(
        directory=str(folder), socket=str(folder / "signer.sock"), server_users=(os.geteuid(),)
    )
    return msgspec.structs.replace(plain, **changes)


@contextlib.asynccontextmanager
async def spawned(folder: Path) -> AsyncIterator[tuple[SpawnedSigner, Client]]:
    signer = SpawnedSigner(task(folder))
    await signer.start()
    client = Client(folder / "signer.sock")
    try:
        yield signer, client
    finally:
        await client.close()
        await signer.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_keys_live_through_the_death_of_the_signer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with spawned(tmp_path) as (signer, client):
            _, der = await root(client, NOW)
            before = signer.pid
            assert before is not None
            os.kill(before, signal.SIGKILL)
            # Nobody tells the client: it finds out, waits for the new one, and hands the key's record over.
            deadline = time.monotonic() + 10
            while signer.pid == before or signer.pid is None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            assert await client.certificate("root", der, leaf(NOW))
            assert signer.pid != before
            assert (await client.status()).pid == signer.pid

    run(scenario())


def test_a_certificate_in_hand_is_lost_with_the_signer_and_a_crl_is_asked_for_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with spawned(tmp_path) as (signer, client):
            _, der = await root(client, NOW)
            _, slow = await root(client, NOW, "slow", "rsa-4096")
            entries = tuple(CRLEntry(i.to_bytes(16, "big"), NOW, 1) for i in range(1, 50_000))
            contents = CRLTemplate(entries, 1, NOW, NOW + 60)
            crl = asyncio.create_task(client.crl("root", der, contents))
            asked = [asyncio.create_task(client.certificate("slow", slow, leaf(NOW))) for _ in range(50)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert signer.pid is not None
            os.kill(signer.pid, signal.SIGKILL)
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            lost = [o for o in outcomes if isinstance(o, SigningUnavailable)]
            # Whoever asked decides whether to ask again, under another serial.
            assert lost
            assert {o.code for o in lost} == {LOST}
            assert await crl

    run(scenario())


def test_without_a_signer_a_request_waits_and_then_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(tmp_path / "signer.sock", patience=0.3)
        began = time.monotonic()
        with pytest.raises(SigningUnavailable) as caught:
            await client.status()
        assert caught.value.code == "signer-unreachable"
        assert 0.1 < time.monotonic() - began < 5

        waiting = asyncio.create_task(Client(tmp_path / "signer.sock").status())
        await asyncio.sleep(0.2)
        signer = SpawnedSigner(task(tmp_path))
        await signer.start()
        assert (await waiting).pid == signer.pid
        await signer.close()

    run(scenario())


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Also when that was killed."""
    script = (
        "import asyncio, sys\n"
        "from tests.signing.test_process import SpawnedSigner, task\n"
        "from pathlib import Path\n"
        "async def main():\n"
        "    signer = SpawnedSigner(task(Path(sys.argv[1])))\n"
        "    await signer.start()\n"
        "    print(signer.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, "the signer outlived its server"
        time.sleep(0.05)


def test_it_says_why_it_does_not_start(tmp_path: Path) -> None:
    async def refused(folder: Path) -> str:
        signer = SpawnedSigner(task(folder))
        with pytest.raises(SignerError) as caught:
            await signer.start()
        return str(caught.value)

    async def scenario() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "signer.key").write_text("not a key")
        (tmp_path / "a" / "signer.key").chmod(0o600)
        assert "signer.key" in await refused(tmp_path / "a")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "signer-limits.toml").write_text("[default]\nlongest_days = 'many'\n")
        assert "longest_days" in await refused(tmp_path / "b")

    run(scenario())


def test_it_reads_nobody_else_s_keys_and_writes_nothing_others_may_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with spawned(tmp_path) as (_, client):
            status = await client.status()
            assert not status.isolated
            assert "same user" in status.why
            for name in ("signer.key", "signer-limits.toml", "signer.sock"):
                assert (tmp_path / name).stat().st_mode & 0o077 == 0, name

    run(scenario())


def test_garbage_ends_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with spawned(tmp_path) as (signer, client):
            _, der = await root(client, NOW)
            for garbage in (
                b"\xff" * 64,
                b"\x00\x00\x00\x05hello",
                messages.framed(1, messages.Status())[:-1] + b"\xc1",
                b"GET / HTTP/1.1\r\n\r\n",
            ):
                with socket.socket(socket.AF_UNIX) as raw:
                    raw.connect(str(tmp_path / "signer.sock"))
                    raw.sendall(garbage)
                    raw.settimeout(5)
                    assert raw.recv(1) == b""
            # A frame that never ends is let be, until its sender goes.
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(tmp_path / "signer.sock"))
                raw.sendall(b"\x00\x00\xff\xff")
                assert await client.certificate("root", der, leaf(NOW))
            with pytest.raises(SigningRefused):
                await client.certificate("nobody", der, leaf(NOW))
            assert (await client.status()).pid == signer.pid

    run(scenario())


def test_many_requests_at_once_are_all_answered_rightly(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with spawned(tmp_path) as (_, client):
            _, der = await root(client, NOW)
            serials = [i.to_bytes(2, "big") for i in range(0x100, 0x300)]
            made = await asyncio.gather(
                *(client.certificate("root", der, leaf(NOW, serial=serial)) for serial in serials)
            )
            found = [x509.load_der_x509_certificate(one).serial_number for one in made]
            assert found == [int.from_bytes(serial, "big") for serial in serials]

    run(scenario())
