"""An installation of its own for each test: a data directory, settings, opened rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from certloom.audit import Origin
from certloom.clock import Clock, SystemClock
from certloom.server.operations import perform
from certloom.server.rooms import Rooms, open_rooms
from certloom.settings import Settings
from certloom.settings.schema import Database, Listen, Logging
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

    def perform(self, operation: str, **arguments: Any) -> Any:
        """One operation, as the command line runs it where no server runs."""
        return self.within(lambda rooms: ask(rooms, operation, **arguments))


async def ask(rooms: Rooms, operation: str, /, **arguments: Any) -> Any:
    """One operation, its result as JSON would carry it."""
    result = await perform(rooms, operation, msgspec.json.encode(arguments), Origin("local:tester"))
    return msgspec.json.decode(msgspec.json.encode(result))


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
