"""The signer as this server has it: started by it, run beside it by somebody else, or in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import sys
from pathlib import Path

import msgspec
import structlog

from certloom.clock import Clock
from certloom.server.data_dir import DataDir
from certloom.settings import Settings
from certloom.signing import Signing
from certloom.signing.client import Client
from certloom.signing.process import SignerError, SignerTask, open_service

_log = structlog.get_logger("certloom.server")

_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_CALM_SECONDS = 30
"""A signer that has lived so long is started again without a pause."""
_READY_SECONDS = 60
_STOP_SECONDS = 5
SOCKET = "signer.sock"


def socket_path(settings: Settings, data_dir: DataDir) -> Path:
    """Where the signer listens."""
    return Path(settings.signer.socket).absolute() if settings.signer.socket else data_dir.path / SOCKET


def directory(settings: Settings, data_dir: DataDir) -> Path:
    """Where the signer's key and limits are."""
    return Path(settings.signer.directory).absolute() if settings.signer.directory else data_dir.path


def task(settings: Settings, data_dir: DataDir, *, server_user: int, mode: int = 0o600) -> SignerTask:
    """What a signer is started with."""
    return SignerTask(
        directory=str(directory(settings, data_dir)),
        socket=str(socket_path(settings, data_dir)),
        socket_mode=mode,
        server_users=(server_user,),
        secrets=settings.signer.secrets,
        logging=settings.logging,
        tokens=settings.signer.tokens,
    )


class SpawnedSigner:
    """A signer that this process starts, and starts again whenever it ends."""

    def __init__(self, task: SignerTask) -> None:
        self._task = task
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it and wait until it answers. Raises ``SignerError``."""
        await self._start()
        self._watching = asyncio.create_task(self._watch())

    async def _start(self) -> None:
        # In a session of its own: what a terminal tells this process is not for the signer, which goes last.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "certloom.signing.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(self._task) + b"\n")
        try:
            said = await asyncio.wait_for(process.stdout.readline(), _READY_SECONDS)
        except TimeoutError:
            said = b""
        if said != b"ready\n":
            await end(process)
            what = said.decode(errors="replace").strip().removeprefix("error ")
            raise SignerError(what or "the signer ended before it was ready")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            process, began = self._process, loop.time()
            assert process is not None
            code = await process.wait()
            if loop.time() - began > _CALM_SECONDS:
                failures = 0
            _log.error("signer.ended", code=code)
            while True:
                await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
                try:
                    await self._start()
                except (SignerError, OSError) as error:
                    _log.error("signer.not_started", error=str(error))
                else:
                    _log.info("signer.started", pid=self.pid)
                    break

    async def close(self) -> None:
        """End it."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._process is not None:
            await end(self._process)


async def end(process: asyncio.subprocess.Process) -> None:
    """End a signer: it ends when its standard input does, or else is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class SpawnedClient(Client):
    """Asks the signer that this process has started, and ends it."""

    def __init__(self, spawned: SpawnedSigner, socket: Path) -> None:
        super().__init__(socket)
        self.spawned = spawned

    async def close(self) -> None:
        await super().close()
        await self.spawned.close()


async def open_signing(settings: Settings, data_dir: DataDir, clock: Clock, *, serve: bool) -> Signing:
    """Whoever signs for this process. Raises ``SignerError``.

    A command that works without a server holds the keys itself, unless the signer is somebody else's.
    """
    mode = settings.signer.mode
    if mode == "external" or (settings.signer.user and os.geteuid() != 0):
        return Client(socket_path(settings, data_dir))
    own = task(settings, data_dir, server_user=os.geteuid())
    if mode == "in-process" or not serve:
        return (await asyncio.to_thread(open_service, own, clock))[0]
    spawned = SpawnedSigner(own)
    await spawned.start()
    return SpawnedClient(spawned, Path(own.socket))


def user_id(name: str) -> int:
    """Raises ``SignerError``."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise SignerError(f"there is no user {name!r}") from None
