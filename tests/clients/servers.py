"""The servers that a session's client tests run against."""

from __future__ import annotations

from pathlib import Path

from tests.clients.checks import Obtained
from tests.clients.lab import Lab
from tests.clients.pebble import Pebble
from tests.clients.target import Target


class Servers:
    """The servers of a session, each started when a test first wants it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab, self._folder = lab, folder
        self._pebbles: dict[bool, Pebble] = {}

    def target(self, *, eab: bool = False, database: str = "sqlite") -> Target:
        if eab not in self._pebbles:
            self._pebbles[eab] = Pebble(self._lab, self._folder / f"pebble-{eab}", eab=eab)
        return self._pebbles[eab].target

    def assert_revoked(
        self, obtained: Obtained, *, reason: int | None = None, database: str = "sqlite"
    ) -> None:
        pass

    def close(self) -> None:
        for p in self._pebbles.values():
            p.stop()
