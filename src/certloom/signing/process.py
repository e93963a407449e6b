"""The signer: a process that holds the keys, signs within its limits, and does nothing else.

It listens on a Unix socket, asks the kernel who is at the other end, and answers only the users it was
told of.
Its files (the key that seals records, the limits) are its user's alone. A signer that a server has started
ends
with it: its standard input is a pipe that nobody writes to, and whose end says that the server is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import structlog
import uvloop

from certloom import logs
from certloom.clock import Clock, SystemClock
from certloom.secrets import SecretError, load_key
from certloom.settings.key_sources import Secrets
from certloom.settings.schema import Logging
from certloom.settings.tokens import Token
from certloom.signing import messages
from certloom.signing.base import MadeKey, SigningRefused, SigningStatus, SigningUnavailable
from certloom.signing.limits import FileLimits, Limit, LimitsError, LimitsFile, render
from certloom.signing.service import Service
from certloom.signing.tokens import Tokens
from certloom.unix_sockets import ListenError, bind_unix, peer_user

_log = structlog.get_logger("certloom.signer")

KEY = "signer.key"
LIMITS = "signer-limits.toml"
_MOST_CONNECTIONS = 64
_PR_SET_DUMPABLE = 4
_READY = b"ready\n"


class SignerTask(msgspec.Struct, frozen=True, kw_only=True):
    """What a signer is started with."""

    directory: str
    """Where its key and its limits are."""
    socket: str
    socket_mode: int = 0o600
    server_users: tuple[int, ...]
    """User ids that may ask, beside its own and root."""
    secrets: Secrets = Secrets()
    logging: Logging = Logging()
    tokens: dict[str, Token] = {}


class SignerError(Exception):
    """The signer cannot begin; the message is for the operator."""


class Signer:
    """A service behind a socket."""

    def __init__(self, task: SignerTask, service: Service, limits: FileLimits) -> None:
        self._service = service
        self._limits = limits
        self._users = {os.geteuid(), 0, *task.server_users}
        self._connections: set[_Connection] = set()

    def connection(self) -> asyncio.Protocol:
        """What speaks on a new connection."""
        return _Connection(self)

    def admit(self, connection: _Connection, user: int) -> bool:
        """Whether this user may ask."""
        if user not in self._users or len(self._connections) >= _MOST_CONNECTIONS:
            _log.warning("signer.refused_connection", user=user)
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def close(self) -> None:
        for connection in tuple(self._connections):
            connection.end()

    async def answer(self, request: messages.Request, user: int) -> messages.Answer:
        """Do what is asked, or say why not."""
        try:
            return await self._answer(request, user)
        except SigningRefused as error:
            # A key that is not known yet is handed over next: every start is full of that.
            log = _log.debug if error.code == "unknown-key" else _log.warning
            log("signer.refused", what=type(request).__name__, code=error.code, why=str(error))
            return messages.Failed(True, error.code, str(error))
        except SigningUnavailable as error:
            _log.warning("signer.unavailable", what=type(request).__name__, code=error.code, why=str(error))
            return messages.Failed(False, error.code, str(error))
        except Exception:
            _log.exception("signer.failed", what=type(request).__name__)
            return messages.Failed(False, "signer-failed", "the signer's log tells why")

    async def _answer(self, request: messages.Request, user: int) -> messages.Answer:
        service = self._service
        match request:
            case messages.Certificate(key_id, issuer, template):
                return _octets(await service.certificate(key_id, issuer, template))
            case messages.Sign(key_id, data):
                return messages.Octets(tuple(await service.sign(key_id, data)))
            case messages.CRL(key_id, issuer, crl):
                return _octets(await service.crl(key_id, issuer, crl))
            case messages.CACertificate(key_id, issuer_or_none, ca):
                return _octets(await service.ca_certificate(key_id, issuer_or_none, ca))
            case messages.CSR(key_id, subject, is_ca):
                return _octets(await service.csr(key_id, subject, ca=is_ca))
            case messages.Decrypt(key_id, ciphertext, padding):
                return _octets(await service.decrypt(key_id, ciphertext, padding))
            case messages.Know(id, record):
                self._note(id, record)
                return messages.Octets(())
            case messages.Generate(id, purpose, authority, algorithm, token):
                return self._made(await service.generate(id, purpose, authority, algorithm, token), id)
            case messages.Adopt(id, purpose, authority, pkcs8):
                return self._made(await service.adopt(id, purpose, authority, pkcs8), id)
            case messages.Attach(id, purpose, authority, token):
                return self._made(await service.attach(id, purpose, authority, token), id)
            case messages.Status(server_user):
                whose = server_user if server_user is not None and user == 0 else user
                return messages.Told(self._status(await service.status(), whose))

    def _made(self, made: MadeKey, id: str) -> messages.Answer:
        self._note(id, made.record)
        return messages.Made(made)

    def _note(self, id: str, record: bytes) -> None:
        opened = self._service.take(id, record)
        # Not one that a server brought: it could go on answering with that after it was thrown out.
        if opened.purpose == "ocsp" and (opened.born or opened.token):
            self._limits.ocsp_keys.add((opened.authority, opened.spki))

    def _status(self, status: SigningStatus, user: int) -> SigningStatus:
        why = ""
        if user == os.geteuid():
            why = "it runs as the same user as the server, which could read its files"
        elif user == 0:
            why = "the server runs as root"
        return msgspec.structs.replace(status, isolated=not why, why=why)

    def quick(self, request: messages.Request) -> messages.Answer | None:
        """The answer where it takes no waiting: a certificate by a key that signs in microseconds."""
        if type(request) is not messages.Certificate:
            return None
        try:
            der = self._service.certificate_at_once(request.key_id, request.issuer, request.template)
        except (SigningRefused, SigningUnavailable):
            return None  # said by ``answer``, which meets it again
        return None if der is None else _octets(der)


def _octets(value: bytes) -> messages.Octets:
    return messages.Octets((value,))


class _Connection(asyncio.Protocol):
    """One server."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._frames = messages.Frames()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None
        self._user = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._user = peer_user(transport.get_extra_info("socket"))
        self._transport = cast(asyncio.Transport, transport)
        if not self._signer.admit(self, self._user):
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._signer.leave(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                number, request = messages.decode_request(frame)
                answer = self._signer.quick(request)
                if answer is not None:
                    self._send(number, answer)
                else:
                    task = asyncio.ensure_future(self._perform(number, request))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        except (ValueError, msgspec.DecodeError) as error:
            _log.warning("signer.bad_frame", user=self._user, error=str(error))
            self.end()

    async def _perform(self, number: int, request: messages.Request) -> None:
        self._send(number, await self._signer.answer(request, self._user))

    def _send(self, number: int, answer: messages.Answer) -> None:
        if self._transport is not None:
            self._transport.write(messages.framed(number, answer))

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def prepare(directory: Path, *, isolated: bool) -> None:
    """Make what a first start needs: the directory, and limits that let a fresh installation work.

    Isolated, no CA certificates are signed without a permit; otherwise limits would only be in the way of who
    could read the key as well. Raises ``SignerError``.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        limits = directory / LIMITS
        if not limits.exists():
            first = LimitsFile(default=Limit(ca_certificates="never" if isolated else "always"))
            partial = limits.with_name(f".{LIMITS}.{secrets.token_hex(4)}")
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(render(first))
                file.flush()
                os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(partial, limits)
            partial.unlink()
    except OSError as error:
        raise SignerError(f"cannot use {error.filename or directory}: {error.strerror}") from None


def guard_memory() -> None:
    """Keep the keys in this process's memory: no core dumps, and no debugger of its own user's."""
    import ctypes

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def open_service(task: SignerTask, clock: Clock) -> tuple[Service, FileLimits]:
    """The service of a signer. Raises ``SignerError``."""
    directory = Path(task.directory)
    prepare(directory, isolated=any(user != os.geteuid() for user in task.server_users))
    try:
        key = load_key(task.secrets, directory / KEY)
        limits = FileLimits(directory / LIMITS, clock)
    except (SecretError, LimitsError) as error:
        raise SignerError(str(error)) from error
    tokens = Tokens(task.tokens, directory, key) if task.tokens else None
    return Service(key, clock, limits=limits, tokens=tokens, not_isolated=""), limits


def _inode(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


async def run(task: SignerTask, clock: Clock, ready: Callable[[], None], lifeline: int | None = None) -> None:
    """Serve until told to stop, or until ``lifeline`` (a pipe's descriptor) ends. Raises ``SignerError``."""
    path = Path(task.socket)
    try:
        sock = bind_unix(path, task.socket_mode)
    except ListenError as error:
        raise SignerError(str(error)) from None
    guard_memory()  # after the socket: its path may lead through /proc/self, which is then root's
    service, limits = open_service(task, clock)
    signer = Signer(task, service, limits)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)
    server = await loop.create_unix_server(signer.connection, sock=sock)
    here = _inode(path)
    ready()
    await stop.wait()
    server.close()
    signer.close()
    await service.close()
    if _inode(path) == here:  # not that of a signer that came after
        os.unlink(path)


def main() -> None:
    """As a server starts it: the task comes as a line of JSON on standard input, which then stays open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server stops in its own time, then this
    line = sys.stdin.buffer.readline()
    task = msgspec.json.decode(line, type=SignerTask)
    logs.configure(task.logging)

    def ready() -> None:
        os.write(1, _READY)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run(task, SystemClock(), ready, lifeline=0))
        except SignerError as error:
            os.write(1, f"error {error}\n".encode())
            sys.exit(1)


if __name__ == "__main__":
    main()
