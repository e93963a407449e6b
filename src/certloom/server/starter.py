"""``certloom serve`` as root: the server and the signer each as a user of its own, and nothing else done as
root.

This process opens no socket and reads no key. It makes the two directories that the two users need, starts
both programs, starts the signer again whenever it ends, hands signals on to the server, and ends with it. As
the signer's files belong to another user than the server's, a server that was taken over can read no key and
change no limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import stat
import sys
from pathlib import Path

import msgspec
import structlog

from certloom.server import signer
from certloom.server.data_dir import DataDir
from certloom.settings import Settings
from certloom.signing.process import SignerError, SignerTask

_log = structlog.get_logger("certloom.server")

_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)
_CALM_SECONDS = 30
_READY_SECONDS = 60
EXTERNAL = "CERTLOOM_STARTED_AS"
"""Set for the server that a starter has started: it must not start a signer, nor become somebody."""


class _User(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int


def _user(name: str) -> _User:
    """Raises ``SignerError``."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise SignerError(f"there is no user {name!r}") from None
    return _User(name, found.pw_uid, found.pw_gid)


def is_starter(settings: Settings) -> bool:
    """Whether this process is to start the two rather than to serve."""
    return os.geteuid() == 0 and bool(settings.user and settings.signer.user) and EXTERNAL not in os.environ


class Starter:
    """Runs server and signer, each as its user."""

    def __init__(self, settings: Settings, arguments: list[str]) -> None:
        """``arguments`` are those of the server's command line. Raises ``SignerError``."""
        self._server_user, self._signer_user = _user(settings.user), _user(settings.signer.user)
        if self._server_user.uid == self._signer_user.uid:
            raise SignerError("user and signer.user are the same: nothing would be kept apart")
        if 0 in (self._server_user.uid, self._signer_user.uid):
            raise SignerError("user and signer.user must not be root")
        if not (settings.signer.directory and settings.signer.socket):
            raise SignerError(
                "signer.user needs signer.directory and signer.socket, outside the data directory"
            )
        self._data_dir = DataDir(settings).path
        self._directory = Path(settings.signer.directory).absolute()
        self._task: SignerTask = signer.task(
            settings, DataDir(settings), server_user=self._server_user.uid, mode=0o660
        )
        self._arguments = arguments

    def prepare(self) -> None:
        """Make what the two need, with owners that keep them apart. Raises ``SignerError``."""
        server, holder = self._server_user, self._signer_user
        _own(self._data_dir, server.uid, server.gid, 0o700)
        _own(self._directory, holder.uid, holder.gid, 0o700)
        # The socket's directory: the signer makes the socket in it, the server's group may reach it.
        _own(Path(self._task.socket).parent, holder.uid, server.gid, 0o2750)

    async def run(self) -> int:
        """The server's exit status. Raises ``SignerError``."""
        loop = asyncio.get_running_loop()
        process = await self._start_signer()
        server = await asyncio.create_subprocess_exec(
            *self._arguments,
            user=self._server_user.uid,
            group=self._server_user.gid,
            extra_groups=[],
            env={**os.environ, EXTERNAL: self._server_user.name},
            start_new_session=True,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _tell, server, number)
        watching = asyncio.create_task(self._keep_signer(process))
        try:
            return await server.wait()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _start_signer(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "certloom.signing.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            user=self._signer_user.uid,
            group=self._signer_user.gid,
            # So that the socket, which takes its directory's group, can be given to it.
            extra_groups=[self._server_user.gid],
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(self._task) + b"\n")
        said = b""
        with contextlib.suppress(TimeoutError):
            said = await asyncio.wait_for(process.stdout.readline(), _READY_SECONDS)
        if said != b"ready\n":
            await signer.end(process)
            what = said.decode(errors="replace").strip().removeprefix("error ")
            raise SignerError(what or "the signer ended before it was ready")
        return process

    async def _keep_signer(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        failures, began = 0, loop.time()
        try:
            while True:
                code = await process.wait()
                failures = 0 if loop.time() - began > _CALM_SECONDS else failures
                _log.error("signer.ended", code=code)
                while True:
                    await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                    failures, began = failures + 1, loop.time()
                    try:
                        process = await self._start_signer()
                        break
                    except (SignerError, OSError) as error:
                        _log.error("signer.not_started", error=str(error))
                _log.info("signer.started", pid=process.pid)
        finally:
            await signer.end(process)


def _tell(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _own(path: Path, uid: int, gid: int, mode: int) -> None:
    """A directory of that owner and mode, made if it is not there. Raises ``SignerError``.

    One that is there and somebody else's is refused: root must not give away what it was pointed at by
    mistake.
    """
    try:
        made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            there = os.fstat(fd)
            if not made and there.st_uid not in (uid, 0):
                raise SignerError(f"{path} belongs to another user than {pwd.getpwuid(uid).pw_name}")
            if not made and there.st_uid == 0 and os.listdir(fd):
                raise SignerError(f"{path} is root's and not empty: give it to {pwd.getpwuid(uid).pw_name}")
            os.fchown(fd, uid, gid)
            if stat.S_IMODE(there.st_mode) != mode:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)
    except OSError as error:
        raise SignerError(f"cannot use {path}: {error.strerror}") from None
