"""``certloom serve`` by a clock that tests can move: what a file says is added to the machine's time.

Run as a program: ``serve_with_clock.py OFFSET_FILE SETTINGS``. The product itself has no such thing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from certloom import clock


class MovableClock:
    """The machine's clock, so many seconds ahead as the file says at the moment."""

    file: Path

    def _ahead(self) -> int:
        try:
            return int(self.file.read_text() or "0")
        except FileNotFoundError:
            return 0

    def now(self) -> int:
        """Whole seconds."""
        return int(time.time()) + self._ahead()

    def now_ms(self) -> int:
        """Whole milliseconds."""
        return time.time_ns() // 1_000_000 + self._ahead() * 1000


def main() -> None:
    MovableClock.file = Path(sys.argv[1])
    clock.SystemClock = MovableClock  # type: ignore[assignment,misc]  # before anything makes one

    from certloom.cli import main as command_line

    sys.argv = ["certloom", "serve", "-c", sys.argv[2]]
    command_line.main()


if __name__ == "__main__":
    main()
