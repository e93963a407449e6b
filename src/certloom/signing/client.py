"""``Signing`` by the signer, a process of its own, over its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import msgspec

from certloom.pki.crl import CRLTemplate
from certloom.pki.names import Name
from certloom.pki.template import CATemplate, CertificateTemplate
from certloom.signing import messages
from certloom.signing.base import (
    LOST,
    MadeKey,
    Purpose,
    SigningRefused,
    SigningStatus,
    SigningUnavailable,
)
from certloom.unix_sockets import connect_unix

_PATIENCE = 10.0
_PAUSES = (0.02, 0.05, 0.1, 0.2)
_ANSWER_SECONDS = 120.0
"""A signer that is there and does not answer for so long is given up; tokens have shorter limits of their
own."""


class _Connection(asyncio.Protocol):
    """One connection and what waits for answers on it."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[messages.Answer]] = {}
        self.over = False
        self._frames = messages.Frames()
        self._transport: asyncio.Transport | None = None
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                number, answer = messages.decode_answer(frame)
                future = self.waiting.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(answer)
        except (ValueError, msgspec.DecodeError):
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.over = True
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(SigningUnavailable(LOST, "the signer went away"))
        self.waiting.clear()

    def send(self, request: messages.Request) -> asyncio.Future[messages.Answer]:
        assert self._transport is not None
        self._number = number = self._number + 1
        future: asyncio.Future[messages.Answer] = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        self._transport.write(messages.framed(number, request))
        return future

    def close(self) -> None:
        self.over = True
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Asks the signer. Connects when first asked, and again whenever it went away."""

    def __init__(self, socket: Path, *, patience: float = _PATIENCE) -> None:
        """``patience``: seconds that a request waits for a signer that is not there (it is being started)."""
        self._socket = socket
        self._patience = patience
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._records: dict[str, bytes] = {}
        self._closed = False

    # -- keys --------------------------------------------------------------------------------------------

    async def generate(
        self, id: str, purpose: Purpose, authority: str, algorithm: str, token: str | None = None
    ) -> MadeKey:
        return await self._made(id, messages.Generate(id, purpose, authority, algorithm, token))

    async def adopt(self, id: str, purpose: Purpose, authority: str, pkcs8: bytes) -> MadeKey:
        return await self._made(id, messages.Adopt(id, purpose, authority, pkcs8))

    async def attach(self, id: str, purpose: Purpose, authority: str, token: str) -> MadeKey:
        return await self._made(id, messages.Attach(id, purpose, authority, token))

    def know(self, id: str, record: bytes) -> None:
        self._records[id] = record

    async def _made(self, id: str, request: messages.Request) -> MadeKey:
        answer = await self._ask(request)
        assert isinstance(answer, messages.Made)
        self._records[id] = answer.key.record
        return answer.key

    # -- signing -----------------------------------------------------------------------------------------

    async def certificate(self, key_id: str, issuer: bytes, template: CertificateTemplate) -> bytes:
        return await self._one(key_id, messages.Certificate(key_id, issuer, template), again=False)

    async def ca_certificate(self, key_id: str, issuer: bytes | None, template: CATemplate) -> bytes:
        return await self._one(key_id, messages.CACertificate(key_id, issuer, template), again=False)

    async def csr(self, key_id: str, subject: Name, *, ca: bool) -> bytes:
        return await self._one(key_id, messages.CSR(key_id, subject, ca))

    async def crl(self, key_id: str, issuer: bytes, template: CRLTemplate) -> bytes:
        return await self._one(key_id, messages.CRL(key_id, issuer, template))

    async def sign(self, key_id: str, data: Sequence[bytes]) -> list[bytes]:
        return list(await self._octets(key_id, messages.Sign(key_id, tuple(data))))

    async def decrypt(
        self, key_id: str, ciphertext: bytes, padding: Literal["pkcs1", "oaep-sha1", "oaep-sha256"]
    ) -> bytes:
        return await self._one(key_id, messages.Decrypt(key_id, ciphertext, padding))

    async def status(self, server_user: int | None = None) -> SigningStatus:
        """``server_user``: whether it is isolated from that user, where root asks."""
        answer = await self._ask(messages.Status(server_user))
        assert isinstance(answer, messages.Told)
        return answer.status

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()

    async def _one(self, key_id: str, request: messages.Request, *, again: bool = True) -> bytes:
        (value,) = await self._octets(key_id, request, again=again)
        return value

    async def _octets(
        self, key_id: str, request: messages.Request, *, again: bool = True
    ) -> tuple[bytes, ...]:
        """``again``: whether a signer that went away in the middle is asked a second time."""
        try:
            answer = await self._with_key(key_id, request)
        except SigningUnavailable as error:
            if error.code != LOST or not again:
                raise
            answer = await self._with_key(key_id, request)
        assert isinstance(answer, messages.Octets)
        return answer.values

    async def _with_key(self, key_id: str, request: messages.Request) -> messages.Answer:
        """Ask; hand the key's record over if the signer (a new one, perhaps) does not know it."""
        try:
            return await self._ask(request)
        except SigningRefused as error:
            record = self._records.get(key_id)
            if error.code != "unknown-key" or record is None:
                raise
        await self._ask(messages.Know(key_id, record))
        return await self._ask(request)

    async def _ask(self, request: messages.Request) -> messages.Answer:
        connection = self._connection
        if connection is None or connection.over:
            connection = await self._connected()
        future = connection.send(request)
        timer = asyncio.get_running_loop().call_later(_ANSWER_SECONDS, connection.close)
        try:
            answer = await future
        finally:
            timer.cancel()
        if isinstance(answer, messages.Failed):
            raise (SigningRefused if answer.refused else SigningUnavailable)(answer.code, answer.message)
        return answer

    async def _connected(self) -> _Connection:
        if self._closed:
            raise SigningUnavailable("signer-unreachable", "this server is stopping")
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        if self._connection is not None:
            # A process that is killed lets go of its connections before it lets go of its socket: whoever
            # connects again at once may be taken on by the dead.
            await asyncio.sleep(_PAUSES[1])
        pauses = iter(_PAUSES)
        pause = 0.0
        while True:
            try:
                sock = connect_unix(self._socket)
                sock.setblocking(False)
                _, connection = await loop.create_unix_connection(_Connection, sock=sock)
            except OSError as error:
                pause = next(pauses, pause)
                if loop.time() + pause > until:
                    raise SigningUnavailable(
                        "signer-unreachable",
                        f"the signer does not answer at {self._socket}: {error.strerror}",
                    ) from None
                await asyncio.sleep(pause)
            else:
                self._connection = connection
                return connection
