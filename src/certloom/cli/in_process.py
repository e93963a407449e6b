"""The API asked within this process: where no server runs, the command opens the store itself.

The API is an ASGI application; here it is called without a socket. One event loop lives as long as the
command, so that an answer can be read piece by piece while the application goes on making it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from certloom import logs
from certloom.api.app import API
from certloom.cli.carriers import Reply, Unreachable
from certloom.clock import SystemClock
from certloom.secrets import SecretError
from certloom.server.admin import local_operator
from certloom.server.data_dir import DataDirError
from certloom.server.rooms import Rooms, open_rooms
from certloom.server.services import services
from certloom.settings import Settings, SettingsError
from certloom.settings.schema import Logging
from certloom.signing.process import SignerError
from certloom.store import StoreError

_PIECES = 8
"""How many pieces of an answer the application may be ahead of who reads it."""


class InProcess:
    """A carrier to an API of this process. Made when needed; raises ``Unreachable``."""

    def __init__(self, settings: Settings) -> None:
        logs.configure(Logging(level="error", format="text"))
        self._runner = asyncio.Runner()
        try:
            self._rooms: Rooms = self._runner.run(open_rooms(settings, SystemClock()))
        except (StoreError, DataDirError, SecretError, SettingsError, SignerError) as error:
            self._runner.close()
            raise Unreachable(str(error)) from None
        self._api = API(services(self._rooms))
        self._principal = local_operator(os.getuid())
        self._exchange: _Exchange | None = None

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Reply:
        """As ``Carrier.send``; nothing here can fall silent."""
        self._finish()
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": None,
            "certloom.base_url": "",
            "certloom.trace": secrets.token_hex(8),
            "certloom.principal": self._principal,
        }
        exchange = self._exchange = _Exchange(body)
        status, sent = self._runner.run(exchange.begin(self._api, scope))
        return Reply(status, sent, self._chunks(exchange))

    def _chunks(self, exchange: _Exchange) -> Iterator[bytes]:
        while (chunk := self._runner.run(exchange.next())) is not None:
            yield chunk

    def _finish(self) -> None:
        if self._exchange is not None:
            self._runner.run(self._exchange.end())
            self._exchange = None

    def close(self) -> None:
        self._finish()
        try:
            self._runner.run(self._rooms.close())
        finally:
            self._runner.close()


class _Exchange:
    """One call of the application, from the side of who asks."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._messages: asyncio.Queue[Any] = asyncio.Queue(_PIECES)
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None

    async def begin(self, api: API, scope: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer."""
        self._task = asyncio.create_task(self._call(api, scope))
        start = await self._messages.get()
        if start is None:
            raise Unreachable(f"the API gave no answer: {self._error}", sent=True)
        return start["status"], {name.decode(): value.decode("latin-1") for name, value in start["headers"]}

    async def _call(self, api: API, scope: dict[str, Any]) -> None:
        try:
            await api(scope, self._receive, self._messages.put)
        except Exception as error:
            self._error = error
        await self._messages.put(None)

    async def _receive(self) -> dict[str, Any]:
        if self._body is None:
            await asyncio.Event().wait()  # nobody hangs up
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def next(self) -> bytes | None:
        """The next piece of the body, or None at its end."""
        while (message := await self._messages.get()) is not None:
            if message.get("body"):
                body: bytes = message["body"]
                return body
        if self._error is not None:
            raise Unreachable(f"the answer broke off: {self._error}", sent=True)
        return None

    async def end(self) -> None:
        """Stop, however much of the answer was read."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
