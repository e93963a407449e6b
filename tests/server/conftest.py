"""An installation of its own for each test: a data directory, settings, opened rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from certloom.api.app import API
from certloom.clock import Clock, SystemClock
from certloom.identity.principals import local
from certloom.server.rooms import Rooms, open_rooms
from certloom.server.services import services
from certloom.settings import Settings
from certloom.settings.schema import Database, Listen, Logging
from tests.api.asking import ask as ask_api
from tests.server.listening import run

T = TypeVar("T")
LISTEN = Listen(https="127.0.0.1:0", http="127.0.0.1:0")


class Installation:
    """A data directory, and what is in it when it is opened."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def within(self, use: Callable[[Rooms], Awaitable[T]], clock: Clock | None = None) -> T:
        """Open the rooms, use them, close them."""

        async def main() -> T:
            rooms = await open_rooms(self.settings, clock or SystemClock())
            try:
                return await use(rooms)
            finally:
                await rooms.close()

        result: T = run(main())
        return result

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the API once, as the command line does where no server runs."""
        return self.within(lambda rooms: ask(rooms, method, path, body))


async def ask(rooms: Rooms, method: str, path: str, body: Any = None) -> Any:
    """What the API answers the local operator."""
    status, answer = await _asked(rooms, method, path, body)
    assert status < 300, answer
    return answer


async def refused(rooms: Rooms, method: str, path: str, body: Any = None) -> tuple[str, str]:
    """(code, detail) of the problem that the API answers with."""
    status, answer = await _asked(rooms, method, path, body)
    assert status >= 400, answer
    return answer["code"], answer["detail"]


async def _asked(rooms: Rooms, method: str, path: str, body: Any) -> tuple[int, Any]:
    reply = await ask_api(
        API(services(rooms)),
        method,
        f"/api/v1{path}",
        principal=local("tester"),
        headers={"content-type": "application/json"} if body is not None else {},
        body=b"" if body is None else msgspec.json.encode(body),
    )
    return reply.status, msgspec.json.decode(reply.body) if reply.body else None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=str(tmp_path / "data"),
        public_http_url="http://pki.test",
        listen=LISTEN,
        logging=Logging(level="error"),
    )


@pytest.fixture
def installation(settings: Settings) -> Installation:
    """On SQLite."""
    return Installation(settings)


@pytest.fixture
def either(settings: Settings, database_url: str) -> Installation:
    """Once on each kind of database."""
    return Installation(msgspec.structs.replace(settings, database=Database(url=database_url, connections=4)))
