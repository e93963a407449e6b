"""The one source of time.

Every part that needs the time is handed a ``Clock``; SQL never asks for it. All times are UTC.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time since the Unix epoch, UTC."""

    def now(self) -> int:
        """Whole seconds."""
        ...

    def now_ms(self) -> int:
        """Whole milliseconds, for leases and event times."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        return int(time.time())

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to: for tests and simulations."""

    def __init__(self, start: int = 1_800_000_000) -> None:
        self._ms = start * 1000

    def now(self) -> int:
        return self._ms // 1000

    def now_ms(self) -> int:
        return self._ms

    def advance(self, seconds: float) -> None:
        """Move forward (or, with a negative number, back) by ``seconds``."""
        self._ms += int(seconds * 1000)
